"""Saves that fail: said at once in one line, nothing older harmed, nothing left behind, and the next one works."""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from trainer.checkpoint import CheckpointError, checkpoints, disk, orbax_io

from .conftest import assert_equal, make_state


def assert_untouched(writer, folder, steps=(10, 20, 30)):
  """The steps are all there is in the folder, and every one of them verifies."""
  assert sorted(path.name for path in folder.iterdir()) == sorted(str(step) for step in steps)
  for step in steps:
    assert_equal(writer.restore(step).arrays, make_state(step))


def errors_of(log):
  return [record.getMessage() for record in log if record.levelname == 'ERROR']


class FailingSync:
  """Stands for os.fsync, and fails the call of a number."""

  sync = staticmethod(os.fsync)

  def __init__(self, fail_at: int):
    self.calls, self.fail_at = 0, fail_at

  def __call__(self, handle: int) -> None:
    self.calls += 1
    if self.calls == self.fail_at:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    self.sync(handle)


def failing_syncs(monkeypatch) -> Iterator[FailingSync]:
  """Fails the first sync of what is done between, then the second, and so on until there is none to fail.

  How many there are differs from save to save: Orbax spreads the data over more or fewer files.
  """
  for fail_at in itertools.count(1):
    failing = FailingSync(fail_at)
    monkeypatch.setattr(os, 'fsync', failing)
    yield failing
    monkeypatch.setattr(os, 'fsync', FailingSync.sync)
    if failing.calls < fail_at:
      assert fail_at > 10
      return


def test_a_disk_that_is_full_at_any_sync_fails_that_save_only(saved, folder, monkeypatch, log):
  for failing in failing_syncs(monkeypatch):
    log.clear()
    saved.save(50, make_state(50), {})
    saved._join()
    if failing.calls < failing.fail_at:
      continue
    assert saved.failure().errno == errno.ENOSPC
    assert errors_of(log) == [
      'checkpoint of step 50 was not saved: the disk is full (No space left on device); training goes on, 2 more in a '
      'row will end it'
    ]
    assert saved.steps() == [10, 20, 30]
    assert not list(folder.glob('50*'))
    saved._failures = 0
  assert_untouched(saved, folder, (10, 20, 30, 50))


def test_replacing_a_step_that_fails_at_any_sync_keeps_the_old_one(saved, folder, monkeypatch):
  for failing in failing_syncs(monkeypatch):
    saved.save(30, make_state(31), {})
    saved._join()
    if failing.calls < failing.fail_at:
      continue
    assert saved.failure() is not None
    monkeypatch.setattr(os, 'fsync', FailingSync.sync)
    assert sorted(path.name for path in folder.iterdir()) == ['10', '20', '30']
    assert_equal(saved.restore(30).arrays, make_state(30))
    saved._failures = 0
  assert_equal(saved.restore(30).arrays, make_state(31))


def test_too_little_room_fails_before_anything_is_written(saved, folder, monkeypatch, log):
  usage = collections.namedtuple('usage', 'total used free')
  monkeypatch.setattr(disk.shutil, 'disk_usage', lambda path: usage(10**10, 10**10, 2_000_000))
  monkeypatch.setattr(orbax_io, 'write', lambda path, arrays: pytest.fail('nothing may be written'))
  log.clear()
  saved.save(40, {'a': np.zeros(10**6)}, {})
  with pytest.raises(CheckpointError, match='disk is full'):
    saved.wait()
  assert errors_of(log) == [
    'checkpoint of step 40 was not saved: the disk is full (0.009 GB needed, 0.002 GB free); training goes on, 2 more '
    'in a row will end it'
  ]
  monkeypatch.undo()
  assert_untouched(saved, folder)


class Disk:
  """Stands for shutil.disk_usage: so many bytes are free beyond what the checkpoints take."""

  def __init__(self, folder, free_now):
    self.folder, self.room = folder, free_now + self.taken(folder)

  def taken(self, folder):
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())

  def __call__(self, path):
    return collections.namedtuple('usage', 'total used free')(10**10, 0, self.room - self.taken(self.folder))


def large(seed):
  return {'a': np.random.default_rng(seed).standard_normal(2**18)}


def test_where_the_disk_is_too_full_what_would_go_after_the_save_goes_before(folder, monkeypatch, log):
  writer = checkpoints.Checkpoints(str(folder), keep=3, keep_best=1, best_mode='max', writer=True)
  for step, metric in ((10, 0.9), (20, 0.1), (30, 0.2), (40, 0.3)):
    writer.save(step, large(step), {}, metric=metric)
    writer.wait()
  assert writer.steps() == [10, 20, 30, 40]
  monkeypatch.setattr(disk.shutil, 'disk_usage', Disk(folder, 2_000_000))
  log.clear()
  writer.save(50, large(50), {}, metric=0.4)
  writer.wait()
  assert writer.steps() == [10, 30, 40, 50], 'the best and the newest are kept'
  (warning,) = [record.getMessage() for record in log if 'too full' in record.getMessage()]
  assert 'step 20, which would go after it' in warning
  # Where that would not make enough room, nothing is deleted in vain.
  monkeypatch.setattr(disk.shutil, 'disk_usage', Disk(folder, 2_000_000))
  writer.save(60, {'a': np.zeros(2**20)}, {}, metric=0.4)
  with pytest.raises(CheckpointError, match='disk is full'):
    writer.wait()
  assert writer.steps() == [10, 30, 40, 50]


def test_a_save_that_could_not_begin_counts_as_failed(saved):
  for step in (40, 50, 60):
    saved.refused(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
  with pytest.raises(CheckpointError, match='3 checkpoints in a row'):
    saved.refused(70, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_how_long_saves_take_is_known(saved, monkeypatch):
  assert saved.save_seconds > 0 and saved.saving_for() is None
  seen = []
  monkeypatch.setattr(checkpoints, 'on_stage', lambda stage: seen.append(saved.saving_for()))
  saved.save(40, make_state(40), {})
  saved.wait()
  assert all(seconds is not None and seconds >= 0 for seconds in seen) and seen == sorted(seen)
  assert saved.saving_for() is None


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own of 24 MB."""
  if os.geteuid() != 0:
    pytest.skip('only root can mount a file system')
  mount = tmp_path / 'disk'
  mount.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(mount)], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'this machine does not let root mount a tmpfs: {done.stderr.strip()}')
  yield mount
  subprocess.run(['umount', str(mount)], check=True)


# Orbax leaves a callback behind in an event loop that it has closed when it fails.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('when', ['checked', 'begun', 'written', 'sealed', 'before_marker'])
def test_a_disk_that_really_fills_up(small_disk, monkeypatch, log, when):
  arrays = {f'part{i}': np.random.default_rng(i).standard_normal(250_000) for i in range(3)}
  writer = checkpoints.Checkpoints(str(small_disk / 'run'), keep=2, keep_best=0, best_mode='max', writer=True)
  writer.save(1, arrays, {})
  writer.wait()
  filler = small_disk / 'filler'

  def fill(stage):
    if stage == when and writer.steps() == [1]:
      with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        # Writes come back short, and then not at all, when the last page is taken.
        while file.write(bytes(2**20)):
          pass
      assert disk.free_bytes(str(small_disk)) == 0

  monkeypatch.setattr(checkpoints, 'on_stage', fill)
  fill('checked')
  writer.save(2, arrays, {})
  if when == 'before_marker':
    writer.wait()  # a rename needs no room
    assert writer.steps() == [1, 2]
  else:
    with pytest.raises(CheckpointError, match='the disk is full'):
      writer.wait()
    assert len(errors_of(log)) == 1 and '\n' not in errors_of(log)[0]
    left = [path.name for path in (small_disk / 'run').iterdir() if not path.name.endswith('.orbax-checkpoint-tmp')]
    assert left == ['1']
  filler.unlink()
  monkeypatch.undo()
  writer.save(3, arrays, {})
  writer.wait()
  # Threads of Orbax may have written on after its error; the next save has tidied up after them.
  assert sorted(path.name for path in (small_disk / 'run').iterdir()) == [str(step) for step in writer.steps()]
  for step in writer.steps():
    assert_equal(writer.restore(step).arrays, arrays)
  writer.close()


def test_three_failures_in_a_row_end_it_and_a_success_starts_the_count_again(saved, folder, monkeypatch, log):
  write = orbax_io.write

  def refuse(path, arrays):
    raise ValueError('no luck today\nwith details that nobody reads')

  def save(step):
    saved.save(step, make_state(step), {})
    saved._join()

  monkeypatch.setattr(orbax_io, 'write', refuse)
  save(41)
  save(42)
  monkeypatch.setattr(orbax_io, 'write', write)
  save(40)
  assert saved.failure() is None
  monkeypatch.setattr(orbax_io, 'write', refuse)
  log.clear()
  for step in (51, 52, 53):
    save(step)
  assert [line.split('; ')[1] for line in errors_of(log)] == [
    'training goes on, 2 more in a row will end it',
    'training goes on, 1 more in a row will end it',
    'the next save will end training',
  ]
  with pytest.raises(
    CheckpointError, match=r'^3 checkpoints in a row could not be saved to .*ValueError: no luck today$'
  ):
    saved.save(54, make_state(54), {})
  monkeypatch.undo()
  assert_untouched(saved, folder, (10, 20, 30, 40))


def test_arrays_that_change_while_they_are_saved_fail_the_save(saved, folder, monkeypatch):
  arrays = make_state(40)

  def change(stage):
    if stage == 'begun':
      arrays['model/dense/kernel'][3, 2] += 1

  monkeypatch.setattr(checkpoints, 'on_stage', change)
  saved.save(40, arrays, {})
  with pytest.raises(
    CheckpointError, match=r"array 'model/dense/kernel' has other values .* changed while it was being"
  ):
    saved.wait()
  assert_untouched(saved, folder)


def test_the_first_save_of_a_process_is_read_back(open_writer, monkeypatch):
  write = orbax_io.write

  def write_wrong(path, arrays):
    write(path, {name: np.abs(array) if array.dtype == np.float32 else array for name, array in arrays.items()})

  monkeypatch.setattr(orbax_io, 'write', write_wrong)
  writer = open_writer()
  writer.save(1, make_state(1), {})
  with pytest.raises(CheckpointError, match="does not give back what it wrote: array 'model/dense/kernel'"):
    writer.wait()
  assert writer.steps() == []


def test_an_old_step_that_cannot_be_deleted_does_not_fail_the_save(open_writer, monkeypatch, log):
  writer = open_writer(keep=1)
  writer.save(1, make_state(1), {})
  writer.wait()

  def refuse(folder):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)

  monkeypatch.setattr(disk.shutil, 'rmtree', refuse)
  writer.save(2, make_state(2), {})
  writer.wait()
  assert writer.steps() == [2]
  assert any('could not delete old checkpoints' in record.getMessage() for record in log)
  monkeypatch.undo()
  writer.clean()
  assert os.listdir(writer._layout.directory) == ['2']
