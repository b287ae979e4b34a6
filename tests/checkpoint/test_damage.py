"""Bytes that change on the disk after a save: noticed, named, moved aside, and never restored."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import shutil

import numpy as np
import pytest

from trainer.checkpoint import CheckpointError, Checkpoints, DamagedCheckpoint, disk, layout, orbax_io
from trainer.errors import ConfigError

from .conftest import assert_equal, make_state


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file())


def open_reader(folder: pathlib.Path) -> Checkpoints:
  return Checkpoints(str(folder), keep=1, keep_best=0, best_mode='max', writer=False)


def flips(size: int, count: int) -> list[int]:
  """Numbers of bits spread over a file, first and last included."""
  chosen = random.Random(size).sample(range(8 * size), min(count, 8 * size))
  return sorted({0, 8 * size - 1, *chosen}) if size else []


def test_a_flipped_bit_in_any_file_is_noticed(saved, folder):
  reader, step = open_reader(folder), folder / '30'
  files = files_of(step)
  assert len(files) > 8 and step / 'complete.json' in files
  tried = 0
  for path in files:
    original = path.read_bytes()
    for bit in flips(len(original), 12):
      flipped = bytearray(original)
      flipped[bit // 8] ^= 1 << bit % 8
      path.write_bytes(flipped)
      with pytest.raises(DamagedCheckpoint, match='step 30 is damaged: .*' + path.name):
        reader.restore(30)
      tried += 1
    path.write_bytes(original)
  assert tried > 80
  assert_equal(reader.restore(30).arrays, make_state(30))


# Orbax leaves a callback behind in an event loop that it has closed when it fails.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_hashes_of_arrays_suffice_without_those_of_files(saved, folder, monkeypatch):
  """What is damaged between Orbax's read and ours, or before the files were hashed, is noticed too."""
  monkeypatch.setattr(disk, 'first_fault', lambda folder, files: '')
  reader, refused = open_reader(folder), 0
  data = [path for path in files_of(folder / '30') if path.parent.name == 'd' or path.name == '_METADATA']
  assert data
  for path in data:
    original = path.read_bytes()
    for bit in flips(len(original), 8):
      flipped = bytearray(original)
      flipped[bit // 8] ^= 1 << bit % 8
      path.write_bytes(flipped)
      try:
        assert_equal(reader.restore(30).arrays, make_state(30))
      except CheckpointError:
        refused += 1
    path.write_bytes(original)
  assert refused > 10


def truncate(path: pathlib.Path) -> None:
  os.truncate(path, path.stat().st_size - 1)


def lengthen(path: pathlib.Path) -> None:
  with open(path, 'ab') as file:
    file.write(b'\0')


def replace_by_folder(path: pathlib.Path) -> None:
  path.unlink()
  path.mkdir()


@pytest.mark.parametrize('harm', [truncate, lengthen, pathlib.Path.unlink, replace_by_folder])
def test_any_file_cut_lengthened_or_lost_is_noticed(saved, folder, harm):
  reader, step = open_reader(folder), folder / '30'
  spare = folder.parent / 'spare'
  shutil.copytree(step, spare)
  for path in files_of(spare):
    if harm is truncate and not path.stat().st_size:
      continue
    shutil.rmtree(step)
    shutil.copytree(spare, step)
    harm(step / path.relative_to(spare))
    if harm is pathlib.Path.unlink and path.name == 'complete.json':
      with pytest.raises(ConfigError, match='no complete checkpoint of step 30'):
        reader.restore(30)
    else:
      with pytest.raises(DamagedCheckpoint, match=path.name):
        reader.restore(30)
    restored = reader.newest_intact()
    assert restored is not None and restored.step == 20


def flip_largest(step: pathlib.Path) -> None:
  path = max(files_of(step), key=lambda path: path.stat().st_size if path.parent.name == 'd' else 0)
  contents = bytearray(path.read_bytes())
  contents[len(contents) // 2] ^= 1
  path.write_bytes(contents)


def flip_manifest(step: pathlib.Path) -> None:
  path = step / 'complete.json'
  path.write_bytes(path.read_bytes().replace(b'"float32"', b'"float33"', 1))


@pytest.mark.parametrize('harm', [flip_largest, flip_manifest])
def test_the_newest_intact_step_is_restored_and_damaged_ones_are_moved_aside(saved, open_writer, folder, log, harm):
  harm(folder / '20')
  harm(folder / '30')
  contents = {path.name: path.read_bytes() for path in files_of(folder / '30')}
  saved.close()
  log.clear()

  writer = open_writer(keep=1)
  writer.clean()
  restored = writer.newest_intact()
  assert restored is not None and restored.step == 10 and restored.host == {'best': 10 / 7, 'sums': [1.5, None]}
  assert_equal(restored.arrays, make_state(10))
  warnings = [record.getMessage() for record in log if record.levelname == 'WARNING']
  assert len(warnings) == 2
  for step, line in zip((30, 20), warnings, strict=True):
    assert f'step {step} is damaged' in line
    assert f'damaged/{step}-1' in line
  assert writer.steps() == [10]
  assert {path.name: path.read_bytes() for path in files_of(folder / 'damaged' / '30-1')} == contents

  # The way is free: the same steps are saved again, and the next damaged one finds its place beside the first.
  writer.save(20, make_state(21), {})
  writer.save(30, make_state(31), {})
  writer.wait()
  assert writer.steps() == [30]
  harm(folder / '30')
  assert writer.newest_intact() is None
  assert sorted(path.name for path in (folder / 'damaged').iterdir()) == ['20-1', '30-1', '30-2']


def test_the_last_step_known_to_be_good_is_never_deleted(saved, open_writer, folder):
  """However many newer steps there are that nobody has verified."""
  saved.close()
  writer = open_writer(keep=1)
  assert writer.restore(10).step == 10
  writer.save(5, make_state(5), {})
  writer.wait()
  assert writer.steps() == [5, 10, 30]


def test_a_reader_falls_back_and_moves_nothing(saved, folder, log):
  flip_largest(folder / '30')
  before = files_of(folder)
  restored = open_reader(folder).newest_intact()
  assert restored is not None and restored.step == 20
  assert files_of(folder) == before
  assert any('left where it is' in record.getMessage() for record in log)


def test_a_step_under_the_name_of_another_is_damaged(saved, folder):
  (folder / '30').rename(folder / '40')
  with pytest.raises(DamagedCheckpoint, match='that of step 30'):
    saved.restore(40)


def test_a_damaged_manifest_ranks_nowhere(open_writer, folder):
  writer = open_writer(keep_best=1)
  for step, metric in ((1, 0.5), (2, 0.9)):
    writer.save(step, make_state(step), {}, metric=metric)
  writer.wait()
  assert writer.best_step() == 2
  flip_manifest(folder / '2')
  assert writer.best_step() == 1 and writer.metric(2) is None


def test_whole_files_that_orbax_cannot_read_are_not_called_damaged(saved, folder, monkeypatch):
  """A changed Orbax must not have every checkpoint of a run moved aside and the run begin anew."""

  def refuse(path, names=None):
    raise ValueError('unknown layout\nand a long story')

  monkeypatch.setattr(orbax_io, 'read', refuse)
  with pytest.raises(CheckpointError, match=r'step 30 is intact, but Orbax .* cannot read .*unknown layout$') as raised:
    saved.newest_intact()
  assert not isinstance(raised.value, DamagedCheckpoint)
  assert saved.steps() == [10, 20, 30]


@pytest.mark.parametrize(('number', 'damaged'), [(errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)])
def test_only_errors_that_mean_loss_are_damage(saved, monkeypatch, number, damaged):
  def refuse(file):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(disk, '_hash', refuse)
  with pytest.raises(DamagedCheckpoint if damaged else OSError, match=os.strerror(number)):
    saved.restore(30)
  assert saved.steps() == [10, 20, 30]


@pytest.mark.parametrize(
  'change',
  [
    lambda arrays: {**arrays, 'model/dense/kernel': np.zeros((5, 7), np.float32)},
    lambda arrays: {**arrays, 'model/dense/kernel': np.zeros((7, 5), np.float64)},
    lambda arrays: {**arrays, 'more': np.zeros(1)},
    lambda arrays: {name: array for name, array in arrays.items() if name != 'ema/bfloat16'},
  ],
)
def test_another_shape_dtype_or_name_from_orbax_is_noticed(saved, monkeypatch, change):
  read = layout.orbax_io.read
  monkeypatch.setattr(orbax_io, 'read', lambda path, names=None: change(read(path, names)))
  with pytest.raises(DamagedCheckpoint, match='array'):
    saved.restore(30)
