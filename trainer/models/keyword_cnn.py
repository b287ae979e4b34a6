"""Separable convolutions over time and frequency: the DS-CNN of Zhang et al., Hello Edge, 2017, section 3.6.

The first convolution covers 10 frames of 4 bands; each stage behind it is a 3x3 convolution of every channel on its
own, then one across channels (Howard et al., MobileNets, 2017). Each is normalised and rectified. The mean over time
and frequency is classified. The paper's normalisation is over the batch.

Dimensions: B batch, T frames, F bands, C channels.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import norms, parts

# size: (channels, stages, strides of the first convolution, stride of the first stage); table 1 of the paper's appendix
SIZES: dict[str, tuple[int, int, tuple[int, int], int]] = {
  'S': (64, 4, (2, 2), 1),
  'M': (172, 4, (2, 1), 2),
  'L': (276, 5, (2, 1), 2),
}
_FIRST_KERNEL = 10, 4

FIELDS: dict[str, Field] = {
  'size': Field('S', 'channels, stages and strides', one_of(*SIZES), fixed=True),
  'channels': Field(0, 'of each convolution; 0: as many as the size has', at_least(0), fixed=True),
  'stages': Field(0, 'separable convolutions; 0: as many as the size has', at_least(0), fixed=True),
  'norm': Field(
    'group',
    'normalisation after each convolution; batch depends on the number of replicas',
    norms.rule('batch', 'sync_batch', 'group', 'layer'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the vector that is classified', fraction),
  **parts.REGULARIZER_FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Log-mel frames [B, T, F] -> convolution -> separable convolutions -> mean -> outputs [B, units].

  Raises:
    ConfigError: the inputs are not frames.
  """
  inputs = parts.inputs('keyword_cnn', input_spec, rank=2)
  channels, stages, strides, stage_stride = SIZES[fields.size]
  channels, stages = fields.channels or channels, fields.stages or stages
  penalty = parts.regularizer(fields)
  options = {'padding': 'same', 'use_bias': False}  # a bias before a normalisation is subtracted again by it
  x = keras.layers.Reshape((*inputs.shape[1:], 1), name='image')(inputs)
  x = keras.layers.Conv2D(channels, _FIRST_KERNEL, strides, kernel_regularizer=penalty, name='first', **options)(x)
  x = _rectified(fields, x, 'first')
  for i in range(1, stages + 1):
    stride = stage_stride if i == 1 else 1
    x = keras.layers.DepthwiseConv2D(3, stride, depthwise_regularizer=penalty, name=f'stage{i}_each', **options)(x)
    x = _rectified(fields, x, f'stage{i}_each')
    x = keras.layers.Conv2D(channels, 1, kernel_regularizer=penalty, name=f'stage{i}_across', **options)(x)
    x = _rectified(fields, x, f'stage{i}_across')
  x = keras.layers.GlobalAveragePooling2D(name='vector')(x)
  if fields.dropout:
    x = keras.layers.Dropout(fields.dropout, name='vector_dropout')(x)
  return keras.Model(inputs, parts.head(units, kernel_regularizer=penalty)(x), name='keyword_cnn')


def _rectified(fields: Any, x: Any, name: str) -> Any:
  """Normalised, and what is below 0 made 0."""
  norm = norms.layer(fields.norm, x.shape[-1], f'{name}_norm')
  return keras.layers.Activation('relu', name=f'{name}_relu')(norm(x) if norm else x)
