"""Feed-forward network: dense layers, each followed by normalisation, activation and dropout.

Of symbols (bytes, letters of a protein) each place has a vector for each of them, learnt as in Bengio et al., A Neural
Probabilistic Language Model, 2003, section 2.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction
from trainer.models import norms, parts

FIELDS: dict[str, Field] = {
  'hidden': Field((128, 128), 'units of the hidden layers', parts.check_sizes, fixed=True),
  'activation': Field('relu', 'a Keras activation', parts.check_activation, fixed=True),
  'norm': Field(
    'none',
    'normalisation before each activation; batch depends on the number of replicas',
    norms.rule('none', 'batch', 'sync_batch', 'layer'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share of hidden units dropped after each activation', fraction),
  'vocabulary': Field(
    0, 'values that integer inputs take, from 0 on; 0: the inputs are numbers', at_least(0), fixed=True
  ),
  'embedding': Field(16, 'numbers that stand for a symbol, with a vocabulary', at_least(1), fixed=True),
  **parts.REGULARIZER_FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Flattened inputs -> hidden layers -> outputs; no hidden layer makes it `linear` with another initialiser.

  Raises:
    ConfigError: the inputs are not one tensor of numbers per example, or no symbols although there is a vocabulary.
  """
  x = inputs = parts.inputs('mlp', input_spec)
  if fields.vocabulary:
    if 'int' not in inputs.dtype:
      raise ConfigError(f'model.vocabulary is for symbols, and the inputs are {inputs.dtype}: set it to 0')
    x = keras.layers.Embedding(fields.vocabulary, fields.embedding, name='embedding')(x)
  x = keras.layers.Flatten(name='flatten')(x)
  for i, width in enumerate(fields.hidden, 1):
    norm = norms.layer(fields.norm, width, f'hidden{i}_norm')
    # A bias before a normalisation is subtracted again by it.
    x = keras.layers.Dense(
      width, use_bias=norm is None, kernel_regularizer=parts.regularizer(fields), name=f'hidden{i}'
    )(x)
    x = norm(x) if norm else x
    x = keras.layers.Activation(fields.activation, name=f'hidden{i}_activation')(x)
    if fields.dropout:
      x = keras.layers.Dropout(fields.dropout, name=f'hidden{i}_dropout')(x)
  outputs = parts.head(units, kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='mlp')
