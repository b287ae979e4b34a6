"""BERT: Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019.

The encoder of Vaswani et al., 2017, section 3.1: layer normalisation behind each half of a block, x = norm(x +
attention(x)), x = norm(x + dense(x)); learned positions; the exact gelu; initial weights normal of deviation .02, cut
at two. The released models have a row per segment too: here, where an input is one text, all places are of the first.

Of the ids, 0 is padding: nobody looks at it.

Dimensions: B batch, T places, D model width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts, remat
from trainer.models.attention import Attention

# size: (layers, model width, heads); the hidden layer of a block is four times as wide as the model. Section 3.
SIZES: dict[str, tuple[int, int, int]] = {'base': (12, 768, 12), 'large': (24, 1024, 16)}
_EXPANSION, _EPSILON, _DEVIATION, _SEGMENTS = 4, 1e-12, 0.02, 2

FIELDS: dict[str, Field] = {
  'size': Field('base', 'layers, width and heads', one_of(*SIZES), fixed=True),
  'layers': Field(0, 'blocks; 0: as many as the size has', at_least(0), fixed=True),
  'width': Field(0, 'width of a place; 0: that of the size', at_least(0), fixed=True),
  'heads': Field(0, 'attention heads, which share the width; 0: as many as the size has', at_least(0), fixed=True),
  'vocabulary': Field(
    0, 'ids that the inputs take, from 0 on, where the outputs are of the text; 0: the outputs are ids, at each place',
    at_least(0), fixed=True,
  ),
  'dropout': Field(0.1, 'share dropped of the embedding, of attention, and of what half a block adds', fraction),
  **remat.FIELDS,
}  # fmt: skip


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Ids [B, T] -> blocks -> logits [B, T, units] of the id at each place; or, with `vocabulary`, outputs [B, units].

  The logits are dense, gelu, normalisation, the transposed embedding and a bias, as the released models have it; the
  outputs of a text are those of its first place, through a dense layer and a tanh.

  Raises:
    ConfigError: the inputs are not ids, the heads do not divide the width, or dropout is asked of blockwise attention.
  """
  inputs = parts.inputs('bert', input_spec, rank=1)
  if 'int' not in inputs.dtype:
    raise ConfigError(
      f"model.name='bert' takes ids, not {inputs.dtype}: set task.name='masked_language_modeling', or take another "
      'model'
    )
  layers, width, heads = (
    given or size for given, size in zip((fields.layers, fields.width, fields.heads), SIZES[fields.size], strict=True)
  )
  parts.check_heads(heads, width)
  if fields.attention == 'blockwise' and fields.dropout:
    raise ConfigError("model.attention='blockwise' has no dropout: set model.dropout=0, or model.attention='plain'")
  tokens = keras.layers.ReversibleEmbedding(
    fields.vocabulary or units, width, embeddings_initializer=_initializer(), reverse_dtype='float32', name='tokens'
  )
  there = parts.Symbols(name='there')(inputs)
  x = Places(name='embedding')(tokens(inputs))
  x = parts.dropout(fields, _norm('embedding')(x), 'embedding')
  for i in range(1, layers + 1):
    made = functools.partial(_block, fields, width, heads, f'block{i}')
    x = remat.block(made, [x, there], f'block{i}', fields.remat == 'none')
  if fields.vocabulary:
    x = _dense(width, 'pooler', 'tanh')(parts.FirstToken(name='first')(x))
    outputs = parts.head(units, kernel_initializer=_initializer())(parts.dropout(fields, x, 'pooler'))
  else:
    x = _norm('transform')(_dense(width, 'transform', 'gelu')(x))
    outputs = Bias(name='head')(tokens(x, reverse=True))
  return keras.Model(inputs, outputs, name='bert')


def _block(fields: Any, width: int, heads: int, name: str, x: Any, there: Any) -> Any:
  """[B, T, D] -> [B, T, D]; `there` bool [B, T] has the places that others may look at."""
  y = [_dense(width, f'{name}_attention_{part}')(x) for part in ('query', 'key', 'value')]
  core = Attention(heads, dropout=fields.dropout, blocks=fields.attention == 'blockwise', name=f'{name}_attention_core')
  y = core(y, key_mask=there)
  x = _added(fields, x, _dense(width, f'{name}_attention_out')(y), f'{name}_attention')
  y = _dense(_EXPANSION * width, f'{name}_mlp_in', 'gelu')(x)
  return _added(fields, x, _dense(width, f'{name}_mlp_out')(y), f'{name}_mlp')


def _dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
  return keras.layers.Dense(units, activation, kernel_initializer=_initializer(), name=name)


def _initializer() -> keras.initializers.Initializer:
  return keras.initializers.TruncatedNormal(stddev=_DEVIATION)


def _norm(name: str) -> keras.layers.Layer:
  return keras.layers.LayerNormalization(epsilon=_EPSILON, name=f'{name}_norm')


def _added(fields: Any, x: Any, y: Any, name: str) -> Any:
  """norm(x + y), [B, T, D]."""
  return _norm(name)(keras.layers.Add(name=f'{name}_add')([x, parts.dropout(fields, y, f'{name}_out')]))


@keras.saving.register_keras_serializable('trainer')
class Places(keras.layers.Layer):
  """Adds to the vector of each token [B, T, D] that of its place and that of the first segment."""

  def build(self, input_shape: Any) -> None:
    _, places, width = input_shape
    self.positions_TD = self.add_weight(name='positions', shape=(places, width), initializer=_initializer())
    self.segments_SD = self.add_weight(name='segments', shape=(_SEGMENTS, width), initializer=_initializer())

  def call(self, tokens_BTD: tf.Tensor) -> tf.Tensor:
    return tokens_BTD + tf.cast(self.positions_TD + self.segments_SD[0], tokens_BTD.dtype)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape


@keras.saving.register_keras_serializable('trainer')
class Bias(keras.layers.Layer):
  """Adds a learnt number to each logit [B, T, V]: float32, in training under XLA rounded to the compute dtype."""

  def __init__(self, **kwargs: Any):
    super().__init__(autocast=False, **kwargs)
    self.compiled_by_xla = False  # set by parts.compiled

  def build(self, input_shape: Any) -> None:
    self.bias_V = self.add_weight(name='bias', shape=(input_shape[-1],), initializer='zeros')

  def call(self, logits_BTV: tf.Tensor, training: bool = False) -> tf.Tensor:
    return remat.logits(self, logits_BTV + self.bias_V, training)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape
