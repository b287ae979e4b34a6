"""T5 out of transformers, with the same weights: what the logits of family `seq2seq` are held against.

`python -m tests.models.parity_t5` writes them into golden.json, for where transformers is not installed.
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

UNITS = 23
SOURCE, TARGET = 40, 33
_SMALL = {'layers': 2, 'width': 32, 'heads': 2, 'head_width': 8, 'hidden': 48, 'dropout': 0.1}
# The distances of the places are of every bucket: near, far and beyond the largest.
CASES: dict[str, dict[str, Any]] = {
  't5': {**_SMALL, 'buckets': 16, 'max_distance': 24},
  't5_v1_1': {**_SMALL, 'activation': 'gated_gelu', 'tied': False},
}


def build(units: int = UNITS, source: int = SOURCE, target: int = TARGET, family='seq2seq', **changes) -> keras.Model:
  values = {name: field.default for name, field in models.fields(family).items()}
  config = ml_collections.ConfigDict({'model': {'name': family, **values, **changes}})
  spec = {'source': tf.TensorSpec([source], tf.int32), 'target': tf.TensorSpec([target], tf.int32)}
  return models.build(config, spec, units)


def ours(name: str) -> keras.Model:
  model = build(**CASES[name])
  parity.fill(model)
  return model


def ids(count: int = 2, source: int = SOURCE, target: int = TARGET, units: int = UNITS) -> dict[str, np.ndarray]:
  """Sources of different length, and targets that begin with the padding, as T5's do."""
  random = np.random.default_rng(0)
  rows = {
    'source': random.integers(1, units, (count, source)).astype(np.int32),
    'target': random.integers(1, units, (count, target)).astype(np.int32),
  }
  for row in range(1, count):
    rows['source'][row, source // (row + 1) :] = 0
  rows['target'][:, 0] = 0
  return rows


def theirs(name: str, model: keras.Model) -> np.ndarray:
  """transformers' logits [B, T, V], each eighth place, with the weights of `model`, which is of the case `name`."""
  import torch
  import transformers

  fields = {n: field.default for n, field in models.fields('seq2seq').items()} | CASES[name]
  gated = fields['activation'] == 'gated_gelu'
  config = transformers.T5Config(
    vocab_size=UNITS,
    d_model=fields['width'],
    d_kv=fields['head_width'],
    d_ff=fields['hidden'],
    num_layers=fields['layers'],
    num_heads=fields['heads'],
    relative_attention_num_buckets=fields['buckets'],
    relative_attention_max_distance=fields['max_distance'],
    feed_forward_proj='gated-gelu' if gated else 'relu',
    tie_word_embeddings=fields['tied'],
    pad_token_id=0,
    decoder_start_token_id=0,
  )
  # Its constructor remembers that the outputs are not scaled, and ties them all the same.
  config.tie_word_embeddings = fields['tied']
  other = transformers.T5ForConditionalGeneration(config).eval()
  state, given = other.state_dict(), {}
  for weight in model.weights:
    for key in _keys(weight.path.removeprefix('seq2seq/'), fields['tied']):
      given[key] = torch.tensor(weight.numpy().T if weight.path.endswith('kernel') else weight.numpy())
  assert {key: value.shape for key, value in given.items()} == {key: value.shape for key, value in state.items()}
  other.load_state_dict(given)
  rows = {key: torch.tensor(value, dtype=torch.long) for key, value in ids().items()}
  with torch.no_grad():
    found = other(
      input_ids=rows['source'], attention_mask=(rows['source'] != 0).long(), decoder_input_ids=rows['target']
    )
  return found.logits.numpy()[:, ::8]


def _keys(path: str, tied: bool) -> list[str]:
  """Where transformers has the weight that we have at `path`."""
  block, *rest = path.split('/')
  side = 'decoder' if block.startswith('decoder') else 'encoder'
  match block:
    case 'embedding':
      keys = ['shared.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight']
      return keys if not tied else [*keys, 'lm_head.weight']
    case 'head':
      return ['lm_head.weight']
    case 'encoder_positions' | 'decoder_positions':
      return [f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight']
    case 'encoder_norm' | 'decoder_norm':
      return [f'{side}.final_layer_norm.weight']
  layer, *half = rest[:-1]
  number, last = int(block.removeprefix(side)) - 1, 2 if side == 'decoder' else 1
  place = {'attention': 0, 'cross': 1}.get(layer, last)
  if [layer, *half][-1] == 'norm':
    return [f'{side}.block.{number}.layer.{place}.layer_norm.weight']
  if place == last:
    inner = {'in': 'wi', 'gate': 'wi_0', 'value': 'wi_1', 'out': 'wo'}[layer]
    return [f'{side}.block.{number}.layer.{place}.DenseReluDense.{inner}.weight']
  kind = 'SelfAttention' if layer == 'attention' else 'EncDecAttention'
  return [f'{side}.block.{number}.layer.{place}.{kind}.{half[0][0]}.weight']


if __name__ == '__main__':
  golden = json.loads(parity.GOLDEN.read_text())
  golden |= {name: theirs(name, ours(name)).tolist() for name in CASES}
  parity.GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')
