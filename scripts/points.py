"""Runs the points of a sweep as processes of the trainer, some at a time: what scripts/tune does between its tables.

A run that ends with 75 or crashes is started again as scripts/restarts.py decides; the others go on meanwhile. Signals
that ask to stop go on to all runs, which save and end with 75; nothing is started after that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time

import children
import restarts

from trainer.tune.plan import Job, Sweep
from trainer.tune.record import Record, words

_TAIL_BYTES = 4096


class Points:
  """The runs under way.

  Args:
    sweep: says what is run.
    options: `parallel`, `module`, `attempts` and `backoff_seconds` of the command line.
    gpus: CUDA_VISIBLE_DEVICES of each of `parallel` places; None: as it is.
    events: of this process.
  """

  def __init__(self, sweep: Sweep, options: argparse.Namespace, gpus: list[str | None], events: children.Events):
    self._sweep, self._options, self._gpus, self._events = sweep, options, gpus, events
    self._running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}  # place -> what runs there
    self._policies: dict[int, restarts.Policy] = {}  # by point
    self._waiting: dict[int, float] = {}  # point -> when it may be started again
    self._set_aside: set[int] = set()  # points with the file STOP

  def run(self) -> int:
    """Runs all that is to be run. Returns 0, or 75 if it was told to stop or somebody has stopped a point.

    Raises:
      ConfigError: tune.json cannot be written, or a run has no such metric; the runs have saved and ended.
    """
    try:
      return self._run()
    finally:
      for _, process in self._running.values():
        process.send_signal(signal.SIGTERM)
      for _, process in self._running.values():
        process.wait()

  def _run(self) -> int:
    while True:
      self._start_what_is_due()
      if not self._running and (self._events.stopping or not self._waiting):
        return restarts.RUN_AGAIN if self._events.stopping or self._set_aside else restarts.COMPLETE
      with contextlib.suppress(TimeoutError):
        kind, value = self._events.next(min(self._waiting.values(), default=None))
        if kind == 'signal':
          for _, process in self._running.values():
            process.send_signal(value)
        else:
          self._ended(next(place for place, (_, process) in self._running.items() if process is value))

  def _start_what_is_due(self) -> None:
    now = time.monotonic()
    self._waiting = {number: when for number, when in self._waiting.items() if when > now}
    while len(self._running) < self._options.parallel and not self._events.stopping:
      running = {job.point.number for job, _ in self._running.values()}
      job = self._sweep.next(running | self._waiting.keys() | self._set_aside)
      self._say_all()
      if job is None:
        return
      workdir = self._sweep.record.workdir(job.point)
      if os.path.lexists(os.path.join(workdir, restarts.STOP_FILE)):
        say(f'point {job.point.number}: {os.path.join(workdir, restarts.STOP_FILE)} is there: remove it to go on')
        self._set_aside.add(job.point.number)
      else:
        self._start(job, workdir)

  def _start(self, job: Job, workdir: str) -> None:
    place = min(set(range(self._options.parallel)) - self._running.keys())
    number = job.point.number
    step = restarts.newest_step(workdir)
    self._policies.setdefault(number, restarts.Policy(self._options.attempts, self._options.backoff_seconds, step))
    self._sweep.begun(job)
    gpus = self._gpus[place]
    env = children.environment(**({} if gpus is None else {'CUDA_VISIBLE_DEVICES': gpus}))
    with open(self._sweep.record.log(job.point), 'ab') as log:
      process = children.start(
        [*children.command(self._options.module), *self._sweep.flags(job)], env, output=log.fileno()
      )
    self._running[place] = job, process
    self._events.watch(process)
    goal = f', to step {job.to:,}' if job.pauses or step is not None else ''
    come = f'goes on from step {step:,}' if step is not None else 'starts'
    say(f'point {number} ({words(job.point.overrides)}) {come}{goal}')

  def _ended(self, place: int) -> None:
    job, process = self._running.pop(place)
    record, point, code = self._sweep.record, job.point, process.returncode
    message = last_line(record.log(point))
    settled = self._sweep.ended(job, code, message)
    said = f'point {point.number}: {self._outcome(job, code, record)}'
    if settled:
      say(said)
      return
    if self._events.stopping:
      say(f'{said} at step {point.step:,}')
      return
    wait = self._policies[point.number].wait_seconds(restarts.newest_step(record.workdir(point)))
    if os.path.lexists(os.path.join(record.workdir(point), restarts.STOP_FILE)):
      return  # which is said where it would be started again
    if wait is None:
      self._sweep.gave_up(job, message or restarts.describe(code))
      say(f'{said}; no progress in {self._options.attempts} attempts, given up: {record.log(point)}')
      return
    if wait:
      self._waiting[point.number] = time.monotonic() + wait
    say(f'{said}, newest checkpoint: step {point.step:,}; another attempt {f"in {wait:g} s" if wait else "at once"}')

  def _outcome(self, job: Job, code: int, record: Record) -> str:
    point = job.point
    if code in restarts.FINAL and code != restarts.COMPLETE:
      return f'{point.state} ({restarts.describe(code)}): {point.message}'
    if code == restarts.COMPLETE or (job.pauses and point.step >= job.to):
      value = 'no value' if point.metric is None else f'{point.metric:.4g} at step {point.metric_step:,}'
      return f'{"complete" if code == restarts.COMPLETE else f"at step {point.step:,}"}, best {record.metric} {value}'
    return f'ended with {restarts.describe(code)}'

  def _say_all(self) -> None:
    while self._sweep.said:
      say(self._sweep.said.pop(0))


def last_line(path: str) -> str:
  """The last line of a log that says something; '' for none."""
  try:
    with open(path, 'rb') as file:
      file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
      lines = file.read().decode(errors='replace').split('\n')
  except OSError:
    return ''
  return next((line.rpartition('\r')[2].strip() for line in reversed(lines) if line.strip()), '')


def say(text: str) -> None:
  print(f'tune: {text}', file=sys.stderr, flush=True)
