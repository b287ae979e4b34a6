"""A disk that fails is said to do so once, ends no run, and loses nothing that it can still be given."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from trainer.report import goodput, ledger
from trainer.report.ledger import Ledger
from trainer.runtime.phases import Phases

from .conftest import Clock, heartbeat, kill, lines, spans


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
  """A file system of its own of 1 MB."""
  if os.geteuid() != 0:
    pytest.skip('only root can mount a file system')
  mount = tmp_path / 'disk'
  mount.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(mount)], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'this machine does not let root mount a tmpfs: {done.stderr.strip()}')
  yield mount
  subprocess.run(['umount', str(mount)], check=True)


def go_on(now: Phases, written: Ledger, clock: Clock) -> None:
  """Rounds of training with heartbeats in between, whose lines do not fit into a page of memory."""
  for _ in range(20):
    for name in ('step', 'eval'):
      clock.now += 1
      now.enter(name)
      written.beat()


def fails_and_works_again(now, written, clock, log, *, fail, mend, reason) -> None:
  """Said in one line each, however long it lasts."""
  path = written._path
  go_on(now, written, clock)
  assert log == []
  fail()
  go_on(now, written, clock)
  assert log == [
    f'the ledger {path} cannot be written ({reason}): make room, set the permissions or bring the directory back; '
    'training goes on, and what is missing is written as soon as that is possible'
  ]
  mend()
  go_on(now, written, clock)
  assert log[1:] == [f'the ledger {path} is written again']
  fail()
  go_on(now, written, clock)
  mend()
  go_on(now, written, clock)
  assert len(log) == 4
  written.close(0)


def assert_nothing_is_missing(folder: pathlib.Path) -> None:
  summary = goodput.summarize(goodput.read(str(folder)))
  assert summary.wall_seconds == 5 * 40
  assert summary.unaccounted_seconds == pytest.approx(0, abs=1e-4)


def test_a_disk_that_really_fills_up(small_disk, clock, begin, log):
  folder, filler = small_disk / 'run', small_disk / 'filler'
  folder.mkdir()

  def fill():
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
      while file.write(bytes(4096)):
        pass

  now, written = begin(folder)
  fails_and_works_again(now, written, clock, log, fail=fill, mend=filler.unlink, reason='No space left on device')
  assert_nothing_is_missing(folder)


def test_a_disk_that_becomes_read_only(small_disk, clock, begin, log):
  def remount(how):
    subprocess.run(['mount', '-o', f'remount,{how}', str(small_disk)], check=True)

  now, written = begin(small_disk)
  fails_and_works_again(
    now,
    written,
    clock,
    log,
    fail=lambda: remount('ro'),
    mend=lambda: remount('rw'),
    reason='Read-only file system',
  )
  assert_nothing_is_missing(small_disk)


def test_a_directory_that_is_moved_away_for_a_while(tmp_path, clock, begin, log):
  folder, away = tmp_path / 'run', tmp_path / 'away'
  folder.mkdir()
  now, written = begin(folder)
  fails_and_works_again(
    now,
    written,
    clock,
    log,
    fail=lambda: folder.rename(away),
    mend=lambda: away.rename(folder),
    reason='No such file or directory',
  )
  assert_nothing_is_missing(folder)


def test_a_directory_that_is_deleted_and_made_again(tmp_path, clock, begin, log):
  folder = tmp_path / 'run'
  folder.mkdir()
  now, written = begin(folder)
  go_on(now, written, clock)
  shutil.rmtree(folder)
  written.beat()
  assert len(log) == 1
  now.enter('step')
  folder.mkdir()
  written.beat()
  assert [(line['kind'], line.get('name')) for line in lines(folder)] == [('attempt', None), ('span', 'eval')]
  assert len(log) == 2


def test_a_directory_that_is_not_there_at_first(tmp_path, clock, begin, log):
  now, written = begin(tmp_path / 'later')
  now.enter('build')
  assert len(log) == 1
  (tmp_path / 'later').mkdir()
  written.beat()
  assert spans(tmp_path / 'later') == ['import']
  assert len(log) == 2


def test_a_killed_attempt_is_accounted_for_even_if_the_disk_is_full_at_first(tmp_path, clock, begin, monkeypatch):
  now, written = begin()
  now.enter('step')
  clock.now += 5
  written.beat()
  kill(written)
  with monkeypatch.context() as patch:
    patch.setattr(ledger.os, 'write', full)
    _, written = begin()
    assert heartbeat(tmp_path)['name'] == 'step', 'the heartbeat of the killed one is lost'
  written.beat()
  assert [line['kind'] for line in lines(tmp_path)] == ['attempt', 'span', 'span', 'attempt']
  assert heartbeat(tmp_path)['name'] == 'import'


def full(handle: int, contents: bytes, write=os.write) -> int:
  """Stands for os.write on a disk that has room for half a line, and then for none."""
  if len(contents) < 2:
    raise OSError(28, os.strerror(28))
  return write(handle, contents[: len(contents) // 2])


def test_a_heartbeat_that_did_not_fit_leaves_nothing_behind(tmp_path, begin, monkeypatch):
  _, written = begin()
  with monkeypatch.context() as patch:
    patch.setattr(ledger.os, 'write', full)
    written.beat()
  assert sorted(path.name for path in tmp_path.glob('*heartbeat*')) == ['ledger.heartbeat', 'ledger.heartbeat.tmp']
  written.close(0)
  assert not list(tmp_path.glob('*heartbeat*'))


def test_half_a_line_is_taken_back(tmp_path, clock, begin, monkeypatch, log):
  now, written = begin()
  before = (tmp_path / 'ledger.jsonl').read_bytes()
  with monkeypatch.context() as patch:
    patch.setattr(ledger.os, 'write', full)
    now.enter('build')
  assert len(log) == 1
  assert (tmp_path / 'ledger.jsonl').read_bytes() == before
  written.beat()
  assert spans(tmp_path) == ['import']


def test_the_main_thread_does_not_wait_for_a_disk_that_fails(tmp_path, clock, begin, monkeypatch):
  now, _ = begin()
  (tmp_path / 'ledger.jsonl').unlink()
  (tmp_path / 'ledger.jsonl').mkdir()
  now.enter('build')
  monkeypatch.setattr(ledger.os, 'open', lambda *_: pytest.fail('it tried again'))
  now.enter('compile')


def test_what_waits_for_the_disk_is_bounded(tmp_path, clock, monkeypatch, begin):
  monkeypatch.setattr(ledger, '_MOST_PENDING', 5)
  folder = tmp_path / 'run'
  now, written = begin(folder)
  for name in ('build', 'restore', 'seek', 'compile', 'step', 'eval', 'step', 'save_block'):
    now.enter(name)
  folder.mkdir()
  written.beat()
  assert lines(folder)[0]['kind'] == 'attempt'
  assert spans(folder) == ['seek', 'compile', 'step', 'eval', 'step']
