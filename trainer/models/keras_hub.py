"""Any backbone of KerasHub, by class with its arguments or by preset, with a linear layer on a summary of its features.

KerasHub is not needed for anything else, and is imported only where a model of it is built. Inputs are images as the
task gives them, or token ids of which 0 is padding: bytes of a text, for which `arguments` sets a vocabulary_size of
257. What a preset was trained on is the preset's: its tokens are those of its own tokenizer. XLA has no deterministic
gradient of the maximum pooling in some of the networks for images (DenseNet, VGG): leave XLA off, or set
deterministic=False.

Dimensions: B batch, T tokens, D features.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, nearest
from trainer.models import own, parts

FIELDS: dict[str, Field] = {
  'backbone': Field('', "class of keras_hub.models, as in 'BertBackbone'; empty: that of the preset", fixed=True),
  'preset': Field(
    '', 'directory of a preset, or a name that is downloaded; empty: the backbone with its arguments', fixed=True
  ),
  'arguments': Field(
    '',
    'keyword arguments of the backbone as JSON, e.g. \'{"num_layers": 2}\'; those of a preset stand in its directory',
    own.check_arguments,
    fixed=True,
  ),
  'weights': Field(True, 'train from the weights of the preset; False: from random ones'),
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, height, width, C], or integers [B, T] -> backbone -> mean or pooled features -> outputs.

  Raises:
    ConfigError: KerasHub is not installed, has no such backbone or preset, or refuses its arguments; or the backbone
      takes other inputs.
  """
  inputs = parts.inputs('keras_hub', input_spec)
  is_text = len(inputs.shape) == 2 and not input_spec.dtype.is_floating
  if not is_text and len(inputs.shape) != 4:
    raise ConfigError(
      f"model.name='keras_hub' takes images or whole numbers, not {tuple(inputs.shape[1:])}: take model.name='mlp'"
    )
  with own.numbered_anew():
    backbone = _backbone(fields, None if is_text else tuple(inputs.shape[1:]))
  taken, mask = sorted(backbone.input) if isinstance(backbone.input, dict) else [], None
  if is_text:
    if 'token_ids' not in taken:
      raise ConfigError(f'{_named(fields)} does not take token ids: choose another, or another task')
    given = Tokens(taken, name='tokens')(inputs)
    mask = given.get('padding_mask')
  elif taken:
    raise ConfigError(f'{_named(fields)} takes {", ".join(taken)}, not images: choose another, or another task')
  else:
    given = inputs
  x = _vector(backbone(given), mask)
  return keras.Model(inputs, parts.head(units)(x), name='keras_hub')


def _vector(features: Any, mask: Any) -> Any:
  """[B, D] out of what a backbone gives: its own pooled features, else the mean over places that are not padding."""
  if isinstance(features, dict):
    pooled = features.get('pooled_output')
    if pooled is not None:
      return pooled
    features = features['sequence_output']
  if len(features.shape) == 4:
    return keras.layers.GlobalAveragePooling2D(name='vector')(features)
  if len(features.shape) == 3 and mask is not None:
    return parts.MaskedMean(name='vector')([features, mask])
  if len(features.shape) == 3:
    return keras.layers.GlobalAveragePooling1D(name='vector')(features)
  return features


def _backbone(fields: Any, image_shape: tuple[int, ...] | None) -> keras.Model:
  try:
    import keras_hub
  except ImportError as error:
    raise ConfigError(
      "model.name='keras_hub' needs KerasHub, which is not installed: `pip install keras-hub`"
    ) from error
  if bool(fields.backbone) == bool(fields.preset):
    raise ConfigError('set one of model.backbone (a class of keras_hub.models) and model.preset')
  arguments = json.loads(fields.arguments or '{}')
  if fields.preset:
    if arguments:
      raise ConfigError('model.arguments are for model.backbone: those of a preset stand in its directory')
    make: Any = keras_hub.models.Backbone.from_preset
    arguments = {'preset': fields.preset, 'load_weights': fields.weights}
  else:
    known = [name for name in dir(keras_hub.models) if name.endswith('Backbone')]
    if fields.backbone not in known:
      raise ConfigError(
        f'model.backbone={fields.backbone!r} is not in keras_hub.models{nearest(fields.backbone, known)}'
      )
    make = getattr(keras_hub.models, fields.backbone)
  if image_shape:
    arguments.setdefault('image_shape', image_shape)
  try:
    backbone = make(**arguments)
  # Whatever a class of KerasHub, a download or a file raises is about what the config asks for.
  except Exception as error:
    raise ConfigError(f'{_named(fields)} cannot be made: {" ".join(str(error).split())[:300]}') from error
  backbone.name = 'backbone'
  own.refuse_shared_names(_named(fields), backbone)
  return backbone


def _named(fields: Any) -> str:
  return f'model.preset={fields.preset!r}' if fields.preset else f'model.backbone={fields.backbone!r}'


@keras.saving.register_keras_serializable('trainer')
class Tokens(keras.layers.Layer):
  """The inputs of a backbone for texts out of token ids, [B, T] each: the ids, which are no padding, and zeros."""

  def __init__(self, names: list[str], **kwargs: Any):
    """Args:
    names: inputs of the backbone; what is neither ids nor mask is 0, as the number of a segment.
    """
    super().__init__(**kwargs)
    self.names = list(names)

  def call(self, ids_BT: tf.Tensor) -> dict[str, tf.Tensor]:
    made = {'token_ids': ids_BT, 'padding_mask': ids_BT != 0}
    return {name: made.get(name, tf.zeros_like(ids_BT)) for name in self.names}

  def compute_output_shape(self, input_shape: Any) -> Any:
    return dict.fromkeys(self.names, input_shape)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'names': self.names}
