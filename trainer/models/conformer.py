"""Conformer: Gulati et al., Conformer: Convolution-augmented Transformer for Speech Recognition, 2020.

The encoder of the paper: convolutions that take every fourth frame, then blocks of half a feed-forward module,
self-attention with relative positions (Dai et al., Transformer-XL, 2019, section 3.3), a convolution module and the
other half. The convolution module is normalised over channels rather than over the batch, unless `norm` says otherwise.
Outputs are per frame, for a loss over sequences, or one vector.

What lies behind the end of a recording is kept out of attention, convolutions and mean, so that a recording has the
same outputs however far it is filled up (to a multiple of `subsampling` frames).

Dimensions: B batch, T frames, F numbers of a frame, S frames of the blocks, D model width, N heads, K width of a head,
P = 2 S - 1 distances.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import norms, parts
from trainer.models.attention import Attention

# size: (blocks, model width, heads), table 1. The paper's have 10.3, 30.7 and 118.8 million parameters, with decoders;
# these are the encoders, of 8.7, 27.3 and 115.1 million with 80 bands and 30 outputs.
SIZES: dict[str, tuple[int, int, int]] = {
  'S': (16, 144, 4),
  'M': (16, 256, 4),
  'L': (17, 512, 8),
}
_EXPANSION = 4

FIELDS: dict[str, Field] = {
  'size': Field('S', 'blocks, width and heads', one_of(*SIZES), fixed=True),
  'blocks': Field(0, 'blocks; 0: as many as the size has', at_least(0), fixed=True),
  'width': Field(0, 'width of a frame; 0: that of the size', at_least(0), fixed=True),
  'heads': Field(0, 'attention heads, which share the width; 0: as many as the size has', at_least(0), fixed=True),
  'kernel_size': Field(32, 'frames that the convolution of a block covers', at_least(1), fixed=True),
  'subsampling': Field(4, 'frames that become one before the blocks: 1, 2, 4, 8', at_least(1), fixed=True),
  'norm': Field(
    'layer',
    'normalisation in the convolution modules; batch, as in the paper, depends on the number of replicas',
    norms.rule('batch', 'sync_batch', 'layer'),
    fixed=True,
  ),
  'summary': Field(
    'none',
    'none: outputs for each frame, as a loss over sequences needs them; mean: over the frames, as a class needs it',
    one_of('none', 'mean'),
    fixed=True,
  ),
  'dropout': Field(0.1, 'share dropped behind each module, and of the frames before the blocks', fraction),
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Frames [B, T, F], or such 'frames' and their 'length' [B] -> outputs [B, S, units], or [B, units] of their mean.

  Raises:
    ConfigError: the inputs are not frames, or width, heads or subsampling do not fit.
  """
  blocks, width, heads = (
    given or size for given, size in zip((fields.blocks, fields.width, fields.heads), SIZES[fields.size], strict=True)
  )
  if width % (2 * heads):
    raise ConfigError(
      f'model.width={width} is not an even number of times model.heads={heads}: change model.heads or model.width'
    )
  halvings = fields.subsampling.bit_length() - 1
  if fields.subsampling != 2**halvings:
    raise ConfigError(f'model.subsampling={fields.subsampling} is not a power of two: take 1, 2, 4 or 8')
  inputs, frames, length = _inputs(input_spec)
  x, mask = _subsampled(fields, frames, length, width, halvings)
  x = keras.layers.Dense(width, name='subsampling_dense')(x)
  x = parts.dropout(fields, x, 'subsampling')
  for i in range(1, blocks + 1):
    x = _half(fields, x, width, f'block{i}_first')
    x = _attention(fields, x, mask, width, heads, f'block{i}_attention')
    x = _convolution(fields, x, mask, width, f'block{i}_conv')
    x = _half(fields, x, width, f'block{i}_second')
    x = keras.layers.LayerNormalization(name=f'block{i}_norm')(x)
  if fields.summary == 'mean':
    x = keras.layers.GlobalAveragePooling1D(name='vector')(x, mask=mask)
  return keras.Model(inputs, parts.head(units)(x), name='conformer')


def _inputs(spec: Any) -> tuple[Any, keras.KerasTensor, keras.KerasTensor | None]:
  """The model's inputs, frames [B, T, F] and length [B]; no length if all frames are heard."""
  if not (isinstance(spec, dict) and spec.keys() == {'frames', 'length'}):
    frames = parts.inputs('conformer', spec, rank=2)
    return frames, frames, None
  shape = tuple(spec['frames'].shape)
  inputs = {
    'frames': keras.Input(shape=shape, dtype='float32', name='frames'),
    'length': keras.Input(shape=(), dtype='int32', name='length'),
  }
  return inputs, inputs['frames'], inputs['length']


def _subsampled(fields: Any, x: Any, length: Any, width: int, halvings: int) -> tuple[Any, Any]:
  """[B, T, F] -> [B, S, numbers], by convolutions over time and frequency; and which of them are heard, [B, S]."""
  mask = None
  if length is not None:
    mask = Heard(1, x.shape[1], name='heard')(length)
    x = Blank(name='heard_frames')(x, heard=mask)
  if halvings:
    x = keras.layers.Reshape((*x.shape[1:], 1), name='subsampling_image')(x)
  for i in range(1, halvings + 1):
    x = keras.layers.Conv2D(width, 3, 2, padding='same', name=f'subsampling{i}')(x)
    x = keras.layers.Activation('relu', name=f'subsampling{i}_relu')(x)
    if length is not None:
      mask = Heard(2**i, x.shape[1], name=f'subsampling{i}_heard')(length)
      x = Blank(name=f'subsampling{i}_blank')(x, heard=mask)
  if halvings:
    x = keras.layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]), name='subsampling_frames')(x)
  return x, mask


def _half(fields: Any, x: Any, width: int, name: str) -> Any:
  """x + half of dense(swish(dense(norm(x)))), section 2.3."""
  y = keras.layers.LayerNormalization(name=f'{name}_norm')(x)
  y = keras.layers.Dense(_EXPANSION * width, activation='silu', name=f'{name}_in')(y)
  y = parts.dropout(fields, y, f'{name}_in')
  y = parts.dropout(fields, keras.layers.Dense(width, name=f'{name}_out')(y), f'{name}_out')
  y = keras.layers.Rescaling(0.5, name=f'{name}_half')(y)
  return keras.layers.Add(name=f'{name}_add')([x, y])


def _attention(fields: Any, x: Any, mask: Any, width: int, heads: int, name: str) -> Any:
  """x + attention(norm(x)), section 2.1."""
  y = keras.layers.LayerNormalization(name=f'{name}_norm')(x)
  query, key, value = (keras.layers.Dense(width, name=f'{name}_{part}')(y) for part in ('query', 'key', 'value'))
  query, bias = RelativePositions(heads, name=f'{name}_positions')(query)
  y = Attention(heads, name=f'{name}_core')([query, key, value], key_mask=mask, bias=bias)
  y = parts.dropout(fields, keras.layers.Dense(width, name=f'{name}_out')(y), name)
  return keras.layers.Add(name=f'{name}_add')([x, y])


def _convolution(fields: Any, x: Any, mask: Any, width: int, name: str) -> Any:
  """x + dense(swish(norm(depthwise convolution(glu(dense(norm(x))))))), section 2.2."""
  y = keras.layers.LayerNormalization(name=f'{name}_norm')(x)
  gate = keras.layers.Dense(width, activation='sigmoid', name=f'{name}_gate')(y)
  y = keras.layers.Multiply(name=f'{name}_glu')([keras.layers.Dense(width, name=f'{name}_in')(y), gate])
  if mask is not None:
    y = Blank(name=f'{name}_blank')(y, heard=mask)
  y = keras.layers.DepthwiseConv1D(fields.kernel_size, padding='same', name=f'{name}_depthwise')(y)
  norm = norms.layer(fields.norm, width, f'{name}_inner_norm')
  y = keras.layers.Activation('silu', name=f'{name}_swish')(norm(y) if norm else y)
  y = parts.dropout(fields, keras.layers.Dense(width, name=f'{name}_out')(y), name)
  return keras.layers.Add(name=f'{name}_add')([x, y])


@keras.saving.register_keras_serializable('trainer')
class Heard(keras.layers.Layer):
  """Which of S frames belong to a recording of so many frames before each `each` of them became one."""

  def __init__(self, each: int, frames: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.each, self.frames = each, frames

  def call(self, length_B: tf.Tensor) -> tf.Tensor:
    """[B] -> bool [B, S]."""
    return tf.range(self.frames) < -(-tf.cast(length_B, tf.int32) // self.each)[:, tf.newaxis]

  def compute_output_spec(self, inputs: Any) -> Any:
    return keras.KerasTensor((inputs.shape[0], self.frames), dtype='bool')

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'each': self.each, 'frames': self.frames}


@keras.saving.register_keras_serializable('trainer')
class Blank(keras.layers.Layer):
  """Puts zeros where a recording has ended."""

  def call(self, x: tf.Tensor, heard: tf.Tensor) -> tf.Tensor:
    """[B, S, ...] and bool [B, S] -> [B, S, ...]."""
    return tf.where(tf.reshape(heard, [-1, x.shape[1], *[1] * (len(x.shape) - 2)]), x, tf.zeros([], x.dtype))

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape


@keras.saving.register_keras_serializable('trainer')
class RelativePositions(keras.layers.Layer):
  """What a query's place adds to its scores: Dai et al., Transformer-XL, 2019, section 3.3.

  A score is (q + u) k + (q + v) r, where u and v are learnt, and r is learnt from sines and cosines of the distance.
  The first term is attention with other queries, the second a bias.
  """

  def __init__(self, heads: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.heads = heads

  def build(self, input_shape: Any) -> None:
    _, self._frames, width = input_shape
    # As in Transformer-XL's code the two start as nothing.
    self.content_D, self.position_D = (
      self.add_weight(name=name, shape=(width,), initializer='zeros') for name in ('content_bias', 'position_bias')
    )
    self.kernel_DD = self.add_weight(name='kernel', shape=(width, width), initializer='glorot_uniform')
    self._distances_PD = distances(self._frames, width)

  def call(self, query_BSD: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, S, D] -> queries [B, S, D] and the bias of the scores, [B, N, S, S]."""
    frames, width = query_BSD.shape[1:]
    dtype, head = query_BSD.dtype, width // self.heads
    content_D, position_D, kernel_DD, distances_PD = (
      tf.cast(x, dtype) for x in (self.content_D, self.position_D, self.kernel_DD, self._distances_PD)
    )
    relative_PNK = tf.reshape(tf.matmul(distances_PD, kernel_DD), [2 * frames - 1, self.heads, head])
    query_BSNK = tf.reshape(query_BSD + position_D, [-1, frames, self.heads, head]) * head**-0.5
    bias_BNSP = tf.einsum('bsnk,pnk->bnsp', query_BSNK, relative_PNK)
    return query_BSD + content_D, _by_key(bias_BNSP)

  def compute_output_shape(self, input_shape: Any) -> Any:
    batch, frames, _ = input_shape
    return input_shape, (batch, self.heads, frames, frames)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'heads': self.heads}


def distances(frames: int, width: int) -> np.ndarray:
  """Sines and cosines (Vaswani et al., 2017, section 3.5) of the distances S - 1 to 1 - S, float32 [2 S - 1, D]."""
  place = np.arange(frames - 1, -frames, -1).reshape(-1, 1)
  angle = place * 10_000.0 ** -(np.arange(0, width, 2) / width)
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def _by_key(bias_BNSP: tf.Tensor) -> tf.Tensor:
  """From distances query - key of S - 1 to 1 - S to keys, [B, N, S, S], by the shift of Transformer-XL's appendix B.

  Row s wants the numbers from S - 1 - s on: with one number more in front of each row, and the whole read as P rows
  of S behind the first S, they stand in its beginning.
  """
  heads, frames, count = bias_BNSP.shape[1:]
  x = tf.pad(bias_BNSP, [[0, 0], [0, 0], [0, 0], [1, 0]])
  x = tf.reshape(x, [-1, heads, count + 1, frames])[:, :, 1:]
  return tf.reshape(x, [-1, heads, frames, count])[:, :, :, :frames]
