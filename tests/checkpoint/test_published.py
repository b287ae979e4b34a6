"""Published files, as other libraries write them, give our models the outputs that those have."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.checkpoint import published_files
from tests.checkpoint.test_warm_start import fields
from tests.models import parity, parity_bert, parity_gpt, parity_t5
from trainer.checkpoint import published, warm_start
from trainer.errors import ConfigError

FOLDER, UNITS, PLACES, IMAGE = (
  published_files.FOLDER, published_files.UNITS, published_files.PLACES, published_files.IMAGE,
)  # fmt: skip
_SMALL = {'layers': 2, 'width': 8, 'heads': 2}
# File -> its table, and our model.
CASES = {
  'gpt2': ('gpt2', lambda: parity_gpt.build(UNITS, PLACES, **_SMALL)),
  'llama': ('llama', lambda: parity_gpt.build(UNITS, PLACES, **_SMALL, size='llama_7b', kv_heads=1, hidden=12)),
  'bert': ('bert', lambda: parity_bert.build(UNITS, PLACES, **_SMALL)),
  'bert_text': ('bert', lambda: parity_bert.build(5, PLACES, **_SMALL, vocabulary=UNITS)),
  't5': (
    't5',
    lambda: parity_t5.build(
      UNITS, PLACES, PLACES, **_SMALL, head_width=4, hidden=12, activation='gated_gelu', tied=False
    ),
  ),
  'vit': ('vit', lambda: parity.build('vit', (IMAGE, IMAGE, 3), **_SMALL, patch_size=8)),
  'timm_vit': ('timm_vit', lambda: parity.build('vit', (IMAGE, IMAGE, 3), **_SMALL, patch_size=8)),
}


def told(path):
  """The inputs and outputs of a file's metadata."""
  from safetensors import safe_open

  with safe_open(path, 'np') as file:
    return [json.loads(file.metadata()[key]) for key in ('inputs', 'outputs')]


def shapes(model):
  return {weight.path: tuple(weight.shape) for weight in model.weights}


@pytest.mark.parametrize('name', CASES)
def test_outputs_are_those_of_the_library_that_wrote_the_file(name):
  pytest.importorskip('safetensors')
  table, build = CASES[name]
  path = FOLDER / f'{name}.safetensors'
  inputs, expected = told(path)
  model = build()
  start = warm_start.read(fields(path, names=table), shapes(model))
  assert not start.kept and not start.resized
  for weight in model.weights:
    weight.assign(start.arrays[weight.path])
  if 'image' in inputs:
    found = model(np.array(inputs['image'], np.float32))
  elif name == 't5':
    ids = np.array(inputs['ids'], np.int32)
    found = model({'source': ids, 'target': ids[:, ::-1]})
  else:
    found = model(np.array(inputs['ids'], np.int32))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected).max() > 0.1


def test_a_file_without_the_prefix_of_the_trunk_is_read_too(tmp_path):
  safetensors = pytest.importorskip('safetensors.numpy')
  tensors = safetensors.load_file(FOLDER / 'gpt2.safetensors')
  assert all(name.startswith('transformer.') or name == 'lm_head.weight' for name in tensors)
  bare = {name.removeprefix('transformer.'): tensor for name, tensor in tensors.items()}
  safetensors.save_file(bare, tmp_path / 'bare.safetensors')
  wanted = shapes(CASES['gpt2'][1]())
  starts = [
    warm_start.read(fields(path, names='gpt2'), wanted)
    for path in (FOLDER / 'gpt2.safetensors', tmp_path / 'bare.safetensors')
  ]
  for path, array in starts[0].arrays.items():
    np.testing.assert_array_equal(starts[1].arrays[path], array)


def test_sixteen_bits_become_thirty_two_and_several_files_are_one(tmp_path):
  safetensors = pytest.importorskip('safetensors.tensorflow')
  tensors = safetensors.load_file(FOLDER / 'gpt2.safetensors')
  names = sorted(tensors)
  half = {'a.safetensors': names[:10], 'b.safetensors': names[10:]}
  for file, part in half.items():
    safetensors.save_file({name: tf.cast(tensors[name], tf.bfloat16) for name in part}, tmp_path / file)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {name: file for file, part in half.items() for name in part}}))
  start = warm_start.read(fields(index, names='gpt2'), shapes(CASES['gpt2'][1]()))
  assert {array.dtype for array in start.arrays.values()} == {np.dtype('float32')}
  expected = tf.cast(tf.cast(tensors['transformer.wte.weight'], tf.bfloat16), tf.float32)
  np.testing.assert_array_equal(start.arrays['gpt/tokens/embeddings'], expected)


def test_an_index_that_points_elsewhere_is_refused(tmp_path):
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {'a': '../secret.safetensors'}}))
  with pytest.raises(ConfigError, match='does not lie beside it'):
    warm_start.read(fields(index), {'a': (1,)})


def test_names_that_are_known_are_recognised_and_said():
  pytest.importorskip('safetensors')
  with pytest.raises(ConfigError, match=r"init_from\.names \(its names are those of 'gpt2'\)"):
    warm_start.read(fields(FOLDER / 'gpt2.safetensors'), shapes(CASES['gpt2'][1]()))
  for name, (table, _) in CASES.items():
    from safetensors import safe_open

    with safe_open(FOLDER / f'{name}.safetensors', 'np') as file:
      assert published.known(list(file.keys())) == table


def test_another_size_is_an_error_that_names_both():
  pytest.importorskip('safetensors')
  keras.utils.clear_session()
  model = parity_gpt.build(UNITS, PLACES, layers=2, width=16, heads=2)
  with pytest.raises(ConfigError, match=r'in another shape gpt/tokens/embeddings \(\[13, 8\], must be \[13, 16\]\)'):
    warm_start.read(fields(FOLDER / 'gpt2.safetensors', names='gpt2'), shapes(model))
