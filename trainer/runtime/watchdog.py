"""A deadline for each phase: a process that is stuck says where, and exits 75, so that it can be started again.

A worker whose peer is alive but stuck waits in a collective for ever, and so does whoever pays for it. The watchdog is
a thread that holds the current phase (phases.py) against its time limit. When that is over it writes all stacks, what
the other workers were last seen doing and the slowest of them to WORKDIR/stalls/ and to stderr, lets a save that is
under way end, and ends the process. It takes nothing from the main thread, which may be inside TensorFlow.
"""

from __future__ import annotations

import collections
import datetime
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.errors import EXIT_RUN_AGAIN
from trainer.runtime.phases import Phase, Phases
from trainer.runtime.preemption import say

STALLS = 'stalls'
_KEPT = 10  # files in STALLS
_STEPS_REMEMBERED = 2000  # durations of blocks that the 99th percentile is taken of
_SPANS_REMEMBERED = 20
_LAST_WORDS_SECONDS = 10.0


def limits(faults: Any) -> dict[str, float]:
  """Seconds that each phase may take, but for 'step', which is measured.

  Args:
    faults: section `faults` of the config.
  """
  start, restore, save = faults.start_timeout_seconds, faults.restore_timeout_seconds, faults.save_timeout_seconds
  return {
    'import': start,
    # The strategy has the first word on workers that do not come; reading the data begins when they have.
    'build': 2 * start,
    'restore': restore,
    'trace': faults.compile_timeout_seconds,
    'seek': start,
    'compile': faults.compile_timeout_seconds,
    'eval': faults.eval_timeout_seconds,
    'save_block': save,
    'barrier': faults.barrier_timeout_seconds,
    'other': save,
  }


class Watchdog:
  """Watches the phases of one process.

  Attributes:
    saving: tells whether a save is under way in the background; None: there is none.
    others: the newest heartbeats of all workers (trainer/report/ledger.py), to find the slowest.
    before_exit: called last, as when the ledger is to be closed.
  """

  def __init__(self, phases: Phases, faults: Any, *, worker: int = 0, poll_seconds: float = 1.0):
    self.phases, self.worker = phases, worker
    self.saving: Callable[[], bool] | None = None
    self.others: Callable[[], list[dict[str, Any]]] | None = None
    self.before_exit: Callable[[], None] | None = None
    self.workdir: str | None = None
    self._limits, self._faults, self._poll = limits(faults), faults, poll_seconds
    self._block: tuple[float, int] = (0.0, 0)  # when the block of steps under way began, and its steps
    self._durations: collections.deque[float] = collections.deque(maxlen=_STEPS_REMEMBERED)
    self._spans: collections.deque[str] = collections.deque(maxlen=_SPANS_REMEMBERED)
    self._away = 0.0  # seconds for which the whole process was stopped, since the current phase or block began
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
    phases.listeners.append(self._phase_ended)

  def start(self) -> None:
    self._thread.start()

  def close(self) -> None:
    self._ended.set()
    if self._thread.is_alive() and threading.current_thread() is not self._thread:
      self._thread.join()

  def block(self, steps: int) -> None:
    """A block of so many steps begins."""
    self._block, self._away = (time.monotonic(), steps), 0.0

  def measured(self, seconds_per_step: float) -> None:
    """A block has ended that is a measurement (it did not compile)."""
    self._durations.append(seconds_per_step)

  def limit(self) -> tuple[float, float, str]:
    """(when what is under way began, seconds that it may take, what it is in words)."""
    phase, (block_began, steps) = self.phases.current, self._block
    if phase.name != 'step':
      return phase.begin, self._limits[phase.name], f'phase {phase.name!r}'
    allowed = self._faults.step_timeout_seconds
    if durations := list(self._durations):
      allowed = max(allowed, self._faults.step_timeout_factor * steps * float(np.percentile(durations, 99)))
    began = max(block_began, phase.begin)
    return began, allowed, f'a block of {steps} steps after step {phase.last}'

  def _phase_ended(self, phase: Phase, end: float) -> None:
    self._away = 0.0
    self._spans.append(f'{phase.name}: {end - phase.begin:.3f} s, steps {phase.first} to {phase.last}')

  def _watch(self) -> None:
    seen = time.monotonic()
    while not self._ended.wait(self._poll):
      now = time.monotonic()
      # A thread that polls every second and has not run for five was stopped, and the main thread with it: SIGSTOP, a
      # live migration, a laptop that slept. That time is nobody's fault.
      if now - seen > 5 * self._poll + 4:
        self._away += now - seen - self._poll
      seen = now
      began, allowed, what = self.limit()
      if now - began - self._away > allowed:
        self._expire(what, now - began, allowed)
        return

  def _expire(self, what: str, took: float, allowed: float) -> None:
    try:
      say(f'stuck: {what} has taken {took:.0f} s, may take {allowed:.0f} s (config: faults); ending with exit code 75')
      # What is stuck may be the file system.
      _in_time(lambda: self._tell(what, took, allowed))
      deadline = time.monotonic() + self._faults.save_timeout_seconds
      if self.saving and self.saving():
        say('waiting for the save that is under way')
        while self.saving() and time.monotonic() < deadline:
          self._ended.wait(0.1)
      if self.before_exit:
        _in_time(self.before_exit)
    finally:
      os._exit(EXIT_RUN_AGAIN)  # the main thread may be inside TensorFlow, where no exception reaches it

  def _tell(self, what: str, took: float, allowed: float) -> None:
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    report = self._report(what, took, allowed)
    for line in report.splitlines():
      say(line)
    if path := self._write(report):
      say(f'this, and the stacks of all threads, are in {path}')

  def _report(self, what: str, took: float, allowed: float) -> str:
    lines = [
      f'worker {self.worker} is stuck: {what} has taken {took:.1f} s, may take {allowed:.1f} s (config section faults)',
      'last phases:',
      *(f'  {span}' for span in self._spans),
    ]
    try:
      lines += _workers(self.others() if self.others else [])
    except OSError as error:
      lines.append(f'the heartbeats of the workers cannot be read: {error}')
    return '\n'.join(lines) + '\n'

  def _write(self, report: str) -> str:
    """Writes the report and all stacks to a file of WORKDIR/stalls; returns its path, '' where that is not possible."""
    if not self.workdir or not os.path.isdir(self.workdir):
      return ''
    folder = os.path.join(self.workdir, STALLS)
    now = datetime.datetime.now(datetime.UTC).strftime('%Y%m%dT%H%M%S')
    path = os.path.join(folder, f'{now}-worker{self.worker}.txt')
    try:
      os.makedirs(folder, exist_ok=True)
      for old in sorted(os.listdir(folder))[: -_KEPT + 1]:
        os.remove(os.path.join(folder, old))
      with open(path, 'w') as file:
        file.write(f'{report}stacks of all threads:\n')
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
      return path
    except OSError as error:
      say(f'the report cannot be written to {folder}: {error.strerror}')
      return ''


def _workers(beats: list[dict[str, Any]]) -> list[str]:
  """What each worker was last seen doing, and which one holds up the others."""
  if len(beats) < 2:
    return []
  lines = ['workers, as last seen:']
  for beat in beats:
    lines.append(f'  worker {beat["worker"]}: {beat["name"]} at step {beat["last"]}, {beat["age"]:.1f} s ago')
  silent = max(beats, key=lambda beat: beat['age'])
  behind = min(beats, key=lambda beat: (beat['last'], beat['begin']))
  if silent['age'] > 5 + 2 * min(beat['age'] for beat in beats):
    lines.append(f'slowest: worker {silent["worker"]}, silent for {silent["age"]:.1f} s')
  elif len({(beat['name'], beat['last']) for beat in beats}) > 1:
    lines.append(f'slowest: worker {behind["worker"]}, still at step {behind["last"]} in {behind["name"]!r}')
  else:
    lines.append('slowest: none; all are in the same block of steps, so see the stacks of each')
  return lines


def _in_time(action: Callable[[], None]) -> None:
  """Does something that may hang, but does not wait for it for ever."""
  thread = threading.Thread(target=action, name='last-words', daemon=True)
  thread.start()
  thread.join(_LAST_WORDS_SECONDS)
