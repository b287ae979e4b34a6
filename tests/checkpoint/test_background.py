"""Who writes stands back behind training, unless there is no time, or somebody waits."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest

from trainer.checkpoint import Checkpoints, background, checkpoints

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='priorities of threads are those of Linux')
LOWEST = 19


def priority(thread: int | None = None) -> int:
  return os.getpriority(os.PRIO_PROCESS, threading.get_native_id() if thread is None else thread)


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Saves, and gives the priority that the writing thread had at each stage; holds it at `stop` until it may go on."""
  own = Checkpoints(str(tmp_path / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=True)
  seen: dict[str, int] = {}

  def save(step: int, at_written=lambda: None, **options) -> dict[str, int]:
    seen.clear()

    def note(stage: str) -> None:
      if stage == 'written':
        at_written()
      seen[stage] = priority()

    monkeypatch.setattr(checkpoints, 'on_stage', note)
    own.save(step, {'weights': np.arange(1000.0)}, {}, **options)
    return seen

  yield own, save
  own.close()


def finished(own: Checkpoints) -> None:
  """Waits for a save as nobody does who waits for it: its priority stays as it is."""
  own._thread.join()
  own.wait()


def test_a_save_stands_back_with_all_that_it_starts(run, monkeypatch):
  own, save = run
  mine, started = priority(), []
  write = checkpoints.parts.write

  def noting(*arguments):
    child = threading.Thread(target=lambda: started.append(priority()))
    child.start()
    child.join()
    return write(*arguments)

  monkeypatch.setattr(checkpoints.parts, 'write', noting)
  seen = save(1)
  finished(own)
  assert set(seen.values()) == {LOWEST} and 'complete' in seen
  assert started == [LOWEST]
  assert priority() == priority(os.getpid()) == mine


def test_an_urgent_save_does_not(run):
  own, save = run
  save(1)
  finished(own)
  seen = save(2, urgent=True)
  finished(own)
  assert set(seen.values()) == {priority()}


@pytest.mark.skipif(os.geteuid() != 0, reason='only a privileged process can raise a priority')
def test_who_waits_for_a_save_gives_it_its_priority_again(run):
  own, save = run
  waited = threading.Event()
  seen = save(1, at_written=waited.wait)
  waiting = threading.Timer(0.2, waited.set)  # when `wait` has begun
  waiting.start()
  own.wait()
  waiting.join()
  assert seen['begun'] == LOWEST
  assert seen['written'] == seen['complete'] == priority()


def test_a_process_that_may_not_raise_a_priority_saves_all_the_same(run, monkeypatch):
  own, save = run
  usual = os.setpriority

  def refuses(which: int, who: int, value: int) -> None:
    if value < os.getpriority(which, who):
      raise PermissionError
    usual(which, who, value)

  monkeypatch.setattr(background.os, 'setpriority', refuses)
  save(1)
  own.wait()
  seen = save(2, urgent=True)
  own.wait()
  assert own.steps() == [2] and seen['complete'] == priority()


def test_other_systems_know_no_priority_of_a_thread(run, monkeypatch):
  own, save = run
  monkeypatch.setattr(background.sys, 'platform', 'darwin')
  monkeypatch.setattr(background, '_usual', None)
  seen = save(1)
  own.wait()
  assert set(seen.values()) == {priority()}
