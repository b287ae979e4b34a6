"""A transformer's encoder over a sequence of symbols (bytes, DNA, amino acids) or of vectors, and a vector out of it.

The blocks are those of the vision transformer (vit.py): normalisation first, as in Xiong et al., On Layer Normalization
in the Transformer Architecture, 2020; gelu. Of symbols, 0 is padding: nobody looks at it.

Dimensions: B batch, T places, F numbers per place, D model width.
"""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.models import parts, remat, vit

FIELDS: dict[str, Field] = {
  'vocabulary': Field(
    0, 'values that integer inputs take, from 0 on; 0: the inputs are vectors', at_least(0), fixed=True
  ),
  'layers': Field(4, 'blocks', at_least(1), fixed=True),
  'width': Field(128, 'width of a place', at_least(1), fixed=True),
  'heads': Field(4, 'attention heads, which share the width', at_least(1), fixed=True),
  'summary': Field(
    'mean',
    'from a sequence to a vector: mean over its places; or all of them, where each means the same in every sequence',
    one_of('mean', 'all'),
    fixed=True,
  ),
  'dropout': Field(0.0, 'share dropped of the places, behind each dense layer of a block, and of the vector', fraction),
  **remat.FIELDS,
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Integers [B, T] with `vocabulary`, or vectors [B, T, F] -> blocks -> vector -> outputs.

  Raises:
    ConfigError: the inputs are not such sequences, or the heads do not divide the width.
  """
  x = inputs = parts.inputs('sequence_transformer', input_spec, rank=1 if fields.vocabulary else 2)
  if fields.width % fields.heads:
    raise ConfigError(f'model.heads={fields.heads} does not divide model.width={fields.width}: change one of them')
  there = None
  if fields.vocabulary:
    there = parts.Symbols(name='there')(inputs)
    x = keras.layers.Embedding(fields.vocabulary, fields.width, name='embedding')(x)
  else:
    x = keras.layers.Dense(fields.width, name='embedding')(x)
  x = vit.Embedding((1, inputs.shape[1]), class_token=False, learned=True, name='positions')(x)
  x = parts.dropout(fields, x, 'positions')
  for i in range(1, fields.layers + 1):
    x = vit.block(fields, x, fields.width, fields.heads, f'block{i}', key_mask=there)
  x = keras.layers.LayerNormalization(epsilon=vit.EPSILON, name='norm')(x)
  if fields.summary == 'all':
    x = keras.layers.Flatten(name='vector')(x)
  elif there is None:
    x = keras.layers.GlobalAveragePooling1D(name='vector')(x)
  else:
    x = parts.MaskedMean(name='vector')([x, there])
  outputs = parts.head(units)(parts.dropout(fields, x, 'vector'))
  return keras.Model(inputs, outputs, name='sequence_transformer')
