"""Any network of keras.applications by name, from scratch or from given weights.

The table is what the installed Keras has. Inputs are images of three channels as a task gives them with
task.normalize='scale' (the default for integer images): black is 0 and white is 1. What the network expects instead
(other ranges, other means, blue before red) is the first layer here, and so is saved and exported with the model.

Keras numbers the layers that its networks leave unnamed through the whole process, and computes the last layer in the
policy's dtype. Here each network is copied layer by layer: numbers count within the model, and the last layer computes
in float32. Batch normalisation depends on the number of replicas, as it does everywhere.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, named
from trainer.models import parts

IMAGENET = 'imagenet'
_WHITE = 255.0  # what keras.applications take white to be


@functools.cache
def table() -> dict[str, Callable[..., keras.Model]]:
  """The networks by lower-case name: the functions of keras.applications that build a classifier."""
  found = inspect.getmembers(keras.applications, inspect.isfunction)
  return {name.lower(): function for name, function in found if 'classes' in inspect.signature(function).parameters}


def _check_weights(path: str) -> str:
  if path in ('', IMAGENET):
    return ''
  if not path.endswith('.weights.h5'):
    return f"must be the path of a .weights.h5 file, '{IMAGENET}', or empty"
  return '' if os.path.isfile(path) else f'is not there: give the path of a file, or {IMAGENET!r}, which is downloaded'


FIELDS: dict[str, Field] = {
  'application': Field(
    'resnet50', 'name of a network of keras.applications', named('in keras.applications', table()), fixed=True
  ),
  'weights': Field(
    '',
    'where training starts: a .weights.h5 file of the network, with or without its last layers; '
    "'imagenet': Keras' own, downloaded; empty: random",
    _check_weights,
  ),
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, height, width, 3] in [0, 1] -> what the network expects -> the network -> outputs.

  Raises:
    ConfigError: the inputs are not images of three channels, or too small for the network; the weights cannot be
      downloaded, or are of another network.
  """
  inputs = parts.inputs('applications', input_spec, rank=3)
  shape = tuple(inputs.shape[1:])
  if shape[-1] != 3:
    raise ConfigError(
      f"model.name='applications' takes images of 3 channels, not {shape[-1]}: take model.name='resnet' or 'cnn'"
    )
  # In float32: at 255, bfloat16 tells only every second brightness from the next.
  x = Preprocessing(fields.application, dtype='float32', name='preprocessing')(inputs)
  model = _copy(_make(fields.application, shape, input_tensor=x, classes=units))
  if fields.weights:
    _load(model, fields.application, fields.weights, shape, units)
  return model


@keras.saving.register_keras_serializable('trainer')
class Preprocessing(keras.layers.Layer):
  """Images in [0, 1], as the network of that name expects them: Keras' own `preprocess_input` of that network."""

  def __init__(self, application: str, **kwargs: Any):
    super().__init__(**kwargs)
    self.application = application

  def call(self, images: tf.Tensor) -> tf.Tensor:
    """[B, height, width, 3] -> the same shape."""
    return sys.modules[table()[self.application].__module__].preprocess_input(images * _WHITE)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'application': self.application}


@keras.saving.register_keras_serializable('trainer')
class LayerScale(keras.layers.Layer):
  """ConvNeXt's scale per channel (Touvron et al., CaiT, 2021, section 2); in Keras' own the variable has no name."""

  def __init__(self, init_values: float, projection_dim: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.init_values, self.projection_dim = init_values, projection_dim

  def build(self, input_shape: Any) -> None:
    del input_shape
    initializer = keras.initializers.Constant(self.init_values)
    self.gamma = self.add_weight(name='gamma', shape=(self.projection_dim,), initializer=initializer)

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """[B, height, width, C] -> the same shape."""
    return x * self.gamma

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'init_values': self.init_values, 'projection_dim': self.projection_dim}


def _make(name: str, shape: tuple[int, ...], **arguments: Any) -> keras.Model:
  """The network as Keras makes it, its outputs raw.

  Raises:
    ConfigError: Keras refuses the image's size.
  """
  given = {'weights': None, 'classifier_activation': None, **arguments}
  try:
    return table()[name](input_shape=shape, **given)
  except ValueError as error:
    raise ConfigError(
      f'model.application={name!r} does not take images of {shape[0]} x {shape[1]} pixels: '
      f'{str(error).splitlines()[0]}: set task.image_size'
    ) from error


def _copy(made: keras.Model) -> keras.Model:
  """The same network with new layers, whose names and dtypes are as the head of this file says."""
  names = _names(made)
  with_weights = [i for i, layer in enumerate(made.layers) if layer.weights]
  last = {layer.name for layer in made.layers[with_weights[-1] :]}

  def copy(layer: Any) -> Any:
    if not isinstance(layer, keras.layers.Layer):
      return layer  # a sum and the like, which has neither variables nor a dtype
    settings = {**layer.get_config(), 'name': names[layer.name]}
    if layer.name in last:
      settings['dtype'] = 'float32'
    kind: Any = {'MaxPooling2D': parts.MaxPooling, 'LayerScale': LayerScale}.get(type(layer).__name__, type(layer))
    return kind.from_config(settings)

  copied = keras.models.clone_model(made, clone_function=copy)
  return keras.Model(copied.inputs[0], copied.outputs[0], name='applications')


def _names(model: keras.Model) -> dict[str, str]:
  """What the layers of a network are called here: the numbers that Keras gives count within the model."""
  names: dict[str, str] = {}
  counts: dict[str, int] = {}
  for layer in model.layers:
    base = re.sub(r'_\d+$', '', layer.name)
    names[layer.name] = layer.name
    if base.replace('_', '') == type(layer).__name__.lower():  # Keras' own name, not the network's
      counts[base] = counts.get(base, 0) + 1
      names[layer.name] = f'{base}_{counts[base]}'
  return names


def _load(model: keras.Model, name: str, weights: str, shape: tuple[int, ...], units: int) -> None:
  """Gives `model` the weights of a file, or Keras' own; its last layers stay random where those are of other classes.

  Raises:
    ConfigError: they cannot be had, or fit the network neither with nor without its last layers.
  """
  problem = ''
  for top in ({'include_top': True, 'classes': units}, {'include_top': False}):
    if weights == IMAGENET and top['include_top'] and units != 1000:
      continue
    try:
      if weights == IMAGENET:
        source = table()[name](weights=IMAGENET, input_shape=shape, **top)
      else:
        source = _make(name, shape, **top)
        source.load_weights(weights)
    except (ValueError, KeyError) as error:  # other shapes
      problem = problem or ' '.join(str(error).split())[:200]
    except Exception as error:
      # Keras raises a bare Exception for a download that fails, and h5py its own for a file that is none.
      fix = 'download it where there is a network, and give its path' if weights == IMAGENET else 'give another file'
      raise ConfigError(f'model.weights={weights!r} cannot be had ({" ".join(str(error).split())}): {fix}') from error
    else:
      names = _names(source)
      for layer in source.layers:
        if layer.weights:
          model.get_layer(names[layer.name]).set_weights(layer.get_weights())
      return
  raise ConfigError(
    f'model.weights={weights!r} does not fit model.application={name!r} ({problem}): give a file of that network; '
    f'if its classes are not {units}, save it with include_top=False'
  )
