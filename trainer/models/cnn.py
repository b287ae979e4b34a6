"""Convolutional network for small images: stages of convolutions at one resolution, halved between the stages.

Without shortcuts it is built in the way of VGG (Simonyan and Zisserman, 2015, section 2.1), with `residual` in the way
of ResNet (He et al., 2016, section 3.3): a stage adds its input, projected by a 1x1 convolution where shapes differ.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import norms, parts

FIELDS: dict[str, Field] = {
  'channels': Field((32, 64), 'channels of each stage', parts.check_channels('stage'), fixed=True),
  'convs': Field(2, 'convolutions per stage', at_least(1), fixed=True),
  'kernel_size': Field(3, 'height and width of the kernels, in pixels', at_least(1), fixed=True),
  'residual': Field(False, "add each stage's input to its output", fixed=True),
  'norm': Field(
    'batch',
    'normalisation after each convolution; batch depends on the number of replicas',
    norms.rule('none', 'batch', 'sync_batch', 'group', 'layer'),
    fixed=True,
  ),
  'activation': Field('relu', 'a Keras activation', parts.check_activation, fixed=True),
  'pooling': Field(
    'max',
    'how the resolution is halved between stages: by pooling, or by a stride of the next convolution',
    one_of('max', 'average', 'stride'),
    fixed=True,
  ),
  'reduction': Field(
    'average',
    'from maps to a vector: the mean over the positions, or all of them',
    one_of('average', 'flatten'),
    fixed=True,
  ),
  'hidden': Field((), 'units of the dense layers before the outputs', parts.check_sizes, fixed=True),
  'dropout': Field(0.0, 'share dropped of the vector and after each dense layer', fraction),
  **parts.REGULARIZER_FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, height, width, channels] -> stages -> vector -> dense layers -> outputs.

  Raises:
    ConfigError: the inputs are not images, or too small to be halved that often.
  """
  x = inputs = parts.inputs('cnn', input_spec, rank=3)
  side, halvings = min(inputs.shape[1:3]), len(fields.channels) - 1
  if side < 2**halvings:
    raise ConfigError(
      f'model.channels={tuple(fields.channels)} halves the image {halvings} times, but it has only {side} pixels on a '
      f'side: name at most {side.bit_length()} stages'
    )
  for i, channels in enumerate(fields.channels, 1):
    x = _stage(fields, x, channels, halve=i > 1, name=f'stage{i}')
  reduce = keras.layers.GlobalAveragePooling2D if fields.reduction == 'average' else keras.layers.Flatten
  x = parts.dropout(fields, reduce(name='vector')(x), 'vector')
  for i, width in enumerate(fields.hidden, 1):
    x = keras.layers.Dense(width, kernel_regularizer=parts.regularizer(fields), name=f'hidden{i}')(x)
    x = keras.layers.Activation(fields.activation, name=f'hidden{i}_activation')(x)
    x = parts.dropout(fields, x, f'hidden{i}')
  outputs = parts.head(units, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='cnn')


def _stage(fields: Any, x: Any, channels: int, *, halve: bool, name: str) -> Any:
  """One stage: `convs` times convolution, normalisation and activation, at half the resolution if `halve`."""
  if halve and fields.pooling != 'stride':
    pool = parts.MaxPooling if fields.pooling == 'max' else keras.layers.AveragePooling2D
    x = pool(2, name=f'{name}_pool')(x)
  strides = 2 if halve and fields.pooling == 'stride' else 1
  shortcut = x
  for j in range(1, fields.convs + 1):
    x = _convolution(fields, x, channels, fields.kernel_size, strides if j == 1 else 1, f'{name}_conv{j}')
    if j < fields.convs or not fields.residual:
      x = keras.layers.Activation(fields.activation, name=f'{name}_conv{j}_activation')(x)
  if fields.residual:
    if tuple(shortcut.shape) != tuple(x.shape):
      shortcut = _convolution(fields, shortcut, channels, 1, strides, f'{name}_shortcut')
    x = keras.layers.Add(name=f'{name}_add')([x, shortcut])
    x = keras.layers.Activation(fields.activation, name=f'{name}_activation')(x)
  return x


def _convolution(fields: Any, x: Any, channels: int, kernel_size: int, strides: int, name: str) -> Any:
  norm = norms.layer(fields.norm, channels, f'{name}_norm')
  x = keras.layers.Conv2D(
    channels,
    kernel_size,
    strides,
    padding='same',
    # A bias before a normalisation is subtracted again by it.
    use_bias=norm is None,
    kernel_regularizer=parts.regularizer(fields),
    name=name,
  )(x)
  return norm(x) if norm else x
