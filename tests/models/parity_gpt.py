"""GPT-2 and Llama out of transformers, with the same weights: what the logits of family `gpt` are held against.

`python -m tests.models.parity_gpt` writes them into golden.json, for where transformers is not installed.
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

UNITS, CONTEXT = 29, 24
# name: fields
CASES: dict[str, dict[str, Any]] = {
  'gpt2': {'layers': 2, 'width': 32, 'heads': 4},
  'llama': {'size': 'llama_7b', 'layers': 2, 'width': 32, 'heads': 4, 'kv_heads': 2, 'hidden': 48},
  'llama3': {'size': 'llama3_1b', 'layers': 1, 'width': 16, 'heads': 2, 'kv_heads': 1, 'hidden': 40},
}


def build(units: int = UNITS, context: int = CONTEXT, **changes: Any) -> keras.Model:
  values = {name: field.default for name, field in models.fields('gpt').items()}
  config = ml_collections.ConfigDict({'model': {'name': 'gpt', **values, **changes}})
  return models.build(config, tf.TensorSpec([context], tf.int32), units)


def ours(name: str) -> keras.Model:
  model = build(**CASES[name])
  parity.fill(model)
  return model


def ids(count: int = 2, context: int = CONTEXT, units: int = UNITS) -> np.ndarray:
  return np.random.default_rng(0).integers(0, units, (count, context)).astype(np.int32)


def theirs(name: str, model: keras.Model) -> np.ndarray:
  """transformers' logits [B, T, V], each eighth place, with the weights of `model`, which is of the case `name`."""
  import torch

  other = (_gpt2 if name == 'gpt2' else _llama)(model).eval()
  with torch.no_grad():
    found = other(input_ids=torch.tensor(ids(), dtype=torch.long))
  return found.logits.numpy()[:, ::8]


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
  return {weight.path.removeprefix('gpt/'): weight.numpy() for weight in model.weights}


def _gpt2(model: Any) -> Any:
  import torch
  import transformers

  size, mine = model.size, _weights(model)
  other = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=UNITS, n_positions=CONTEXT, n_embd=size.width, n_layer=size.layers, n_head=size.heads
    )
  )
  given = {'transformer.wte.weight': mine['tokens/embeddings'], 'lm_head.weight': mine['tokens/embeddings']}
  given['transformer.wpe.weight'] = mine['positions/embeddings']
  given |= {
    f'transformer.ln_f.{theirs}': mine[f'norm/{name}'] for theirs, name in (('weight', 'gamma'), ('bias', 'beta'))
  }
  for i in range(size.layers):
    block, there = f'block{i + 1}', f'transformer.h.{i}'
    for norm, name in (('ln_1', 'attention_norm'), ('ln_2', 'mlp_norm')):
      given |= {
        f'{there}.{norm}.weight': mine[f'{block}/{name}/gamma'],
        f'{there}.{norm}.bias': mine[f'{block}/{name}/beta'],
      }
    for part, ending in (('weight', 'kernel'), ('bias', 'bias')):
      given[f'{there}.attn.c_attn.{part}'] = np.concatenate(
        [mine[f'{block}/{name}/{ending}'] for name in ('query', 'key', 'value')], axis=-1
      )
      for name, key in (('out', 'attn.c_proj'), ('up', 'mlp.c_fc'), ('down', 'mlp.c_proj')):
        given[f'{there}.{key}.{part}'] = mine[f'{block}/{name}/{ending}']
  assert sum(value.size for value in given.values()) == sum(value.size for value in mine.values()) + UNITS * size.width
  other.load_state_dict({key: torch.tensor(value) for key, value in given.items()})
  return other


def _llama(model: Any) -> Any:
  import torch
  import transformers

  size, mine = model.size, _weights(model)
  other = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=UNITS,
      hidden_size=size.width,
      intermediate_size=size.hidden,
      num_hidden_layers=size.layers,
      num_attention_heads=size.heads,
      num_key_value_heads=size.kv_heads,
      rms_norm_eps=size.epsilon,
      rope_parameters={'rope_type': 'default', 'rope_theta': size.rotary_base},
      tie_word_embeddings=size.tied,
    )
  )
  head = mine['tokens/embeddings'] if size.tied else mine['tokens/reverse_embeddings'].T
  given = {'model.embed_tokens.weight': mine['tokens/embeddings'], 'lm_head.weight': head}
  given['model.norm.weight'] = mine['norm/scale']
  names = {
    'query': 'self_attn.q_proj', 'key': 'self_attn.k_proj', 'value': 'self_attn.v_proj', 'out': 'self_attn.o_proj',
    'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj', 'down': 'mlp.down_proj',
  }  # fmt: skip
  for i in range(size.layers):
    block, there = f'block{i + 1}', f'model.layers.{i}'
    given[f'{there}.input_layernorm.weight'] = mine[f'{block}/attention_norm/scale']
    given[f'{there}.post_attention_layernorm.weight'] = mine[f'{block}/mlp_norm/scale']
    given |= {f'{there}.{key}.weight': mine[f'{block}/{name}/kernel'].T for name, key in names.items()}
  other.load_state_dict({key: torch.tensor(value) for key, value in given.items()})
  return other


if __name__ == '__main__':
  golden = json.loads(parity.GOLDEN.read_text())
  golden |= {name: theirs(name, ours(name)).tolist() for name in CASES}
  parity.GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')
