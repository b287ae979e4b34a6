"""U-Net, outputs for each pixel: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
2015.

Sizes are those of figure 1. Convolutions pad their input with zeros, so that the outputs have the size of the image,
where the paper lets each convolution shrink it; and they are normalised, which the paper's are not.

Dimensions: B batch, H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import norms, parts

FIELDS: dict[str, Field] = {
  'channels': Field(
    (64, 128, 256, 512, 1024),
    'channels of each level, each of half the resolution',
    parts.check_channels('level'),
    fixed=True,
  ),
  'convs': Field(2, 'convolutions per level, on the way down and on the way up', at_least(1), fixed=True),
  'norm': Field(
    'group',
    'normalisation after each convolution; batch depends on the number of replicas',
    norms.rule('none', 'batch', 'sync_batch', 'group', 'layer'),
    fixed=True,
  ),
  'activation': Field('relu', 'a Keras activation', parts.check_activation, fixed=True),
  'up': Field(
    'transposed',
    'how the resolution doubles: a transposed convolution of 2x2, or pixels repeated before a convolution of 3x3',
    one_of('transposed', 'repeated'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped at the end of the way down', fraction),
  **parts.REGULARIZER_FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Images [B, H, W, C] -> down, halving -> up, each level beside what it was on the way down -> [B, H, W, units].

  Raises:
    ConfigError: the inputs are not images, or cannot be halved that often.
  """
  x = inputs = parts.inputs('unet', input_spec, rank=3)
  height, width = inputs.shape[1:3]
  divisor = 2 ** (len(fields.channels) - 1)
  if height % divisor or width % divisor:
    raise ConfigError(
      f'model.channels={tuple(fields.channels)} halves images {len(fields.channels) - 1} times, but {height} x {width} '
      f'pixels are no multiples of {divisor}: set task.image_size, or name fewer levels'
    )
  levels = []
  for i, channels in enumerate(fields.channels, 1):
    if i > 1:
      levels.append(x)
      x = parts.MaxPooling(2, 2, name=f'down{i}_pool')(x)
    x = _convolutions(fields, x, channels, f'down{i}')
  if fields.dropout:
    x = keras.layers.Dropout(fields.dropout, name='dropout')(x)
  for i, beside in reversed(list(enumerate(levels, 1))):
    channels = fields.channels[i - 1]
    x = keras.layers.Concatenate(name=f'up{i}_beside')([beside, _doubled(fields, x, channels, f'up{i}_double')])
    x = _convolutions(fields, x, channels, f'up{i}')
  outputs = parts.head(units, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='unet')


def _doubled(fields: Any, x: Any, channels: int, name: str) -> Any:
  """[B, H, W, C] -> [B, 2 H, 2 W, channels]."""
  options = {'padding': 'same', 'kernel_regularizer': parts.regularizer(fields), 'name': name}
  if fields.up == 'transposed':
    return keras.layers.Conv2DTranspose(channels, 2, 2, **options)(x)
  x = keras.layers.UpSampling2D(2, name=f'{name}_repeat')(x)
  return keras.layers.Conv2D(channels, 3, **options)(x)


def _convolutions(fields: Any, x: Any, channels: int, name: str) -> Any:
  """3x3 convolutions, each with normalisation and activation, [B, H, W, C] -> [B, H, W, channels]."""
  for i in range(1, fields.convs + 1):
    norm = norms.layer(fields.norm, channels, f'{name}_conv{i}_norm')
    x = keras.layers.Conv2D(
      channels,
      3,
      padding='same',
      # A bias before a normalisation is subtracted again by it.
      use_bias=norm is None,
      kernel_initializer=keras.initializers.HeNormal(),  # section 3
      kernel_regularizer=parts.regularizer(fields),
      name=f'{name}_conv{i}',
    )(x)
    x = keras.layers.Activation(fields.activation, name=f'{name}_conv{i}_activation')(norm(x) if norm else x)
  return x
