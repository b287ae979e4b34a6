"""A process that is stuck says where, and ends; one that is merely slow, or was stopped, does not."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from trainer.runtime import phases as phases_lib
from trainer.runtime import watchdog as watchdog_lib
from trainer.runtime.phases import BUCKETS, Phases
from trainer.runtime.watchdog import STALLS, Watchdog

HERE = pathlib.Path(__file__).parent
NAMES = ('start', 'restore', 'compile', 'step', 'eval', 'save', 'barrier')


def settings(**changes):
  limits = {f'{name}_timeout_seconds': 100.0 for name in NAMES}
  return SimpleNamespace(**limits | {'step_timeout_factor': 20.0} | changes)


def run_stuck(*args):
  return subprocess.run(
    [sys.executable, HERE / 'programs' / 'stuck.py', *map(str, args)],
    env={**os.environ, 'PYTHONPATH': str(HERE.parents[1])},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


@pytest.mark.parametrize('phase', ['build', 'restore', 'compile', 'step', 'eval', 'save_block', 'barrier'])
def test_a_phase_that_takes_too_long_ends_the_process(tmp_path, phase):
  process = run_stuck(tmp_path, phase)
  assert process.returncode == 75, process.stderr
  what = 'a block of 1 steps after step 7' if phase == 'step' else f'phase {phase!r}'
  assert f'trainer: stuck: {what} has taken' in process.stderr
  assert 'exit code 75' in process.stderr
  (report,) = (tmp_path / STALLS).iterdir()
  for text in (process.stderr, report.read_text()):
    assert 'wait_for_ever' in text, 'the stacks of all threads'
    assert 'slowest: worker 1, silent for 60.0 s' in text
  assert str(report) in process.stderr
  assert process.stdout == 'closed\n'


def test_a_save_that_is_under_way_is_let_end(tmp_path):
  process = run_stuck(tmp_path, 'eval', 'save')
  assert process.returncode == 75
  assert 'waiting for the save that is under way' in process.stderr


def test_a_directory_that_has_gone_is_no_obstacle(tmp_path):
  process = run_stuck(tmp_path / 'gone', 'eval')
  assert process.returncode == 75
  assert 'wait_for_ever' in process.stderr
  assert not (tmp_path / 'gone').exists()


def test_reports_are_bounded(tmp_path):
  folder = tmp_path / STALLS
  folder.mkdir()
  for number in range(30):
    (folder / f'20200101T0000{number:02d}-worker0.txt').touch()
  assert run_stuck(tmp_path, 'eval').returncode == 75
  names = sorted(path.name for path in folder.iterdir())
  assert len(names) == 10
  assert not names[-1].startswith('2020'), 'the newest is the one of now'


def test_every_phase_has_a_limit():
  assert watchdog_lib.limits(settings()).keys() == BUCKETS.keys() - {'step'}


def test_the_limit_of_a_block_grows_with_the_steps_that_were_measured(monkeypatch):
  phases = Phases(0.0)
  watchdog = Watchdog(phases, settings(step_timeout_seconds=30.0))
  phases.enter('step', 5)
  watchdog.block(100)
  began, allowed, what = watchdog.limit()
  assert allowed == 30.0 and what == 'a block of 100 steps after step 5'
  for _ in range(99):
    watchdog.measured(0.1)
  watchdog.measured(5.0)  # one slow block in a hundred changes little
  assert watchdog.limit()[1] == pytest.approx(20 * 100 * 0.149, rel=0.05)
  assert watchdog.limit()[0] == began
  watchdog.block(1)
  assert watchdog.limit()[1] == 30.0


class Clock:
  """A clock for the watchdog: each wait lets so many seconds pass, and the last one ends it."""

  def __init__(self, *seconds):
    self.now, self.seconds = 1000.0, list(seconds)

  def monotonic(self):
    return self.now

  def wait(self, timeout):
    if not self.seconds:
      return True
    self.now += self.seconds.pop(0)
    return False


@pytest.mark.parametrize(
  ('ticks', 'expires'),
  [
    ([1.0] * 90, False),
    ([1.0] * 102, True),
    ([1.0] * 50 + [3600.0] + [1.0] * 45, False),  # stopped for an hour: SIGSTOP, a live migration, a laptop asleep
    ([1.0] * 50 + [3600.0] + [1.0] * 60, True),
    ([4.0] * 30, True),  # a busy machine is not a stopped one
  ],
)
def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch, ticks, expires):
  clock, expired = Clock(*ticks), []
  monkeypatch.setattr(watchdog_lib, 'time', clock)
  monkeypatch.setattr(phases_lib, 'time', clock)
  phases = Phases(clock.now)
  watchdog = Watchdog(phases, settings())
  phases.enter('eval')
  watchdog._ended = clock
  monkeypatch.setattr(watchdog, '_expire', lambda *args: expired.append(args))
  watchdog._watch()
  assert bool(expired) == expires


def test_the_slowest_worker():
  def beat(worker, name, last, age, begin=0.0):
    return {'worker': worker, 'name': name, 'last': last, 'age': age, 'begin': begin}

  def slowest(*beats):
    return watchdog_lib._workers(list(beats))[-1]

  assert slowest(beat(0, 'step', 9, 0.3), beat(1, 'eval', 8, 0.5)) == "slowest: worker 1, still at step 8 in 'eval'"
  assert 'silent for 60.0 s' in slowest(beat(0, 'step', 9, 60.0), beat(1, 'step', 9, 0.5))
  assert slowest(beat(0, 'step', 9, 0.3), beat(1, 'step', 9, 0.5)).startswith('slowest: none')
  assert watchdog_lib._workers([beat(0, 'step', 9, 0.3)]) == []


def test_closing_ends_the_thread():
  watchdog = Watchdog(Phases(time.monotonic()), settings())
  watchdog.start()
  watchdog.close()
  assert not watchdog._thread.is_alive()
