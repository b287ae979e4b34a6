"""Traces of a window of steps, for TensorBoard's profile plugin (XProf): where the time of a step goes.

A trace is asked for by the config (a step), by SIGUSR2 or a file `PROFILE` in the work directory while the run goes on,
and by a step that took far longer than the others. It begins with the next block of steps, covers whole blocks, and
shows the phases of our loop (trainer/runtime/phases.py) beside what TensorFlow and the devices did. Every process
traces itself: a signal reaches one, and the file is the chief's.
"""

from __future__ import annotations

import collections
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from trainer.runtime.phases import Phase, Phases

PROFILE_FILE = 'PROFILE'
# Blocks whose steps' median tells what is slow, and how many there must be before.
_BLOCKS, _FEWEST = 100, 10


class Profiler:
  """The traces of one process."""

  def __init__(
    self,
    directory: str,
    fields: Any,
    phases: Phases,
    *,
    workdir: str = '',
    asked: Callable[[], bool] = lambda: False,
  ):
    """Args:
    directory: TensorBoard's, where the traces go (plugins/profile/TIME/).
    fields: section `profile` of the config.
    phases: what this process is doing, to be shown in a trace.
    workdir: where the file PROFILE is looked for; empty: nowhere.
    asked: whether a signal has asked for a trace since it was last called.
    """
    self._directory, self._fields, self._phases, self._asked = directory, fields, phases, asked
    self._file = os.path.join(workdir, PROFILE_FILE) if workdir else ''
    self._until = 0  # the step with which the trace under way ends
    self._tracing = False
    self._why = ''  # of the trace that is to begin
    self._shown: Any = None  # the phase that is shown in the trace
    self._block: Any = None
    self._last_slow = -float('inf')
    self._slow_traces = 0
    self._times: collections.deque[float] = collections.deque(maxlen=_BLOCKS)
    phases.listeners.append(self._entered)

  def before(self, step: int, steps: int) -> bool:
    """A block of `steps` is about to begin behind step `step`; returns whether a trace is made of it."""
    if not self._tracing and (why := self._due(step, steps)):
      self._begin(step, why)
    if self._tracing:
      self._block = tf.profiler.experimental.Trace('block of steps', step_num=step, _r=1)
      self._block.__enter__()
    return self._tracing

  def after(self, step: int, steps: int, seconds: float, counts: bool) -> None:
    """A block has ended; ends the trace where it has all of its steps.

    Args:
      step: steps done.
      steps: steps of the block.
      seconds: its duration.
      counts: whether that is a measurement, neither compiled in nor traced.
    """
    if self._block is not None:
      self._block.__exit__(None, None, None)
      self._block = None
    if self._tracing and step >= self._until:
      self._end()
    if counts:
      self._judge(step, seconds / steps)

  def close(self) -> None:
    """Ends a trace that is under way."""
    if self._tracing:
      self._end()
    self._phases.listeners.remove(self._entered)

  def _due(self, step: int, steps: int) -> str:
    """Why a trace is to begin now; '' if none is."""
    why, self._why = self._why, ''
    if self._asked():
      return 'SIGUSR2'
    if self._file and os.path.lexists(self._file):
      try:
        os.unlink(self._file)
      except OSError as error:
        logging.warning('%s cannot be removed (%s), and would start one trace after the other', self._file, error)
        self._file = ''
      return f'the file {PROFILE_FILE}'
    if step < self._fields.at_step <= step + steps:
      return 'profile.at_step'
    return why

  def _judge(self, step: int, seconds: float) -> None:
    """Asks for a trace where the steps of a block took far longer than the median before."""
    factor, now = self._fields.slow_factor, time.monotonic()
    if factor and len(self._times) >= _FEWEST:
      typical = statistics.median(self._times)
      rested = now - self._last_slow >= self._fields.slow_every_seconds
      if seconds > factor * typical and rested and self._slow_traces < self._fields.slow_most:
        self._last_slow, self._slow_traces = now, self._slow_traces + 1
        self._why = f'steps to {step} took {seconds / typical:.1f} times the median'
    self._times.append(seconds)

  def _begin(self, step: int, why: str) -> None:
    try:
      tf.profiler.experimental.start(self._directory)
    except (tf.errors.OpError, OSError) as error:
      logging.warning('no trace (%s): %s', why, str(error).splitlines()[0])
      return
    self._tracing, self._until = True, step + self._fields.steps
    self._show(self._phases.current.name)
    logging.warning('tracing from step %d on (%s)', step + 1, why)

  def _end(self) -> None:
    self._tracing = False
    self._hide()
    try:
      tf.profiler.experimental.stop()
    except (tf.errors.OpError, OSError) as error:
      logging.warning('the trace is lost: %s', str(error).splitlines()[0])
      return
    logging.warning('the trace is in %s: tensorboard --logdir shows it under Profile', self._directory)

  def _entered(self, ended: Phase, now: float) -> None:
    """A phase has ended and another begun."""
    if self._tracing:
      self._hide()
      self._show(self._phases.current.name)

  def _show(self, phase: str) -> None:
    self._shown = tf.profiler.experimental.Trace(f'phase {phase}')
    self._shown.__enter__()

  def _hide(self) -> None:
    if self._shown is not None:
      self._shown.__exit__(None, None, None)
      self._shown = None
