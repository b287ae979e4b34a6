"""Convolutions over a sequence of symbols (bytes, DNA, amino acids) or of vectors, after Kim, 2014, section 2.

Each stage is a convolution, normalisation and activation, added to its input where the widths agree (He et al., 2016);
between stages the sequence is halved. The maximum over the positions at the end finds a pattern wherever it stands.

Legend: B batch, T positions, F numbers per position, D channels.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import norms, parts

_SUMMARIES = {
  'max': keras.layers.GlobalMaxPooling1D,
  'mean': keras.layers.GlobalAveragePooling1D,
  'all': keras.layers.Flatten,
}


FIELDS: dict[str, Field] = {
  'vocabulary': Field(
    0, 'values that integer inputs take, from 0 on; 0: the inputs are vectors', at_least(0), fixed=True
  ),
  'embedding': Field(32, 'numbers by which each value of an integer input is represented', at_least(1), fixed=True),
  'channels': Field(
    (64, 128), 'channels of each stage; halved in length between them', parts.check_channels('stage'), fixed=True
  ),
  'convs': Field(1, 'convolutions per stage', at_least(1), fixed=True),
  'kernel_size': Field(5, 'positions that a kernel covers', at_least(1), fixed=True),
  'norm': Field(
    'layer',
    'normalisation after each convolution; batch depends on the number of replicas',
    norms.rule('none', 'batch', 'sync_batch', 'layer'),
    fixed=True,
  ),
  'activation': Field('relu', 'a Keras activation', parts.check_activation, fixed=True),
  'summary': Field(
    'max',
    'from a sequence to a vector: maximum or mean over its positions; or all of them, where each means the same in '
    'every sequence',
    one_of(*_SUMMARIES),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the embedding and of the vector', fraction),
  **parts.REGULARIZER_FIELDS,
}  # fmt: skip


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Integers [B, T] with `vocabulary`, or vectors [B, T, F] -> stages -> vector -> outputs.

  Raises:
    ConfigError: the inputs are not such sequences, or too short to be halved that often.
  """
  x = inputs = parts.inputs('sequence', input_spec, rank=1 if fields.vocabulary else 2)
  length, halvings = inputs.shape[1], len(fields.channels) - 1
  if length < 2**halvings:
    raise ConfigError(
      f'model.channels={tuple(fields.channels)} halves the sequence {halvings} times, but it has only {length} '
      f'positions: name at most {length.bit_length()} stages'
    )
  if fields.vocabulary:
    x = keras.layers.Embedding(fields.vocabulary, fields.embedding, name='embedding')(x)
  x = parts.dropout(fields, x, 'inputs')
  for i, channels in enumerate(fields.channels, 1):
    for j in range(1, fields.convs + 1):
      # By a stride: XLA has no deterministic gradient of a maximum over windows.
      x = _convolution(fields, x, channels, 2 if i > 1 and j == 1 else 1, f'stage{i}_conv{j}')
  x = parts.dropout(fields, _SUMMARIES[fields.summary](name='vector')(x), 'vector')
  outputs = parts.head(units, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='sequence')


def _convolution(fields: Any, x: Any, channels: int, strides: int, name: str) -> Any:
  """Convolution, normalisation and activation, [B, T, D] -> [B, T / strides, channels], added to its input if alike."""
  norm = norms.layer(fields.norm, channels, f'{name}_norm')
  y = keras.layers.Conv1D(
    channels,
    fields.kernel_size,
    strides,
    padding='same',
    # A bias before a normalisation is subtracted again by it.
    use_bias=norm is None,
    kernel_regularizer=parts.regularizer(fields),
    name=name,
  )(x)
  y = keras.layers.Activation(fields.activation, name=f'{name}_activation')(norm(y) if norm else y)
  return keras.layers.Add(name=f'{name}_add')([x, y]) if x.shape == y.shape else y
