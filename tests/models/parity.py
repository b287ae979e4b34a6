"""The same networks out of KerasHub, with the same weights: what the zoo's logits are held against.

`python -m tests.models.parity` writes golden.json, the logits of KerasHub, for where it is not installed.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from trainer import models
from trainer.models import resnet, vit

GOLDEN = pathlib.Path(__file__).with_name('golden.json')
UNITS = 5
_SINCOS = {'positions': 'sincos', 'pooling': 'mean'}
# name: (family, image, fields)
CASES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
  'resnet18': ('resnet', (40, 33, 3), {'depth': 18, 'stem': 'image'}),
  'resnet50': ('resnet', (64, 64, 3), {'depth': 50, 'stem': 'image'}),
  'vit_token': ('vit', (32, 48, 3), {'layers': 3, 'width': 24, 'heads': 2, 'patch_size': 8}),
  'vit_mean': ('vit', (32, 32, 1), {'layers': 2, 'width': 32, 'heads': 4, 'patch_size': 4, 'pooling': 'mean'}),
  'vit_sincos': ('vit', (16, 32, 3), {**_SINCOS, 'layers': 2, 'width': 24, 'heads': 3, 'patch_size': 8}),
}


def build(family: str, image: tuple[int, int, int], units: int = UNITS, **changes: Any) -> keras.Model:
  values = {name: field.default for name, field in models.fields(family).items()}
  config = ml_collections.ConfigDict({'model': {'name': family, **values, **changes}})
  return models.build(config, tf.TensorSpec(image, tf.float32), units)


def parameters(make: Callable[[], keras.Model]) -> int:
  """Trainable parameters of a model of any size: its variables are made without values."""
  try:
    with keras.StatelessScope(initialize_variables=False):
      return sum(int(np.prod(v.shape, dtype=np.int64)) for v in make().trainable_variables)
  finally:
    keras.utils.clear_session()  # or they would be given values as soon as another variable is made


def fill(model: keras.Model) -> None:
  """Gives each variable values that depend on its path alone, and that keep activations near 1."""
  for variable in model.weights:
    random, name = np.random.default_rng(zlib.crc32(variable.path.encode())), variable.path.rpartition('/')[2]
    if name in ('gamma', 'scale', 'moving_variance'):
      value = random.uniform(0.5, 1.5, variable.shape)
    else:
      fan_in = np.prod(variable.shape[:-1]) if name == 'kernel' else 25.0
      value = random.normal(size=variable.shape) / np.sqrt(fan_in)
    variable.assign(value.astype(np.float32))


def images(shape: tuple[int, int, int], count: int = 2) -> np.ndarray:
  return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def ours(name: str) -> keras.Model:
  family, image, changes = CASES[name]
  model = build(family, image, **changes)
  fill(model)
  return model


def theirs(name: str, model: keras.Model) -> np.ndarray:
  """KerasHub's logits [B, UNITS] with the weights of `model`, which is of the case `name`."""
  return {'resnet': _hub_resnet, 'vit': _hub_vit}[CASES[name][0]](name, model)


def _hub_resnet(name: str, model: keras.Model) -> np.ndarray:
  import keras_hub

  _, image, changes = CASES[name]
  blocks, bottleneck = resnet.DEPTHS[changes['depth']]
  widths = [64 * 2**i for i in range(4)]
  backbone = keras_hub.models.ResNetBackbone(
    input_conv_filters=[64],
    input_conv_kernel_sizes=[7],
    stackwise_num_filters=widths,
    stackwise_num_blocks=blocks,
    stackwise_num_strides=[1, 2, 2, 2],
    block_type='bottleneck_block' if bottleneck else 'basic_block',
    image_shape=image,
  )
  pairs = {'stem': 'conv1'}
  for stage, count in enumerate(blocks):
    for block in range(count):
      mine, other = f'stage{stage + 1}_block{block + 1}', f'stack{stage}_block{block}'
      pairs |= {f'{mine}_conv{i}': f'{other}_{i}' for i in (1, 2, 3)} | {f'{mine}_shortcut': f'{other}_0'}
  copied = 0
  known = {layer.name for layer in model.layers}
  for mine, other in pairs.items():
    if mine in known:
      backbone.get_layer(f'{other}_conv').set_weights(model.get_layer(mine).get_weights())
      backbone.get_layer(f'{other}_bn').set_weights(model.get_layer(f'{mine}_norm').get_weights())
      copied += len(model.get_layer(mine).weights) + len(model.get_layer(f'{mine}_norm').weights)
  assert copied == len(model.weights) - 2 == len(backbone.weights)
  features = keras.ops.convert_to_numpy(backbone(images(image), training=False))
  return _head(model, features.mean(axis=(1, 2)))


def _hub_vit(name: str, model: keras.Model) -> np.ndarray:
  import keras_hub

  _, image, changes = CASES[name]
  layers, width, heads, patch = (changes[field] for field in ('layers', 'width', 'heads', 'patch_size'))
  token = changes.get('pooling', 'token') == 'token'
  backbone = keras_hub.models.ViTBackbone(
    image_shape=image,
    patch_size=patch,
    num_layers=layers,
    num_heads=heads,
    hidden_dim=width,
    mlp_dim=4 * width,
    use_class_token=token,
  )

  def weights(layer: str) -> list[np.ndarray]:
    return model.get_layer(layer).get_weights()

  embedding = backbone.get_layer('vit_patching_and_embedding')
  embedding.patch_embedding.set_weights(weights('patches'))
  if changes.get('positions') == 'sincos':
    positions = vit.sincos((image[0] // patch, image[1] // patch), width)
  else:
    *class_token, positions = weights('embedding')
    positions = positions[0]
    if token:
      embedding.class_token.assign(class_token[0])
  embedding.position_embedding.set_weights([positions])
  encoder = backbone.get_layer('vit_encoder')
  for i, block in enumerate(encoder.encoder_layers, 1):
    block.layer_norm_1.set_weights(weights(f'block{i}_attention_norm'))
    block.layer_norm_2.set_weights(weights(f'block{i}_mlp_norm'))
    block.mlp.dense_1.set_weights(weights(f'block{i}_mlp_in'))
    block.mlp.dense_2.set_weights(weights(f'block{i}_mlp_out'))
    dense = [weights(f'block{i}_attention_{part}') for part in ('query', 'key', 'value')]
    split = [part for kernel, bias in dense for part in (kernel.reshape(width, heads, -1), bias.reshape(heads, -1))]
    kernel, bias = weights(f'block{i}_attention_out')
    block.mha.set_weights([*split, kernel.reshape(heads, -1, width), bias])
  encoder.layer_norm.set_weights(weights('norm'))
  features = keras.ops.convert_to_numpy(backbone(images(image), training=False))
  return _head(model, features[:, 0] if token else features.mean(axis=1))


def _head(model: keras.Model, features: np.ndarray) -> np.ndarray:
  kernel, bias = model.get_layer('head').get_weights()
  return features @ kernel + bias


if __name__ == '__main__':
  golden = json.loads(GOLDEN.read_text())
  golden |= {name: theirs(name, ours(name)).tolist() for name in CASES}
  GOLDEN.write_text(json.dumps(golden, indent=1) + '\n')
