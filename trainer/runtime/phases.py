"""What this process is doing now: always exactly one phase, so that the seconds of all phases add up to its life.

The main thread enters phases. Others look on: the ledger (trainer/report/ledger.py) is told of each phase that has
ended and writes it down; the watchdog (watchdog.py) knows how long each may take.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

# Phase -> the bucket of the ledger that its seconds belong to.
BUCKETS = {
  'import': 'init',  # from the start of the process until all modules are loaded
  'build': 'init',  # cluster, strategy, data, model, optimizer
  'restore': 'restore',  # read, verify and assign a checkpoint
  'trace': 'compile',  # make the graph of a step, while the examples are read
  'seek': 'data_wait',  # make the input at the step to go on from
  'compile': 'compile',  # the first block of steps, for which the graph is compiled
  'step': 'step',  # blocks of steps; what of it was waiting for data is counted as data_wait
  'eval': 'eval',
  'save_block': 'save_block',  # training waits: for a snapshot, for an earlier save, or for the last one at the end
  'barrier': 'other',  # wait for the other workers, at the end
  'other': 'other',
}


def on_phase(name: str, step: int) -> None:
  """Called in the main thread when a phase begins, and after each block of steps; tests replace it to act there."""


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase, as far as it has come. Times are those of `time.monotonic()`.

  Attributes:
    name: one of BUCKETS.
    begin: when it began.
    first: steps done when it began.
    last: steps done by now.
    busy: seconds that its blocks of steps took, each from device sync to device sync.
    data_wait: seconds of those that were spent waiting for input.
  """

  name: str
  begin: float
  first: int
  last: int
  busy: float = 0.0
  data_wait: float = 0.0


class Phases:
  """The phases of this process, from its start.

  Attributes:
    began: `time.monotonic()` at the start of the process.
    current: the phase that is under way; replaced as a whole, so any thread may read it.
    listeners: called in the main thread as listener(phase, end) when a phase has ended.
  """

  def __init__(self, began: float):
    self.began = began
    self.current = Phase('import', began, 0, 0)
    self.listeners: list[Callable[[Phase, float], None]] = []

  def enter(self, name: str, step: int | None = None) -> None:
    """Ends the current phase and begins another; the same one again goes on.

    Args:
      name: one of BUCKETS.
      step: steps done, where that is not what it was (a checkpoint was restored).
    """
    assert name in BUCKETS, name
    ended = self.current
    step = ended.last if step is None else step
    if name == ended.name and step == ended.last:
      return
    now = time.monotonic()
    self.current = Phase(name, now, step, step)
    for listener in self.listeners:
      listener(ended, now)
    on_phase(name, step)

  def progress(self, step: int, busy: float, data_wait: float) -> None:
    """A block of steps has ended in the current phase.

    Args:
      step: steps done.
      busy: seconds of the block.
      data_wait: seconds of those that were spent waiting for input.
    """
    now = self.current
    self.current = dataclasses.replace(now, last=step, busy=now.busy + busy, data_wait=now.data_wait + data_wait)
    on_phase(now.name, step)


def process_start() -> float:
  """`time.monotonic()` at the start of this process, as the operating system has it.

  Good to 10 ms on Linux, and to a second elsewhere.
  """
  try:
    with open('/proc/self/stat') as file:
      ticks = int(file.read().rpartition(')')[2].split()[19])  # field 22, counted from the end of the program's name
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')
  except (OSError, AttributeError):  # no Linux
    import psutil

    age = time.time() - psutil.Process().create_time()
  return time.monotonic() - max(0.0, age)
