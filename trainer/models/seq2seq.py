"""Encoder and decoder of attention: T5, Raffel et al., Exploring the Limits of Transfer Learning, 2020, section 2.1.

Normalisation by the root mean square before each half of a block (Zhang and Sennrich, 2019), no biases, one table of
relative positions for all blocks of a side, attention that is not scaled, and one table of embeddings for source,
target and outputs, which are divided by the root of the width. Version 1.1 has gated gelu and outputs of their own
(Shazeer, GLU Variants Improve Transformer, 2020).

Dimensions: B batch, S places of the source, T places of the target, D model width, N heads, K width of a head, V
vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts, remat, stepwise
from trainer.models.attention import Attention

# size: (blocks of each side, model width, heads, width of the hidden layer), of the paper's section 3.7; all have heads
# of 64
SIZES: dict[str, tuple[int, int, int, int]] = {
  'small': (6, 512, 8, 2048),
  'base': (12, 768, 12, 3072),
  'large': (24, 1024, 16, 4096),
}
_HEAD_WIDTH = 64
_EPSILON = 1e-6
# A score that no softmax sees.
_NEVER = -1e30

FIELDS: dict[str, Field] = {
  'size': Field('small', 'blocks, width, heads and hidden width', one_of(*SIZES), fixed=True),
  'layers': Field(0, 'blocks of the encoder, and of the decoder; 0: as many as the size has', at_least(0), fixed=True),
  'width': Field(0, 'width of a place; 0: that of the size', at_least(0), fixed=True),
  'heads': Field(0, 'attention heads; 0: as many as the size has', at_least(0), fixed=True),
  'hidden': Field(0, 'width of the hidden layer of a block; 0: that of the size', at_least(0), fixed=True),
  'head_width': Field(_HEAD_WIDTH, 'width of a head', at_least(1), fixed=True),
  'activation': Field(
    'relu', 'of the hidden layer; gated_gelu has two of them, as version 1.1', one_of('relu', 'gated_gelu'), fixed=True
  ),
  'tied': Field(True, 'outputs by the table of embeddings; False: by one of their own', fixed=True),
  'buckets': Field(32, 'distances that are told apart, near ones exactly', at_least(4), fixed=True),
  'max_distance': Field(128, 'distance from which on all are one', at_least(2), fixed=True),
  'dropout': Field(0.1, 'share dropped of embeddings, attention, hidden layers and what a half adds', fraction),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The fields, with those of the named size filled in."""

  layers: int
  width: int
  heads: int
  hidden: int
  head_width: int
  activation: str
  tied: bool
  buckets: int
  max_distance: int
  dropout: float


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """{'source' int [B, S], 'target' int [B, T]} -> logits [B, T, V]; see `stepwise.EncoderDecoder`.

  Raises:
    ConfigError: the inputs are not a source and a target, or the distances do not fit the buckets.
  """
  if fields.max_distance <= fields.buckets // 2 or fields.buckets % 4:
    raise ConfigError(
      f'model.buckets={fields.buckets} must be a multiple of 4, and model.max_distance={fields.max_distance} more than '
      'half of it: change one of them'
    )
  source, target = stepwise.lengths('seq2seq', input_spec)
  named = dict(zip(('layers', 'width', 'heads', 'hidden'), SIZES[fields.size], strict=True))
  values = {field.name: fields[field.name] for field in dataclasses.fields(Sizes)}
  sizes = Sizes(**{name: value or named.get(name, value) for name, value in values.items()})
  model = Transformer(dataclasses.asdict(sizes), units, target, name='seq2seq')
  stepwise.connect(model, {'source': (source,), 'target': (target,)})
  return model


@keras.saving.register_keras_serializable('trainer')
class Transformer(stepwise.EncoderDecoder):
  """T5 of any size."""

  def __init__(self, sizes: dict[str, Any], units: int, target_length: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.sizes, self.units, self.target_length = dict(sizes), units, target_length
    self.compiled_by_xla = False  # set by parts.compiled
    s = Sizes(**sizes)
    self.embedding = keras.layers.ReversibleEmbedding(
      units, s.width, embeddings_initializer=_normal(1), reverse_dtype='float32', name='embedding'
    )
    self.head = None if s.tied else parts.head(units, use_bias=False, kernel_initializer=_normal(s.width))
    # Of what comes into and out of each side, in this order: source, memory, target, outputs.
    names = ('source', 'memory', 'target', 'outputs')
    self.dropouts = [keras.layers.Dropout(s.dropout, name=f'{name}_dropout') for name in names]
    self.encoder_positions = Positions(s.heads, s.buckets, s.max_distance, causal=False, name='encoder_positions')
    self.encoder = [Block(sizes, decodes=False, name=f'encoder{i}') for i in range(1, s.layers + 1)]
    self.encoder_norm = _norm('encoder_norm')
    self.decoder_positions = Positions(s.heads, s.buckets, s.max_distance, causal=True, name='decoder_positions')
    self.decoder = [Block(sizes, decodes=True, name=f'decoder{i}') for i in range(1, s.layers + 1)]
    self.decoder_norm = _norm('decoder_norm')

  def taught(self, source_BS: tf.Tensor, target_BT: tf.Tensor, training: bool) -> tf.Tensor:
    memory, there = self._encode(source_BS, training)
    places = tf.range(target_BT.shape[1])
    bias = self.decoder_positions(places, places)
    x = self.dropouts[2](self.embedding(target_BT), training=training)
    for block in self.decoder:
      x = block(x, bias=bias, memory=memory, source_there=there, training=training)
    return self._outputs(x, training)

  def start(self, source_BS: tf.Tensor) -> dict[str, Any]:
    """The memory holds keys and values of each block's cross attention; the cache those of its self-attention."""
    memory, there = self._encode(source_BS, training=False)
    width = self.sizes['heads'] * self.sizes['head_width']
    empty = tf.zeros([tf.shape(source_BS)[0], self.target_length, width], memory.dtype)
    kept = [block.cross.keys(memory) for block in self.decoder if block.cross]
    return {'memory': {'kept': kept, 'there': there}, 'cache': [[empty, empty] for _ in self.decoder]}

  def step(self, memory: Any, cache: Any, token_B: tf.Tensor, place: tf.Tensor) -> dict[str, Any]:
    places = tf.range(self.target_length)
    bias = self.decoder_positions(place[tf.newaxis], places)
    here = (places == place)[:, tf.newaxis]
    x, after = self.embedding(token_B[:, tf.newaxis]), []
    for block, kept, before in zip(self.decoder, memory['kept'], cache, strict=True):
      pairs = zip(block.attention.keys(block.attention.norm(x)), before, strict=True)
      after.append([tf.where(here, new, old) for new, old in pairs])
      x = block(x, past=after[-1], bias=bias, kept=kept, source_there=memory['there'])
    return {'logits': self._outputs(x, False)[:, 0], 'cache': after}

  def get_config(self) -> dict[str, Any]:
    own = {'sizes': self.sizes, 'units': self.units, 'target_length': self.target_length}
    return {**super().get_config(), **own}

  def _encode(self, source_BS: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """What the encoder makes of the source, [B, S, D], and which places of it are there, bool [B, S]."""
    there, places = source_BS != stepwise.PADDING, tf.range(source_BS.shape[1])
    bias = self.encoder_positions(places, places)
    x = self.dropouts[0](self.embedding(source_BS), training=training)
    for block in self.encoder:
      x = block(x, bias=bias, there=there, training=training)
    return self.dropouts[1](self.encoder_norm(x), training=training), there

  def _outputs(self, x_BTD: tf.Tensor, training: bool) -> tf.Tensor:
    """[B, T, D] -> [B, T, V]."""
    x = self.dropouts[3](self.decoder_norm(x_BTD), training=training)
    logits = self.head(x) if self.head else self.embedding(x * self.sizes['width'] ** -0.5, reverse=True)
    return remat.logits(self, logits, training)


@keras.saving.register_keras_serializable('trainer')
class Block(keras.layers.Layer):
  """Self-attention, with `decodes` attention to the source, and dense layers; each added to what it was given."""

  def __init__(self, sizes: dict[str, Any], decodes: bool, **kwargs: Any):
    super().__init__(**kwargs)
    self.sizes, self.decodes = dict(sizes), decodes
    s = Sizes(**sizes)
    self.attention = Looking(s.width, s.heads, s.head_width, s.dropout, name='attention')
    self.cross = Looking(s.width, s.heads, s.head_width, s.dropout, name='cross') if decodes else None
    self.norm = _norm('norm')
    kinds = ('gate', 'value') if s.activation == 'gated_gelu' else ('in',)
    self.inner = [_dense(s.hidden, s.width, name) for name in kinds]
    self.outer = _dense(s.width, s.hidden, 'out')
    self.inner_dropout = keras.layers.Dropout(s.dropout, name='in_dropout')
    self.outer_dropout = keras.layers.Dropout(s.dropout, name='out_dropout')

  def call(
    self,
    x: tf.Tensor,
    past: list[tf.Tensor] | None = None,
    bias: tf.Tensor | None = None,
    there: tf.Tensor | None = None,
    memory: tf.Tensor | None = None,
    kept: list[tf.Tensor] | None = None,
    source_there: tf.Tensor | None = None,
    training: bool = False,
  ) -> tf.Tensor:
    """[B, T, D] -> [B, T, D].

    Args:
      x: the places.
      past: keys and values of the self-attention, if they are not those of `x`.
      bias: of the self-attention.
      there: bool [B, T], which places may be looked at.
      memory: what the encoder made of the source, [B, S, D].
      kept: keys and values of it, where they are known, [B, S, N K].
      source_there: bool [B, S].
      training: whether to drop.
    """
    x = self.attention(x, keys=past, there=there, bias=bias, training=training)
    if self.cross is not None:
      x = self.cross(x, source=memory, keys=kept, there=source_there, training=training)
    y = self.norm(x)
    # The approximate gelu, as published.
    hidden = tf.nn.relu(self.inner[0](y)) if len(self.inner) == 1 else keras.activations.gelu(self.inner[0](y), True)
    for gated in self.inner[1:]:
      hidden *= gated(y)
    y = self.outer(self.inner_dropout(hidden, training=training))
    return x + self.outer_dropout(y, training=training)

  def compute_output_shape(self, x_shape: Any) -> Any:
    return x_shape

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'sizes': self.sizes, 'decodes': self.decodes}


@keras.saving.register_keras_serializable('trainer')
class Looking(keras.layers.Layer):
  """x + attention(norm(x)), with queries of x, and keys and values of x or of something else."""

  def __init__(self, width: int, heads: int, head_width: int, dropout: float, **kwargs: Any):
    super().__init__(**kwargs)
    self.width, self.heads, self.head_width, self.dropout = width, heads, head_width, dropout
    inner = heads * head_width
    self.norm = _norm('norm')
    # What does not divide the scores makes the queries small at first.
    self.query = _dense(inner, width * head_width, 'query')
    self.key, self.value = (_dense(inner, width, name) for name in ('key', 'value'))
    self.core = Attention(heads, scale=False, dropout=dropout, name='core')
    self.out = _dense(width, inner, 'out')
    self.out_dropout = keras.layers.Dropout(dropout, name='out_dropout')

  def keys(self, x_BSD: tf.Tensor) -> list[tf.Tensor]:
    """Keys and values of places, each [B, S, N K]."""
    return [self.key(x_BSD), self.value(x_BSD)]

  def call(
    self,
    x: tf.Tensor,
    source: tf.Tensor | None = None,
    keys: list[tf.Tensor] | None = None,
    there: tf.Tensor | None = None,
    bias: tf.Tensor | None = None,
    training: bool = False,
  ) -> tf.Tensor:
    """[B, T, D] -> [B, T, D]; keys and values are given, or those of `source` [B, S, D], or of x."""
    y = self.norm(x)
    keys = keys or self.keys(y if source is None else source)
    y = self.core([self.query(y), *keys], key_mask=there, bias=bias, training=training)
    return x + self.out_dropout(self.out(y), training=training)

  def compute_output_shape(self, x_shape: Any) -> Any:
    return x_shape

  def get_config(self) -> dict[str, Any]:
    own = {name: getattr(self, name) for name in ('width', 'heads', 'head_width', 'dropout')}
    return {**super().get_config(), **own}


@keras.saving.register_keras_serializable('trainer')
class Positions(keras.layers.Layer):
  """What each head adds to the score of a key at some distance from the query."""

  def __init__(self, heads: int, buckets: int, max_distance: int, causal: bool, **kwargs: Any):
    super().__init__(**kwargs)
    self.heads, self.buckets, self.max_distance, self.causal = heads, buckets, max_distance, causal

  def build(self, query_shape: Any, key_shape: Any) -> None:
    self.table = self.add_weight(name='table', shape=(self.buckets, self.heads), initializer=_normal(self.heads))

  def call(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Places of queries [T] and of keys [S] -> float32 [1, N, T, S]; with `causal` later keys are out of sight."""
    ahead_TS = key[tf.newaxis] - query[:, tf.newaxis]
    buckets = self.buckets if self.causal else self.buckets // 2
    of_distance = distance_buckets(buckets, self.max_distance)
    bucket_TS = tf.gather(of_distance, tf.minimum(tf.abs(ahead_TS), self.max_distance))
    if not self.causal:
      bucket_TS += tf.where(ahead_TS > 0, buckets, 0)
    bias_TSN = tf.cast(tf.gather(tf.convert_to_tensor(self.table), bucket_TS), tf.float32)
    if self.causal:
      bias_TSN = tf.where((ahead_TS > 0)[:, :, tf.newaxis], _NEVER, bias_TSN)
    return tf.transpose(bias_TSN, [2, 0, 1])[tf.newaxis]

  def compute_output_shape(self, query_shape: Any, key_shape: Any) -> Any:
    return 1, self.heads, query_shape[0], key_shape[0]

  def get_config(self) -> dict[str, Any]:
    own = {name: getattr(self, name) for name in ('heads', 'buckets', 'max_distance', 'causal')}
    return {**super().get_config(), **own}


def distance_buckets(buckets: int, max_distance: int) -> np.ndarray:
  """The bucket of each distance from 0 to `max_distance`, int32: half of the buckets for one distance each, the others
  wider and wider; the last holds all that is farther."""
  exact = buckets // 2
  distance = np.arange(max_distance + 1)
  far = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
  wide = np.minimum(exact + (far * (buckets - exact)).astype(np.int32), buckets - 1)
  return np.where(distance < exact, distance, wide).astype(np.int32)


def _norm(name: str) -> keras.layers.Layer:
  return keras.layers.RMSNormalization(epsilon=_EPSILON, name=name)


def _dense(units: int, fan_in: int, name: str) -> keras.layers.Layer:
  return keras.layers.Dense(units, use_bias=False, kernel_initializer=_normal(fan_in), name=name)


def _normal(fan_in: int) -> keras.initializers.Initializer:
  return keras.initializers.RandomNormal(stddev=fan_in**-0.5)
