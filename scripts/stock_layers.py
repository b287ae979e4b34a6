#!/usr/bin/env python3
"""Holds networks of Keras' stock layers against those of this program, by what the compiler says for one TPU v5e.

  .venv/bin/python scripts/stock_layers.py [gpt2 vit bert resnet50 ...]

Prints a table, a row per network as soon as it is compiled: bytes of arguments and temporaries, bytes moved, model
FLOPs and those of the program, of a step of one chip. Nothing runs, and no TPU is needed; a row takes minutes and some
GB of memory, in a process of its own. Data, task, loss and optimizer are the config's in each row, in mixed_bfloat16.
"""

import importlib.util
import os
import subprocess
import sys
import types

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)
sys.path.insert(0, ROOT)

# Network -> config, examples per chip, family of the model of stock layers, its fields, fields of the task.
NETWORKS = {
  'gpt2': ('gpt2_124m', 8, 'stock', {'kind': 'gpt', 'width': 768, 'heads': 12}, {}),
  'vit': ('imagenet_vit_s16', 64, 'stock', {'kind': 'vit', 'width': 384, 'heads': 6}, {}),
  'bert': ('bert_base', 16, 'stock', {'kind': 'bert', 'width': 768, 'heads': 12, 'dropout': 0.1}, {}),
  'resnet50': ('imagenet_resnet50', 64, 'applications', {'application': 'resnet50'}, {'normalize': 'scale'}),
}
WAYS = {'stock': {}, 'ours': {}, 'blocks': {'remat': 'blocks'}}


def transformer(fields, input_spec, units):
  """A transformer as a tutorial writes it: MultiHeadAttention, all logits at once, a head of its own.

  Args:
    fields: `kind`: 'gpt' (looks back, normalises first), 'vit' (normalises first) or 'bert' (normalises last);
      `layers`, `width` and `heads`; `dropout`, the share dropped of the embedding, of attention and behind each half.
    input_spec: of an example: ids [T], or with kind 'vit' an image.
    units: outputs, of each place or of the image.
  """
  import keras
  from keras import layers as stock

  kind, width, heads, drop = fields.kind, fields.width, fields.heads, fields.dropout

  class Positions(stock.Layer):
    def build(self, shape):
      self.table = self.add_weight(shape=shape[1:], name='table')

    def call(self, x):
      return x + self.table

  def dropout(x):
    return stock.Dropout(drop)(x) if drop else x

  inputs = keras.Input(input_spec.shape, dtype=input_spec.dtype)
  if kind == 'vit':
    x = stock.Conv2D(width, 16, 16)(inputs)
    x = stock.Reshape((-1, width))(x)
  else:
    x = stock.Embedding(units, width)(inputs)
  x = dropout(Positions()(x))
  first = kind != 'bert'

  def half(x, layer):
    y = layer(stock.LayerNormalization()(x) if first else x)
    x = stock.Add()([x, dropout(y)])
    return x if first else stock.LayerNormalization()(x)

  for _ in range(fields.layers):
    attention = stock.MultiHeadAttention(heads, width // heads, dropout=drop)
    x = half(x, lambda y, attention=attention: attention(y, y, use_causal_mask=kind == 'gpt'))
    x = half(x, lambda y: stock.Dense(width)(stock.Dense(4 * width, 'gelu')(y)))
  x = stock.LayerNormalization()(x) if first else stock.LayerNormalization()(stock.Dense(width, 'gelu')(x))
  if kind == 'vit':
    x = stock.GlobalAveragePooling1D()(x)
  return keras.Model(inputs, stock.Dense(units, dtype='float32')(x))


def config_of(network, way):
  """The config of a row.

  Args:
    network: a key of NETWORKS.
    way: 'stock'; 'ours', as the config is; or 'blocks', with blocks computed twice.
  """
  from trainer import config as config_lib
  from trainer import models
  from trainer.fields import Field

  name, examples, stock_family, fields, task = NETWORKS[network]
  spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, 'configs', f'{name}.py'))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  defaults = {'kind': 'gpt', 'layers': 12, 'width': 768, 'heads': 12, 'dropout': 0.0}
  described = {key: Field(value, 'see `transformer`') for key, value in defaults.items()}
  models.FAMILIES['stock'] = types.SimpleNamespace(FIELDS=described, build=transformer)
  with config.unlocked():
    if way == 'stock':
      config.model = config_lib.base(task=config.task.name, model=stock_family).model
      config.model.update(fields)
      config.task.update(task)
    else:
      config.model.update(WAYS[way])
    config.train.global_batch_size = config.eval.global_batch_size = examples
  config_lib.check(config)
  return config


def row(network, way):
  """A line of the table."""
  import trainer.main  # noqa: F401  (sets what TensorFlow and jax read when they are imported)
  from trainer.plan import making

  plan = making.make(config_of(network, way), 'v5e:1')
  target = plan['target']
  if 'argument_bytes' not in target:
    return f'| {network}, {plan["examples_per_replica"]} | {way} | does not fit | | | | |'
  gigabytes = (target[part] / 1e9 for part in ('argument_bytes', 'temporary_bytes', 'accessed_bytes_loops_once'))
  teraflops = (plan[part] / 1e12 for part in ('model_flops_per_step_and_replica', 'flops_per_step_and_replica'))
  cells = [f'{number:.3g}' for number in (*gigabytes, *teraflops)]
  return f'| {network}, {plan["examples_per_replica"]} | {way} | {" | ".join(cells)} |'


def main():
  if sys.argv[1:2] == ['--row']:
    print(row(*sys.argv[2:]))
    return
  asked = sys.argv[1:] or list(NETWORKS)
  for network in asked:
    if network not in NETWORKS:
      sys.exit(f'stock_layers: {network!r} is not known. Known: {", ".join(NETWORKS)}')
  print('| network, examples | layers | arguments, GB | temporaries, GB | moved, GB | model TFLOP | TFLOP |')
  print('|---|---|---|---|---|---|---|', flush=True)
  for network in asked:
    for way in WAYS:
      if way == 'blocks' and network == 'resnet50':
        continue  # has no such field
      done = subprocess.run(
        [sys.executable, __file__, '--row', network, way], cwd=ROOT, capture_output=True, text=True, check=False
      )
      if done.returncode:
        sys.exit(f'stock_layers: {network}, {way}: {done.stderr[-2000:]}')
      print(done.stdout.splitlines()[-1], flush=True)


if __name__ == '__main__':
  main()
