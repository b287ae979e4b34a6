"""BERT out of transformers, with the same weights: what the outputs of family `bert` are held against.

`python -m tests.models.parity_bert` writes them into golden.json, for where transformers is not installed.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from tests.models import parity
from trainer import models

UNITS, PLACES = 31, 20
# name: fields
CASES: dict[str, dict[str, Any]] = {
  'bert': {'layers': 2, 'width': 32, 'heads': 4},
  'bert_text': {'layers': 1, 'width': 24, 'heads': 2, 'vocabulary': 37},
}


def build(units: int = UNITS, places: int = PLACES, **changes: Any) -> keras.Model:
  values = {name: field.default for name, field in models.fields('bert').items()}
  config = ml_collections.ConfigDict({'model': {'name': 'bert', **values, **changes}})
  return models.build(config, tf.TensorSpec([places], tf.int32), units)


def ours(name: str) -> keras.Model:
  model = build(**CASES[name])
  parity.fill(model)
  return model


def ids(count: int = 3, places: int = PLACES, units: int = UNITS) -> np.ndarray:
  """Texts of different length, 0 behind them."""
  rows = np.random.default_rng(0).integers(1, units, (count, places)).astype(np.int32)
  return np.where(np.arange(places) < np.array([places, places // 2, 3])[:count, np.newaxis], rows, 0)


def theirs(name: str, model: keras.Model) -> np.ndarray:
  """transformers' logits [B, T', V], or its outputs of a text [B, V], with the weights of `model`, of case `name`."""
  import torch
  import transformers

  fields = CASES[name]
  config = transformers.BertConfig(
    vocab_size=fields.get('vocabulary', UNITS),
    hidden_size=fields['width'],
    num_hidden_layers=fields['layers'],
    num_attention_heads=fields['heads'],
    intermediate_size=4 * fields['width'],
    max_position_embeddings=PLACES,
    num_labels=UNITS,
  )
  of_text = 'vocabulary' in fields
  other = (transformers.BertForSequenceClassification if of_text else transformers.BertForMaskedLM)(config).eval()
  state, given = other.state_dict(), {}
  for weight in model.weights:
    for key in _keys(weight.path, of_text):
      given[key] = torch.tensor(weight.numpy().T if weight.path.endswith('kernel') else weight.numpy())
  assert {key: value.shape for key, value in given.items()} == {key: value.shape for key, value in state.items()}
  other.load_state_dict(given)
  rows = torch.tensor(ids(), dtype=torch.long)
  with torch.no_grad():
    return seen(other(input_ids=rows, attention_mask=(rows != 0).long()).logits.numpy())


def seen(outputs: Any) -> Any:
  """What is compared: each eighth place [B, T', V], or all of a text [B, V]."""
  return outputs[:, ::8] if len(outputs.shape) == 3 else outputs


def _keys(path: str, of_text: bool) -> list[str]:
  """Where transformers has the weight that we have at `path`."""
  layer, part = path.split('/')[-2:]
  kind = {'kernel': 'weight', 'bias': 'bias', 'gamma': 'weight', 'beta': 'bias'}.get(part, '')
  match layer:
    case 'tokens':
      keys = ['bert.embeddings.word_embeddings.weight', 'cls.predictions.decoder.weight']
      return keys[:1] if of_text else keys
    case 'head':
      return [f'classifier.{kind}'] if of_text else ['cls.predictions.bias', 'cls.predictions.decoder.bias']
    case 'embedding':
      return [f'bert.embeddings.{"position" if part == "positions" else "token_type"}_embeddings.weight']
    case 'embedding_norm':
      return [f'bert.embeddings.LayerNorm.{kind}']
    case 'transform':
      return [f'cls.predictions.transform.dense.{kind}']
    case 'transform_norm':
      return [f'cls.predictions.transform.LayerNorm.{kind}']
    case 'pooler':
      return [f'bert.pooler.dense.{kind}']
  block, _, rest = layer.partition('_')
  there = f'bert.encoder.layer.{int(block.removeprefix("block")) - 1}' if block.startswith('block') else ''
  match rest.split('_'):
    case ['attention', 'out']:
      return [f'{there}.attention.output.dense.{kind}']
    case ['attention', 'norm']:
      return [f'{there}.attention.output.LayerNorm.{kind}']
    case ['attention', name]:
      return [f'{there}.attention.self.{name}.{kind}']
    case ['mlp', 'in']:
      return [f'{there}.intermediate.dense.{kind}']
    case ['mlp', 'out']:
      return [f'{there}.output.dense.{kind}']
    case ['mlp', 'norm']:
      return [f'{there}.output.LayerNorm.{kind}']
  raise AssertionError(path)


if __name__ == '__main__':
  golden = json.loads(parity.GOLDEN.read_text())
  golden |= {name: theirs(name, ours(name)).tolist() for name in CASES}
  parity.GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')
