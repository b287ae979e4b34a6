"""Saving and restoring while nothing goes wrong."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

from trainer.checkpoint import Checkpoints, NoSuchCheckpoint, check_compatible, checkpoints, manifest, orbax_io
from trainer.errors import ConfigError

from .conftest import assert_equal, make_state


def every_dtype():
  rng = np.random.default_rng(0)
  arrays = {}
  for name in sorted(manifest.DTYPES):
    numbers = rng.integers(-8, 8, (3, 4)) if not name.startswith(('u', 'bool')) else rng.integers(0, 2, (3, 4))
    arrays[f'dtype/{name}'] = numbers.astype(name)
    arrays[f'scalar/{name}'] = np.array(1).astype(name)
    arrays[f'empty/{name}'] = np.zeros((2, 0, 3), name)
  return arrays


def odd_values():
  return {
    'negative zero': np.full((2, 2), -0.0, np.float32),
    'negative zero scalar': np.array(-0.0),
    'bfloat16': np.array([-0.0, np.inf, np.nan], ml_dtypes.bfloat16),
    'payloads of nan': np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32),
    'subnormal': np.array([5e-324, -5e-324]),
    'large integers': np.array([2**63 - 1, -(2**63)]),
    'zeros': np.zeros((5, 5), np.int64),
  }


def odd_layouts():
  base = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
  read_only = base.copy()
  read_only.flags.writeable = False
  return {
    'fortran': np.asfortranarray(base),
    'transposed': base.T,
    'every other': base[:, ::2, ::-1],
    'broadcast': np.broadcast_to(np.float32(3), (4, 4)),
    'read-only': read_only,
  }


def odd_names():
  names = ['a', 'a/b', 'a.b', 'a/c/0', 'a/zarr.json', '0', '.', '..', '/abs', 'a//b', 'ü "\n\'', 'x' * 300, '[1]']
  return {name: np.full(2, index) for index, name in enumerate(names)}


def sizes():
  """Of both sides of what is packed."""
  rng = np.random.default_rng(0)
  return {f'{count} of {dtype}': rng.random(count).astype(dtype) for count in (3, 16383, 16384, 70000)
          for dtype in ('float32', 'bfloat16', 'float64')}  # fmt: skip


@pytest.mark.parametrize('make', [every_dtype, odd_values, odd_layouts, odd_names, sizes, dict])
def test_arrays_come_back_equal_to_the_byte(open_writer, make):
  writer, arrays = open_writer(), make()
  writer.save(3, arrays, {})
  writer.wait()
  restored = writer.restore(3)
  assert restored.step == 3
  assert_equal(restored.arrays, arrays)


def test_some_arrays_are_read(tmp_path):
  arrays = sizes()
  path = str(tmp_path / 'arrays')
  orbax_io.write(path, arrays)
  for names in (['3 of float32'], ['70000 of float64'], ['3 of bfloat16', '16384 of float32'], list(arrays)):
    assert_equal(orbax_io.read(path, names), {name: arrays[name] for name in names})
  assert all(array.flags.aligned and array.flags.writeable for array in orbax_io.read(path).values())


def test_small_arrays_do_not_each_cost_an_array(tmp_path):
  path = str(tmp_path / 'arrays')
  orbax_io.write(path, {f'{number}/bias': np.full(number + 1, number, np.float32) for number in range(50)})
  assert len(orbax_io._orbax().load(path)) == 2


@pytest.mark.parametrize('name', ['__small__', '__small_index__'])
def test_a_name_that_packing_needs_is_refused(tmp_path, name):
  with pytest.raises(ValueError, match=f"must not be called '{name}'"):
    orbax_io.write(str(tmp_path / 'arrays'), {name: np.zeros(3), 'other': np.zeros(3)})


def test_what_earlier_versions_wrote_is_restored(open_writer, monkeypatch):
  """They gave Orbax each array as it was."""
  writer = open_writer()
  with monkeypatch.context() as patch:
    patch.setattr(orbax_io, '_packed', dict)
    patch.setattr(manifest, 'FORMAT', 2)
    writer.save(1, every_dtype() | odd_names(), {})
    writer.wait()
  assert_equal(writer.restore(1).arrays, every_dtype() | odd_names())


def test_only_arrays_without_elements(open_writer):
  writer = open_writer()
  writer.save(0, {'a': np.zeros((0, 2))}, {})
  writer.wait()
  assert writer.restore(0).arrays['a'].shape == (0, 2)


def test_host_state_comes_back(open_writer):
  writer = open_writer()
  host = {
    'best': 0.1 + 0.2,
    'none': None,
    'list': [1, [2.5]],
    'large': 2**80,
    'infinite': math.inf,
    'naïve': {'': True},
  }
  writer.save(1, make_state(1), host)
  writer.wait()
  assert writer.restore(1).host == writer.host(1) == host


def test_host_state_is_taken_over_at_once(open_writer, monkeypatch):
  writer, host = open_writer(), {'sums': [1.0]}
  begun = threading.Event()
  monkeypatch.setattr(checkpoints, 'on_stage', lambda stage: stage == 'begun' and begun.wait(60))
  writer.save(1, make_state(1), host)
  host['sums'].append(2.0)
  begun.set()
  writer.wait()
  assert writer.restore(1).host == {'sums': [1.0]}


def test_what_is_no_json_is_refused_before_anything_is_written(open_writer):
  writer = open_writer()
  with pytest.raises(TypeError):
    writer.save(1, make_state(1), {'array': np.ones(1)})
  assert writer.steps() == []


def test_a_folder_that_was_moved_still_restores(saved, folder):
  saved.close()
  elsewhere = folder.parent / 'elsewhere'
  shutil.move(folder, elsewhere)
  reader = Checkpoints(str(elsewhere), keep=1, keep_best=0, best_mode='max', writer=False)
  assert_equal(reader.restore(20).arrays, make_state(20))


def test_newest_and_best_are_kept(open_writer):
  writer = open_writer(keep=2, keep_best=1, best_mode='min')
  for step, loss in enumerate([0.5, 0.1, 0.4, 0.3, math.nan, None]):
    writer.save(step, make_state(step), {}, metric=loss)
  writer.wait()
  assert writer.steps() == [1, 4, 5]
  assert writer.best_step() == 1
  assert (writer.metric(1), writer.metric(5), writer.metric(99)) == (0.1, None, None)
  assert_equal(writer.restore(1).arrays, make_state(1))


def test_a_reader_sees_what_the_writer_saves_and_changes_nothing(open_writer, folder):
  reader = Checkpoints(str(folder), keep=1, keep_best=0, best_mode='max', writer=False)
  assert reader.steps() == [] and reader.newest_intact() is None and reader.best_step() is None
  assert not folder.exists()
  writer = open_writer(keep=1)
  for step in (1, 2):
    writer.save(step, make_state(step), {}, metric=1.0)
    writer.wait()
    assert reader.steps() == [step] and reader.best_step() == step
    restored = reader.newest_intact()
    assert restored is not None and restored.step == step
    assert_equal(restored.arrays, make_state(step))
  with pytest.raises(AssertionError):
    reader.save(3, make_state(3), {})


def test_a_step_that_is_deleted_while_it_is_read_is_missing_and_not_damaged(saved, monkeypatch):
  read = checkpoints.Layout._read_arrays

  def delete_then_read(layout, found):
    if found.step == 30:
      layout.delete(30)
    return read(layout, found)

  monkeypatch.setattr(checkpoints.Layout, '_read_arrays', delete_then_read)
  with pytest.raises(NoSuchCheckpoint, match=r'step 30 .* 10, 20'):
    saved.restore(30)
  restored = saved.newest_intact()
  assert restored is not None and restored.step == 20


def test_a_missing_step_is_one_line_for_the_user(saved):
  with pytest.raises(ConfigError, match=r'no complete checkpoint of step 25 in .*choose one of these: 10, 20, 30$'):
    saved.restore(25)


def test_a_second_save_of_a_step_replaces_it(saved):
  saved.save(20, make_state(99), {'new': True})
  saved.wait()
  assert saved.steps() == [10, 20, 30]
  restored = saved.restore(20)
  assert restored.host == {'new': True}
  assert_equal(restored.arrays, make_state(99))


def test_saving_beside_later_steps_warns_and_keeps_the_new_one(open_writer, log):
  writer = open_writer(keep=1)
  writer.save(30, make_state(30), {})
  writer.save(20, make_state(20), {})
  writer.wait()
  assert {20, 30} == set(writer.steps())
  assert any('step 20 is saved beside later steps ([30])' in record.getMessage() for record in log)


def test_a_second_save_waits_for_the_first(open_writer, monkeypatch):
  writer = open_writer()
  order: list[str] = []
  reached, go_on = threading.Event(), threading.Event()

  def stop(stage):
    order.append(f'{threading.current_thread().name} {stage}')
    if stage == 'begun' and not reached.is_set():
      reached.set()
      assert go_on.wait(60)

  monkeypatch.setattr(checkpoints, 'on_stage', stop)
  writer.save(1, make_state(1), {})  # returns although the save cannot go on
  assert reached.wait(60)
  second = threading.Thread(target=writer.save, args=(2, make_state(2), {}))
  second.start()
  second.join(0.1)
  assert second.is_alive()
  go_on.set()
  second.join(60)
  writer.wait()
  stages = ('begun', 'written', 'sealed', 'before_marker', 'complete', 'collected')
  assert order == [f'checkpoint-{step} {stage}' for step in (1, 2) for stage in stages]


def test_no_thread_is_left_between_saves(saved):
  assert [thread.name for thread in threading.enumerate() if thread.name.startswith('checkpoint')] == []


def test_clean_leaves_what_is_not_ours(saved, folder, log):
  before = {path.name for path in folder.iterdir()}
  (folder / 'notes.txt').write_text('mine')
  (folder / 'best').mkdir()
  (folder / '007').mkdir()
  (folder / '40').mkdir()
  (folder / '40' / 'model.bin').write_text('somebody else put this here')
  (folder / '50.saving.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
  (folder / '10.deleting').mkdir()
  saved.clean()
  assert {path.name for path in folder.iterdir()} == before | {'notes.txt', 'best', '007', 'damaged'}
  assert (folder / 'damaged' / '40-1' / 'model.bin').exists()
  assert any('step 40 has no complete.json' in record.getMessage() for record in log)


def test_orbax_is_silent_and_a_save_is_one_line(open_writer, log):
  writer = open_writer()
  writer.save(5, make_state(5), {})
  writer.wait()
  writer.restore(5)
  assert [record.getMessage().split(':')[0] for record in log] == ['saved checkpoint of step 5']


def expected_of(arrays):
  return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def test_the_same_model_is_compatible():
  check_compatible(make_state(1), expected_of(make_state(2)))
  check_compatible({'a': np.ones(2, ml_dtypes.bfloat16)}, {'a': ([2], 'bfloat16')})


def test_another_model_is_named_in_one_line():
  arrays = {
    'kept': np.ones(2),
    'b': np.ones((2, 3), np.float32),
    'c': np.ones(1),
    **{f'old{i}': np.ones(1) for i in range(5)},
  }
  expected = {'kept': ((2,), 'float64'), 'b': ((2, 4), 'float32'), 'c': ((1,), 'float16'), 'new': ((), 'int64')}
  with pytest.raises(ConfigError) as raised:
    check_compatible(arrays, expected)
  assert str(raised.value) == (
    "checkpoint of another model: missing 'new'; unexpected 'old0', 'old1', 'old2' and 2 more; "
    "different 'b' (float32[2,3], must be float32[2,4]), 'c' (float64[1], must be float16[1]): "
    'use the config that it was saved with, or another workdir'
  )


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_user(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match='choose another workdir'):
    Checkpoints('file/checkpoints', keep=1, keep_best=0, best_mode='max', writer=True)


def test_tensorflow_is_not_imported():
  program = 'import sys, trainer.checkpoint; sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)'
  subprocess.run([sys.executable, '-c', program], check=True, timeout=120)
