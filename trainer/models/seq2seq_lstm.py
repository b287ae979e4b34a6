"""Encoder and decoder of LSTMs with attention: Bahdanau et al., Neural Machine Translation by Jointly Learning to Align
and Translate, 2015, section 3 and appendix A, with LSTM cells (Hochreiter and Schmidhuber, 1997) in the place of GRUs.

The encoder reads in both directions. Before each symbol of the target the decoder looks at all places of the source,
by a small network that compares its state with each of them.

Dimensions: B batch, S places of the source, T places of the target, E width of an embedding, H width of the decoder, A
width of the comparison, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.fields import Field, at_least, fraction
from trainer.models import parts, stepwise

# A score that no softmax sees.
_NEVER = -1e30

FIELDS: dict[str, Field] = {
  'embedding': Field(128, 'numbers by which each symbol is represented', at_least(1), fixed=True),
  'layers': Field(1, 'LSTM layers of the encoder', at_least(1), fixed=True),
  'hidden': Field(256, 'width of the decoder, and of each layer and direction of the encoder', at_least(2), fixed=True),
  'comparison': Field(128, 'hidden width of the network that compares state and source', at_least(1), fixed=True),
  'dropout': Field(0.0, 'share dropped of embeddings, of what a layer of the encoder gives, and before the outputs',
    fraction),
}  # fmt: skip


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """{'source' int [B, S], 'target' int [B, T]} -> logits [B, T, V]; see `stepwise.EncoderDecoder`.

  Raises:
    ConfigError: the inputs are not a source and a target.
  """
  source, target = stepwise.lengths('seq2seq_lstm', input_spec)
  model = Recurrent({name: fields[name] for name in FIELDS}, units, name='seq2seq_lstm')
  stepwise.connect(model, {'source': (source,), 'target': (target,)})
  return model


@keras.saving.register_keras_serializable('trainer')
class Recurrent(stepwise.EncoderDecoder):
  """The network of Bahdanau et al."""

  def __init__(self, sizes: dict[str, Any], units: int, **kwargs: Any):
    """Args:
    sizes: the values of FIELDS.
    units: V.
    """
    super().__init__(**kwargs)
    self.sizes, self.units = dict(sizes), units
    width, hidden, comparison = (sizes[name] for name in ('embedding', 'hidden', 'comparison'))
    self.source_embedding = keras.layers.Embedding(units, width, name='source_embedding')
    self.target_embedding = keras.layers.Embedding(units, width, name='target_embedding')
    self.encoder = [_both_ways(hidden, f'encoder{i}') for i in range(1, sizes['layers'] + 1)]
    self.first_state = keras.layers.Dense(hidden, activation='tanh', name='first_state')
    self.keys = keras.layers.Dense(comparison, name='keys')
    self.query = keras.layers.Dense(comparison, use_bias=False, name='query')
    self.score = keras.layers.Dense(1, use_bias=False, name='score')
    self.cell = keras.layers.LSTMCell(hidden, name='cell')
    self.pairs = keras.layers.Dense(hidden // 2 * 2, name='pairs')
    self.head = parts.head(units)
    names = ('source', 'target', *(layer.name for layer in self.encoder), 'outputs')
    self.dropouts = {name: keras.layers.Dropout(sizes['dropout'], name=f'{name}_dropout') for name in names}
    # Those that are first called in a loop, which is no place for making variables.
    self.query.build((None, hidden))
    self.score.build((None, None, comparison))
    self.cell.build((None, width + 2 * hidden))

  def taught(self, source_BS: tf.Tensor, target_BT: tf.Tensor, training: bool) -> tf.Tensor:
    memory, first = self._encode(source_BS, training)
    x_BTE = self.dropouts['target'](self.target_embedding(target_BT), training=training)
    found = tf.scan(
      lambda before, x_BE: self._place(memory, x_BE, *before[:2]),
      tf.transpose(x_BTE, [1, 0, 2]),
      (first, tf.zeros_like(first), tf.zeros_like(memory['encoded'][:, 0])),
    )
    state_BTH, _, seen_BTD = (tf.transpose(each, [1, 0, 2]) for each in found)
    return self._outputs(state_BTH, x_BTE, seen_BTD, training)

  def start(self, source_BS: tf.Tensor) -> dict[str, Any]:
    """The memory holds what the encoder made of the source, the cache the state of the decoder."""
    memory, first = self._encode(source_BS, training=False)
    return {'memory': memory, 'cache': [first, tf.zeros_like(first)]}

  def step(self, memory: Any, cache: Any, token_B: tf.Tensor, place: tf.Tensor) -> dict[str, Any]:
    x_BE = self.target_embedding(token_B)
    state_BH, cell_BH, seen_BD = self._place(memory, x_BE, *cache)
    return {'logits': self._outputs(state_BH, x_BE, seen_BD, training=False), 'cache': [state_BH, cell_BH]}

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'sizes': self.sizes, 'units': self.units}

  def _encode(self, source_BS: tf.Tensor, training: bool) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """What is looked at: 'encoded' [B, S, 2 H], 'keys' [B, S, A], 'there' bool [B, S]; and the first state [B, H]."""
    there = source_BS != stepwise.PADDING
    x = self.dropouts['source'](self.source_embedding(source_BS), training=training)
    for layer in self.encoder:
      # A new tensor, without the mask that Keras would pass on.
      x = tf.identity(self.dropouts[layer.name](layer(x, mask=there), training=training))
    # At the first place the backward direction has read all of the source.
    first = self.first_state(x[:, 0, self.sizes['hidden'] :])
    return {'encoded': x, 'keys': self.keys(x), 'there': there}, first

  def _place(
    self, memory: dict[str, tf.Tensor], x_BE: tf.Tensor, state_BH: tf.Tensor, cell_BH: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """State and cell after one place, [B, H] each, and what was seen of the source, [B, 2 H]."""
    compared_BSA = tf.tanh(memory['keys'] + self.query(state_BH)[:, tf.newaxis])
    scores_BS = tf.cast(self.score(compared_BSA)[:, :, 0], tf.float32)
    shares_BS = tf.nn.softmax(tf.where(memory['there'], scores_BS, _NEVER))
    seen_BD = tf.einsum('bs,bsd->bd', tf.cast(shares_BS, x_BE.dtype), memory['encoded'])
    _, (state_BH, cell_BH) = self.cell(tf.concat([x_BE, seen_BD], axis=-1), [state_BH, cell_BH])
    return state_BH, cell_BH, seen_BD

  def _outputs(self, state: tf.Tensor, x: tf.Tensor, seen: tf.Tensor, training: bool) -> tf.Tensor:
    """Logits [..., V], by the larger of two numbers each (Goodfellow et al., Maxout Networks, 2013)."""
    pairs = self.pairs(tf.concat([state, x, seen], axis=-1))
    larger = tf.maximum(*tf.split(pairs, 2, axis=-1))
    return self.head(self.dropouts['outputs'](larger, training=training))


def _both_ways(hidden: int, name: str) -> keras.layers.Layer:
  """[B, S, ...] -> [B, S, 2 H]; never cuDNN's kernel, which XLA cannot compile."""
  forward, backward = (
    keras.layers.LSTM(hidden, return_sequences=True, go_backwards=back, use_cudnn=False, name=f'{name}_{way}')
    for way, back in (('forward', False), ('backward', True))
  )
  return keras.layers.Bidirectional(forward, backward_layer=backward, name=name)
