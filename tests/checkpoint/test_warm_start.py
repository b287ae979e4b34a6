"""Weights of an earlier training: whose they are, what is left random, and nothing in silence."""

import json
import secrets

import keras
import ml_collections
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from trainer.checkpoint import Checkpoints, warm_start
from trainer.errors import ConfigError
from trainer.report.banner import first_weights
from trainer.storage import bucket
from trainer.storage.steps import Steps

SHAPES = {'net/hidden/kernel': (3, 4), 'net/hidden/bias': (4,), 'net/head/kernel': (4, 2)}


def fields(path, **changes):
  values = {name: field.default for name, field in warm_start.FIELDS.items()}
  return ml_collections.ConfigDict({**values, 'path': str(path), **changes})


def arrays(seed=0, shapes=SHAPES):
  rng = np.random.default_rng(seed)
  return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def run(folder, steps, best_step=-1):
  """A run whose weights are those of the seed of the step."""
  checkpoints = Checkpoints(str(folder / 'checkpoints'), keep=9, keep_best=0, best_mode='max', writer=True)
  for step, saved in steps.items():
    checkpoints.save(step, saved, {'progress': {'best_step': best_step}})
    checkpoints.wait()
  checkpoints.close()
  return folder


def model_of(seed):
  return {f'model/{name}': array for name, array in arrays(seed).items()}


def same(start, expected):
  assert start.arrays.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(start.arrays[name], array, err_msg=name)


def test_a_run_gives_its_newest_best_or_named_step(tmp_path):
  run(tmp_path, {step: model_of(step) for step in (1, 2, 3)}, best_step=2)
  for step, seed in (('latest', 3), ('best', 2), ('1', 1)):
    same(warm_start.read(fields(tmp_path, step=step), SHAPES), arrays(seed))
  with pytest.raises(ConfigError, match=r'init_from\.step=7 is not there; complete steps: 1, 2, 3'):
    warm_start.read(fields(tmp_path, step='7'), SHAPES)


def test_runs_and_files_in_a_bucket_are_read_too(tmp_path):
  there = bucket.Bucket(f'memory://{secrets.token_hex(4)}/old', 1.0)
  run(tmp_path, {1: model_of(1), 2: model_of(2)})
  steps = Steps(there, str(tmp_path / 'checkpoints'), writer=True)
  for step in (1, 2):
    steps.publish(step)
  same(warm_start.read(fields(there.url), SHAPES), arrays(2))
  same(warm_start.read(fields(there.url, step='1'), SHAPES), arrays(1))
  save_file(arrays(3), str(tmp_path / 'model.safetensors'))
  there.upload(str(tmp_path), ['model.safetensors'])
  same(warm_start.read(fields(f'{there.url}/model.safetensors'), SHAPES), arrays(3))
  for missing in ('other.safetensors', 'nothing'):
    with pytest.raises(ConfigError, match=f'{missing}.* (is not there|is no work directory)'):
      warm_start.read(fields(f'{there.url}/{missing}'), SHAPES)


def test_averaged_weights_come_first(tmp_path):
  averaged = {'ema/net/hidden/kernel': np.ones((3, 4), np.float32)}
  run(tmp_path, {1: {**model_of(1), **averaged, 'optimizer/rate': np.ones(())}})
  start = warm_start.read(fields(tmp_path), SHAPES)
  same(start, {**arrays(1), 'net/hidden/kernel': averaged['ema/net/hidden/kernel']})
  assert not start.unused and not start.kept


def test_an_average_in_a_shorter_dtype_is_taken_too(tmp_path):
  short = np.full((4,), 0.5, ml_dtypes.bfloat16)
  run(tmp_path, {1: {**model_of(1), 'ema/net/hidden/bias': short}})
  bias = warm_start.read(fields(tmp_path), SHAPES).arrays['net/hidden/bias']
  assert bias.dtype == np.float32 and np.all(bias == 0.5)


def test_a_head_is_left_random_and_what_is_not_used_is_said(tmp_path):
  other = {**model_of(1), 'model/net/more/kernel': np.ones((2, 2), np.float32)}
  other['model/net/head/kernel'] = np.ones((4, 9), np.float32)
  run(tmp_path, {1: other})
  with pytest.raises(ConfigError, match=r'has in another shape net/head/kernel \(\[4, 9\], must be \[4, 2\]\)'):
    warm_start.read(fields(tmp_path), SHAPES)
  start = warm_start.read(fields(tmp_path, exclude=('net/head/.*',)), SHAPES)
  assert start.kept == ['net/head/kernel'] and start.unused == ['net/head/kernel', 'net/more/kernel']
  assert first_weights(start.record('X')) == (
    '2 variables from X; left random: net/head/kernel; not used of it: net/head/kernel, net/more/kernel'
  )
  with pytest.raises(ConfigError, match=r"exclude has 'net/haed/\.\*', which matches no variable"):
    warm_start.read(fields(tmp_path, exclude=('net/haed/.*',)), SHAPES)


def test_what_is_missing_is_an_error(tmp_path):
  run(tmp_path, {1: model_of(1)})
  with pytest.raises(ConfigError, match=r'does not have a, b, c and 1 more: .*init_from\.names.*init_from\.exclude'):
    warm_start.read(fields(tmp_path), dict.fromkeys('abcd', (1,)))


def test_positions_are_interpolated_where_that_is_asked_for(tmp_path):
  table = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
  run(tmp_path, {1: {'model/net/positions': table}})
  wanted = {'net/positions': (1, 7, 2)}
  with pytest.raises(ConfigError, match='in another shape'):
    warm_start.read(fields(tmp_path), wanted)
  start = warm_start.read(fields(tmp_path, resize_positions=True), wanted)
  assert start.resized == ['net/positions']
  np.testing.assert_allclose(start.arrays['net/positions'][0, :, 0], np.arange(7))
  shorter = warm_start.read(fields(tmp_path, resize_positions=True), {'net/positions': (1, 2, 2)})
  np.testing.assert_array_equal(shorter.arrays['net/positions'], table[:, [0, 3]])


def test_positions_of_an_image_are_interpolated_in_both_directions(tmp_path):
  rows, columns = np.mgrid[0:3, 0:3].astype(np.float32)
  grid = np.stack([rows, columns], -1).reshape(1, 9, 2)
  table = np.concatenate([np.full((1, 1, 2), 9.0, np.float32), grid], 1)
  rows, columns = np.mgrid[0:5, 0:5].astype(np.float32) / 2
  expected = np.stack([rows, columns], -1).reshape(25, 2)
  run(tmp_path, {1: {'model/embedding/positions': table}})
  start = warm_start.read(fields(tmp_path, resize_positions=True), {'embedding/positions': (1, 26, 2)})
  np.testing.assert_allclose(start.arrays['embedding/positions'][0, 0], [9.0, 9.0], err_msg='the class token keeps its')
  np.testing.assert_allclose(start.arrays['embedding/positions'][0, 1:], expected)
  with pytest.raises(ConfigError, match='in another shape'):
    warm_start.read(fields(tmp_path, resize_positions=True), {'embedding/positions': (1, 24, 2)})


def net():
  """A model with the weights of SHAPES."""
  inputs = keras.Input((3,))
  x = keras.layers.Dense(4, name='hidden')(inputs)
  return keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name='head')(x), name='net')


def test_a_keras_file(tmp_path):
  model = net()
  model.save(tmp_path / 'model.keras')
  table = tmp_path / 'names.json'
  table.write_text(json.dumps([['net/(.*)', r'\1']]))
  start = warm_start.read(fields(tmp_path / 'model.keras', names=str(table)), SHAPES)
  same(start, dict(zip(SHAPES, (np.asarray(weight) for weight in model.weights), strict=True)))


def test_a_file_of_weights_alone(tmp_path):
  model = net()
  model.save_weights(tmp_path / 'model.weights.h5')
  table = tmp_path / 'names.json'
  rows = [['net/hidden/kernel', 'layers/dense/vars/0'], ['net/hidden/bias', 'layers/dense/vars/1']]
  table.write_text(json.dumps([*rows, ['net/head/kernel', 'layers/dense_1/vars/0']]))
  start = warm_start.read(fields(tmp_path / 'model.weights.h5', names=str(table)), SHAPES)
  same(start, dict(zip(SHAPES, (np.asarray(weight) for weight in model.weights), strict=True)))
  assert not start.unused
  (tmp_path / 'bad.weights.h5').write_bytes(b'no such thing')
  with pytest.raises(ConfigError, match=r'bad\.weights\.h5.* cannot be read'):
    warm_start.read(fields(tmp_path / 'bad.weights.h5'), SHAPES)


def test_a_keras_file_with_code_is_refused(tmp_path):
  inputs = keras.Input((3,))
  keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / 'code.keras')
  with pytest.raises(ConfigError, match='cannot be read'):
    warm_start.read(fields(tmp_path / 'code.keras'), SHAPES)


def test_safetensors_under_other_names(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  theirs = {'h.0.weight': arrays()['net/hidden/kernel'].T.copy(), 'h.0.bias': arrays()['net/hidden/bias']}
  numpy.save_file({**theirs, 'lm.weight': arrays()['net/head/kernel']}, tmp_path / 'm.safetensors')
  table = tmp_path / 'names.json'
  table.write_text(
    json.dumps([['net/hidden/kernel', 'h.0.weight', 'transpose'], ['net/hidden/(.*)', r'h.0.\1'], ['.*', 'lm.weight']])
  )
  same(warm_start.read(fields(tmp_path / 'm.safetensors', names=str(table)), SHAPES), arrays())
  (tmp_path / 'bad.safetensors').write_bytes(b'\xff' * 64)
  with pytest.raises(ConfigError, match=r'bad\.safetensors.* cannot be read'):
    warm_start.read(fields(tmp_path / 'bad.safetensors'), SHAPES)


@pytest.mark.parametrize('text', ['{', '[["a"]]', '[["(", "b"]]', '[["a", "b", "turn"]]', '3'])
def test_a_table_of_names_that_is_none(tmp_path, text):
  run(tmp_path, {1: model_of(1)})
  (tmp_path / 'names.json').write_text(text)
  with pytest.raises(ConfigError, match=r'names=.* is neither one of gpt2, .* nor a JSON list of \[pattern, name'):
    warm_start.read(fields(tmp_path, names=str(tmp_path / 'names.json')), SHAPES)


def test_what_is_no_such_file(tmp_path):
  with pytest.raises(ConfigError, match=r'is no work directory of a run, \.keras, \.weights\.h5 or \.safetensors file'):
    warm_start.read(fields(tmp_path), SHAPES)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(ConfigError, match='there is no complete checkpoint in'):
    warm_start.read(fields(tmp_path), SHAPES)


def test_patterns_are_checked():
  assert warm_start._check_patterns(('a.*',)) == '' and 'no regular expression' in warm_start._check_patterns(('(',))
