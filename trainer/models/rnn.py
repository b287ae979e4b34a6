"""Recurrent network for sequences: simple, LSTM or GRU layers, one on another, in one direction or in both.

LSTM: Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000. GRU: Cho et al., 2014, section 2.3,
in the variant that resets after the matrix product, as Keras' default. Both directions: Schuster and Paliwal, 1997.

The layers run as a `while` loop in the graph, or unrolled over time, never as cuDNN's kernel, which XLA cannot compile.

Legend: B batch, T time, F numbers per position, V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts

_CELLS = {'simple': keras.layers.SimpleRNN, 'lstm': keras.layers.LSTM, 'gru': keras.layers.GRU}


def _check_hidden(sizes: tuple[int, ...]) -> str:
  return parts.check_sizes(sizes) if sizes else 'must name the width of at least one layer'


FIELDS: dict[str, Field] = {
  'cell': Field('lstm', 'kind of the recurrent layers', one_of(*_CELLS), fixed=True),
  'hidden': Field((64,), 'width of each recurrent layer, the first next to the inputs', _check_hidden, fixed=True),
  'bidirectional': Field(False, 'read in both directions, each with the widths of `hidden`, and join them', fixed=True),
  'vocabulary': Field(
    0, 'values that integer inputs take, from 0 on; 0: the inputs are numbers', at_least(0), fixed=True
  ),
  'embedding': Field(64, 'numbers by which each value of an integer input is represented', at_least(1), fixed=True),
  'summary': Field(
    'last', 'from a sequence to a vector: the state at its end, or the mean over its positions', one_of('last', 'mean'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the inputs of each recurrent layer, and of the vector', fraction),
  'recurrent_dropout': Field(0.0, 'share dropped of the state from one position to the next', fraction),
  'unroll': Field(False, 'write the loop over time out: faster for a few positions, slower to compile'),
  **parts.REGULARIZER_FIELDS,
}  # fmt: skip


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Sequences [B, T, F], numbers [B, T], or with `vocabulary` integers [B, T] -> recurrent layers -> vector -> outputs.

  `recurrent_dropout` draws one mask per sequence, kept over its positions (Gal and Ghahramani, 2016), from the seed
  generators that the step sets, like all of Keras' dropout; it holds under XLA.

  Raises:
    ConfigError: the inputs are not sequences, or are integers without `vocabulary`, or numbers with it.
  """
  x = inputs = parts.inputs('rnn', input_spec)
  shape = tuple(inputs.shape[1:])
  if fields.vocabulary:
    if len(shape) != 1:
      raise ConfigError(
        f'model.vocabulary is for inputs of one integer per position, not of shape {shape}: set it to 0'
      )
    x = keras.layers.Embedding(fields.vocabulary, fields.embedding, name='embedding')(x)
  elif len(shape) == 1 and input_spec.dtype.is_integer:
    raise ConfigError("model.name='rnn' on integers needs model.vocabulary: set it to the number of their values")
  elif len(shape) == 1:
    x = keras.layers.Reshape((*shape, 1), name='numbers')(x)
  elif len(shape) != 2:
    raise ConfigError(f"model.name='rnn' takes sequences [time] or [time, features], not {shape}: take another model")
  for i, width in enumerate(fields.hidden, 1):
    whole = i < len(fields.hidden) or fields.summary == 'mean'
    x = _layer(fields, width, whole, f'rnn{i}')(x)
  if fields.summary == 'mean':
    x = keras.layers.GlobalAveragePooling1D(name='vector')(x)
  if fields.dropout:
    x = keras.layers.Dropout(fields.dropout, name='vector_dropout')(x)
  outputs = parts.head(units, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='rnn')


def _layer(fields: Any, width: int, whole: bool, name: str) -> keras.layers.Layer:
  """One recurrent layer, [B, T, D] -> [B, T, width] if `whole`, else [B, width]; twice the width in both directions."""

  def one(suffix: str, **kwargs: Any) -> keras.layers.Layer:
    cudnn = {} if fields.cell == 'simple' else {'use_cudnn': False}
    return _CELLS[fields.cell](
      width,
      return_sequences=whole,
      dropout=fields.dropout,
      recurrent_dropout=fields.recurrent_dropout,
      unroll=fields.unroll,
      kernel_regularizer=parts.regularizer(fields),
      name=name + suffix,
      **cudnn,
      **kwargs,
    )

  if not fields.bidirectional:
    return one('')
  return keras.layers.Bidirectional(one('_forward'), backward_layer=one('_backward', go_backwards=True), name=name)
