"""Decoder-only transformers: GPT-2 (Radford et al., 2019) and Llama (Touvron et al., 2023).

Both are stacks of x + attention(norm(x)), x + dense(norm(x)). GPT-2 has layer normalisation, learned positions, a gelu
(the approximation by tanh), biases, and a head that is the transposed embedding. Llama has RMS normalisation (Zhang and
Sennrich, 2019), rotary positions (Su et al., 2021), SwiGLU (Shazeer, 2020), keys and values shared by groups of heads
(Ainslie et al., 2023), no biases, and a head of its own. Initial weights are those of GPT-2, section 2.3: normal of
deviation .02, divided by the square root of the number of residual layers where a layer writes into the residual.

Dimensions: B batch, T places, D model width, V vocabulary, M heads of keys and values, K width of a head.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts, remat
from trainer.models.attention import Attention

_DEVIATION = 0.02


@dataclasses.dataclass(frozen=True)
class Size:
  """What the papers' tables say of a size; a model of `kind` 'gpt2' or 'llama'."""

  kind: str
  layers: int
  width: int
  heads: int
  kv_heads: int
  hidden: int
  rotary_base: float = 0.0
  tied: bool = True
  epsilon: float = 1e-5


# Radford et al., table 2 (with the heads of the released models); Touvron et al., table 2; and Dubey et al., The Llama
# 3 Herd of Models, 2024, table 3, with the released models of 1 and 3 billion parameters.
SIZES: dict[str, Size] = {
  'gpt2': Size('gpt2', 12, 768, 12, 12, 3072),
  'gpt2_medium': Size('gpt2', 24, 1024, 16, 16, 4096),
  'gpt2_large': Size('gpt2', 36, 1280, 20, 20, 5120),
  'gpt2_xl': Size('gpt2', 48, 1600, 25, 25, 6400),
  'llama_7b': Size('llama', 32, 4096, 32, 32, 11008, 1e4, False),
  'llama3_1b': Size('llama', 16, 2048, 32, 8, 8192, 5e5, True),
  'llama3_3b': Size('llama', 28, 3072, 24, 8, 8192, 5e5, True),
  'llama3_8b': Size('llama', 32, 4096, 32, 8, 14336, 5e5, False),
}

FIELDS: dict[str, Field] = {
  'size': Field('gpt2', 'kind of model, layers, widths and heads', one_of(*SIZES), fixed=True),
  'layers': Field(0, 'blocks; 0: as many as the size has', at_least(0), fixed=True),
  'width': Field(0, 'width of a token; 0: that of the size', at_least(0), fixed=True),
  'heads': Field(0, 'attention heads, which share the width; 0: as many as the size has', at_least(0), fixed=True),
  'kv_heads': Field(
    0, 'heads of keys and values, a divisor of heads; 0: as many as the size has, or as heads if those are given',
    at_least(0), fixed=True,
  ),
  'hidden': Field(
    0, 'width between the dense layers of a block; 0: that of the size, or in its proportion to a given width',
    at_least(0), fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the embedding, of attention, and of what a block adds', fraction),
  'attention': Field(
    'plain', 'how scores are held: all at once; blockwise: those of some keys at a time, which takes no dropout',
    one_of('plain', 'blockwise'),
  ),
  'remat': Field(
    'none', 'what is computed twice rather than kept for the gradient: nothing, each block, or the attention in it',
    one_of('none', 'blocks', 'attention'),
  ),
  'head_chunks': Field(
    1, 'parts of a text whose logits are held one after another; 1: all are at once', at_least(1)
  ),
  'rotary_base': Field(0.0, 'base of the rotary positions of Llama; 0: that of the size', at_least(0), fixed=True),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Memory:
  """What is done to hold less at once; the results are the same.

  Attributes:
    blockwise: attention holds the scores of a block of keys (blockwise.py).
    remat: 'none', 'blocks' or 'attention' (remat.py).
    head_chunks: parts of a text whose logits are held one after another; with 1 the model gives logits.
  """

  blockwise: bool = False
  remat: str = 'none'
  head_chunks: int = 1


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Ids [B, T] below V -> logits [B, T, V] of the next id, V = units.

  Raises:
    ConfigError: the inputs are not ids, or the widths do not fit the heads.
  """
  inputs = parts.inputs('gpt', input_spec, rank=1)
  if 'int' not in inputs.dtype:
    raise ConfigError(
      f"model.name='gpt' takes ids, not {inputs.dtype}: set task.name='language_modeling', or take another model"
    )
  if fields.attention == 'blockwise' and fields.dropout:
    raise ConfigError("model.attention='blockwise' has no dropout: set model.dropout=0, or model.attention='plain'")
  if inputs.shape[1] % fields.head_chunks:
    raise ConfigError(
      f'model.head_chunks={fields.head_chunks} does not divide the {inputs.shape[1]} places of a text: change it'
    )
  memory = Memory(fields.attention == 'blockwise', fields.remat, fields.head_chunks)
  model = GPT(resolved(fields), units, inputs.shape[1], fields.dropout, memory, name='gpt')
  model(inputs)
  return model


def resolved(fields: Any) -> Size:
  """The size that the fields ask for.

  Raises:
    ConfigError: the widths do not fit the heads.
  """
  size = SIZES[fields.size]
  width, heads = fields.width or size.width, fields.heads or size.heads
  kv_heads = fields.kv_heads or (heads if fields.heads else size.kv_heads)
  parts.check_heads(heads, width)
  if heads % kv_heads:
    raise ConfigError(f'model.kv_heads={kv_heads} does not divide the {heads} heads: change model.kv_heads')
  if size.kind == 'llama' and width // heads % 2:
    raise ConfigError(
      f'rotary positions turn pairs of numbers, but a head has {width // heads}: change model.heads or model.width'
    )
  return dataclasses.replace(
    size,
    layers=fields.layers or size.layers,
    width=width,
    heads=heads,
    kv_heads=kv_heads,
    hidden=fields.hidden or (size.hidden * width // size.width),
    rotary_base=fields.rotary_base or size.rotary_base,
  )


@keras.saving.register_keras_serializable('trainer')
class GPT(keras.Model):
  """A language model that can keep what it computed for earlier places.

  What it is asked for is told by what it is given:

  ids [B, T] -> float32 logits [B, T, V] of the id behind each, in training under XLA rounded to the compute dtype; or,
    with chunks, what they are products of: {'hidden' [chunks, B, T / chunks, D], 'table' [V, D]}
  {'start': ids [B, ...]} -> an empty cache for B texts: keys and values of each block, [B, T, M, K]
  {'token' int [B], 'place' int32 [], 'cache'} -> {'logits' float32 [B, V], 'cache'} of one place
  """

  def __init__(
    self, size: Size, vocabulary: int, context: int, dropout: float, memory: Memory = Memory(), **kwargs: Any
  ):
    super().__init__(**kwargs)
    self.size, self.vocabulary, self.context, self.dropout, self.memory = size, vocabulary, context, dropout, memory
    self.compiled_by_xla = False  # set by parts.compiled
    self.tokens = keras.layers.ReversibleEmbedding(
      vocabulary,
      size.width,
      tie_weights=size.tied,
      embeddings_initializer=keras.initializers.RandomNormal(stddev=_DEVIATION),
      reverse_dtype='float32',
      name='tokens',
    )
    self.positions = None
    if size.kind == 'gpt2':
      self.positions = keras.layers.Embedding(
        context, size.width, keras.initializers.RandomNormal(stddev=_DEVIATION), name='positions'
      )
    self.drop = keras.layers.Dropout(dropout, name='embedding_dropout') if dropout else None
    self.blocks = [Block(size, dropout, memory, name=f'block{i}') for i in range(1, size.layers + 1)]
    self.norm = _norm(size, 'norm')

  def call(self, inputs: Any, training: bool = False) -> Any:
    if not isinstance(inputs, dict):
      x = self._embedded(inputs, tf.range(inputs.shape[1]))
      x = self.drop(x, training=training) if self.drop else x
      for block in self.blocks:
        x = block(x, training=training)
      x = self.norm(x)
      return self._in_chunks(x) if self.memory.head_chunks > 1 else self._logits(x, training)
    if 'start' in inputs:
      shape = [tf.shape(inputs['start'])[0], self.context, self.size.kv_heads, self.size.width // self.size.heads]
      return [(tf.zeros(shape, self.compute_dtype),) * 2 for _ in self.blocks]
    place = inputs['place']
    x, cache = self._embedded(inputs['token'][:, tf.newaxis], place[tf.newaxis]), []
    for block, kept in zip(self.blocks, inputs['cache'], strict=True):
      x, kept = block.step(x, kept, place)
      cache.append(kept)
    return {'logits': self._logits(self.norm(x))[:, 0], 'cache': cache}

  def _logits(self, x_BTD: tf.Tensor, training: bool = False) -> tf.Tensor:
    return remat.logits(self, self.tokens(x_BTD, reverse=True), training)

  def _in_chunks(self, x_BTD: tf.Tensor) -> dict[str, tf.Tensor]:
    table_VD = self.tokens.embeddings if self.size.tied else tf.transpose(self.tokens.reverse_embeddings)
    return {
      'hidden': tf.stack(tf.split(x_BTD, self.memory.head_chunks, axis=1)),
      'table': tf.convert_to_tensor(table_VD),
    }

  def _embedded(self, ids_BT: tf.Tensor, places_T: tf.Tensor) -> tf.Tensor:
    x_BTD = self.tokens(ids_BT)
    return x_BTD + self.positions(places_T) if self.positions else x_BTD

  def get_config(self) -> dict[str, Any]:
    own = {'size': dataclasses.asdict(self.size), 'vocabulary': self.vocabulary, 'context': self.context}
    return {**super().get_config(), **own, 'dropout': self.dropout, 'memory': dataclasses.asdict(self.memory)}

  @classmethod
  def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GPT:
    return cls(**{**config, 'size': Size(**config['size']), 'memory': Memory(**config['memory'])})

  def build_from_config(self, config: dict[str, Any]) -> None:
    """Makes the variables of a model that is read from a file; Keras alone would guess float inputs."""
    self(keras.Input(shape=(self.context,), dtype='int32', name='inputs'))


@keras.saving.register_keras_serializable('trainer')
class Block(keras.layers.Layer):
  """One block, [B, T, D] -> [B, T, D]: x + attention(norm(x)), then x + dense(norm(x))."""

  def __init__(self, size: Size, dropout: float, memory: Memory, **kwargs: Any):
    super().__init__(**kwargs)
    self.remat, self.compiled_by_xla = memory.remat, False  # the latter is set by parts.compiled
    head, biased = size.width // size.heads, size.kind == 'gpt2'

    def dense(units: int, name: str, deviation: float = _DEVIATION) -> keras.layers.Dense:
      return keras.layers.Dense(
        units, use_bias=biased, kernel_initializer=keras.initializers.RandomNormal(stddev=deviation), name=name
      )

    residual = _DEVIATION / math.sqrt(2 * size.layers)
    self.attention_norm, self.mlp_norm = _norm(size, 'attention_norm'), _norm(size, 'mlp_norm')
    self.query = dense(size.heads * head, 'query')
    self.key, self.value = (dense(size.kv_heads * head, name) for name in ('key', 'value'))
    self.core = Attention(
      size.heads, kv_heads=size.kv_heads, causal=True, rotary_base=size.rotary_base, dropout=dropout,
      blocks=memory.blockwise, name='core',
    )  # fmt: skip
    self.out = dense(size.width, 'out', residual)
    self.gate = None if biased else dense(size.hidden, 'gate')
    self.up, self.down = dense(size.hidden, 'up'), dense(size.width, 'down', residual)
    self.drop = [keras.layers.Dropout(dropout, name=f'{part}_dropout') for part in ('out', 'down')] if dropout else []

  def build(self, input_shape: Any) -> None:
    for layer in (self.attention_norm, self.mlp_norm, self.query, self.key, self.value, self.up):
      layer.build(input_shape)
    if self.gate:
      self.gate.build(input_shape)
    self.out.build((*input_shape[:-1], self.query.units))
    self.down.build((*input_shape[:-1], self.up.units))

  def call(self, x_BTD: tf.Tensor, training: bool = False, once_more: bool = False) -> tf.Tensor:
    """`once_more`: called from within its own rematerialization."""
    if training and self.remat == 'blocks' and not once_more:
      return remat.rematerialized(self, x_BTD, self.compiled_by_xla, training=True, once_more=True)
    looked_up = self._looked_up(x_BTD)
    if training and self.remat == 'attention':
      y = remat.rematerialized(self.core, looked_up, self.compiled_by_xla, training=True)
    else:
      y = self.core(looked_up, training=training)
    y = self.out(y)
    x_BTD += self.drop[0](y, training=training) if self.drop else y
    y = self._dense(x_BTD)
    return x_BTD + (self.drop[1](y, training=training) if self.drop else y)

  def step(self, x_B1D: tf.Tensor, cache: Any, place: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """One place; see `Attention.step`."""
    y, cache = self.core.step(self._looked_up(x_B1D), cache, place)
    x_B1D += self.out(y)
    return x_B1D + self._dense(x_B1D), cache

  def _looked_up(self, x: tf.Tensor) -> list[tf.Tensor]:
    x = self.attention_norm(x)
    return [self.query(x), self.key(x), self.value(x)]

  def _dense(self, x: tf.Tensor) -> tf.Tensor:
    x = self.mlp_norm(x)
    if self.gate:
      return self.down(keras.activations.silu(self.gate(x)) * self.up(x))
    return self.down(keras.activations.gelu(self.up(x), approximate=True))


def _norm(size: Size, name: str) -> keras.layers.Layer:
  kind = keras.layers.LayerNormalization if size.kind == 'gpt2' else keras.layers.RMSNormalization
  return kind(epsilon=size.epsilon, name=name)
