"""Object detection without anchors: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, 2019.

A residual network gives features of three resolutions, a pyramid (Lin et al., Feature Pyramid Networks for Object
Detection, 2017, section 3) makes them alike and adds coarser ones, and the same two small heads read each level: one
names the class, one says how far the sides of the box are and how near the place is to its middle (which helps more
beside the box than beside the class, as the authors' code found).

Level l has a place every 2^l pixels, in the middle of its square; ceil(H / 2^l) rows of them.

Dimensions: B batch, H height, W width, C channels, P places of all levels, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least
from trainer.models import norms, parts, resnet

# Beside the logits of the classes, in this order: logarithms of the distances to the left, upper, right and lower side
# of the box, in strides; logit of the centre-ness.
BOX_UNITS = 5
# The levels that the stages of the residual network give.
_FIRST, _LAST = 3, 5
# Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1: each class is thought so likely at first.
_PRIOR = 0.01


def _check_levels(levels: tuple[int, ...]) -> str:
  good = len(levels) == 2 and _FIRST <= levels[0] <= _LAST <= levels[1]
  return '' if good else f'must be (first, last), first from {_FIRST} to {_LAST} and last at least {_LAST}'


FIELDS: dict[str, Field] = {
  **{name: field for name, field in resnet.FIELDS.items() if name not in ('stem', 'norm')},
  'norm': Field(
    'group',
    'normalisation after each convolution of the residual network; batch depends on the number of replicas',
    norms.rule('batch', 'sync_batch', 'group', 'layer'),
    fixed=True,
  ),
  'levels': Field(
    (3, 7), 'first and last level of the pyramid; level l has a place every 2^l pixels', _check_levels, fixed=True
  ),
  'pyramid': Field(256, 'channels of the pyramid and of the heads', at_least(1), fixed=True),
  'head_convs': Field(4, 'convolutions of each head before the last, with group norm', at_least(1), fixed=True),
}  # fmt: skip


def grids(levels: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int, int]]:
  """(stride, rows, columns) of each level, for images of (height, width)."""
  strides = [2**level for level in range(levels[0], levels[1] + 1)]
  return [(stride, math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, H, W, C] -> residual network -> pyramid -> heads -> [B, P, units], K + 5 units, level after level.

  Raises:
    ConfigError: the inputs are not images of whole squares, or the units are none of a detector.
  """
  x = inputs = parts.inputs('detector', input_spec, rank=3)
  height, width = inputs.shape[1:3]
  if height % 2**_LAST or width % 2**_LAST:
    raise ConfigError(
      f"model.name='detector' takes images whose sides are multiples of {2**_LAST}, not {height} x {width} pixels: set "
      'task.image_size'
    )
  if units <= BOX_UNITS:
    raise ConfigError(f"model.name='detector' gives classes and boxes, not {units} outputs: take task.name='detection'")
  first, last = fields.levels
  stages = dict(zip(range(_FIRST - 1, _LAST + 1), resnet.stages(fields, x, small=False), strict=True))
  pyramid: dict[int, Any] = {}
  above = None
  for level in range(_LAST, first - 1, -1):
    x = _convolution(fields, stages[level], fields.pyramid, f'level{level}_lateral', kernel_size=1)
    if above is not None:
      above = keras.layers.UpSampling2D(2, name=f'level{level}_above')(above)
      x = keras.layers.Add(name=f'level{level}_add')([x, above])
    above = x
    pyramid[level] = _convolution(fields, x, fields.pyramid, f'level{level}')
  for level in range(_LAST + 1, last + 1):
    x = pyramid[level - 1]
    if level > _LAST + 1:
      x = keras.layers.Activation('relu', name=f'level{level}_activation')(x)
    pyramid[level] = _convolution(fields, x, fields.pyramid, f'level{level}', strides=2)
  outputs = _heads(fields, [pyramid[level] for level in range(first, last + 1)], units - BOX_UNITS, first)
  return keras.Model(inputs, outputs, name='detector')


def _heads(fields: Any, levels: list[Any], classes: int, first: int) -> Any:
  """[B, P, K + 5]: the same heads on each level, float32 in the end."""
  classify, locate = (_tower(fields, name) for name in ('class', 'box'))
  last = {'kernel_size': 3, 'padding': 'same', 'dtype': 'float32', 'kernel_initializer': _initializer()}
  class_last = keras.layers.Conv2D(
    classes, bias_initializer=keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR)), name='class', **last
  )
  box_last = keras.layers.Conv2D(4, name='box', **last)
  centre_last = keras.layers.Conv2D(1, name='centre', **last)
  found = []
  for level, x in enumerate(levels, first):
    named, located = x, x
    for layer in classify:
      named = layer(named)
    for layer in locate:
      located = layer(located)
    # Section 3.2 has a learnt factor per level before the exponential; here, where boxes are in strides, one behind it.
    box = Shift(dtype='float32', name=f'level{level}_size')(box_last(located))
    places = keras.layers.Concatenate(dtype='float32', name=f'level{level}_outputs')(
      [class_last(named), box, centre_last(located)]
    )
    found.append(keras.layers.Reshape((-1, classes + BOX_UNITS), dtype='float32', name=f'level{level}_places')(places))
  if len(found) == 1:
    return found[0]
  return keras.layers.Concatenate(axis=1, dtype='float32', name='head')(found)


def _tower(fields: Any, name: str) -> list[keras.layers.Layer]:
  """The layers of a head before its last."""
  layers: list[keras.layers.Layer] = []
  for i in range(1, fields.head_convs + 1):
    norm = norms.layer('group', fields.pyramid, f'{name}_conv{i}_norm')
    assert norm
    layers += [
      keras.layers.Conv2D(
        fields.pyramid,
        3,
        padding='same',
        use_bias=False,
        kernel_initializer=_initializer(),
        kernel_regularizer=parts.regularizer(fields),
        name=f'{name}_conv{i}',
      ),
      norm,
      keras.layers.Activation('relu', name=f'{name}_conv{i}_activation'),
    ]
  return layers


def _convolution(fields: Any, x: Any, channels: int, name: str, *, kernel_size: int = 3, strides: int = 1) -> Any:
  """A convolution of the pyramid, without normalisation, [B, H, W, C] -> [B, ceil(H / strides), ..., channels]."""
  return keras.layers.Conv2D(
    channels, kernel_size, strides, padding='same', kernel_regularizer=parts.regularizer(fields), name=name
  )(x)


def _initializer() -> keras.initializers.Initializer:
  return keras.initializers.RandomNormal(stddev=0.01)  # Lin et al., 2017, section 4.1


@keras.saving.register_keras_serializable('trainer')
class Shift(keras.layers.Layer):
  """Adds one learnt number. The exponential of what comes out is so times a learnt factor."""

  def build(self, input_shape: Any) -> None:
    self.shift = self.add_weight(name='shift', shape=(), initializer='zeros')

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return inputs + self.shift

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape
