"""How fast training is: examples and steps over the seconds of the blocks alone.

The loop hands over each block of steps with the seconds between two device syncs. Whatever happens between blocks
(evaluation, saving, logging) is thus not in it; the first block, which compiles, and blocks of which a trace was made
are left out here. Where nothing has been measured there is no number: None, which is printed as n/a, and never 0.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rate:
  """What was measured over some blocks.

  Attributes:
    steps: optimizer steps.
    seconds: the sum of the blocks' durations.
    batch_size: examples per step over all replicas.
  """

  steps: int
  seconds: float
  batch_size: int

  @property
  def examples_per_second(self) -> float | None:
    return self.steps * self.batch_size / self.seconds if self.steps and self.seconds > 0 else None

  @property
  def step_milliseconds(self) -> float | None:
    return 1000 * self.seconds / self.steps if self.steps and self.seconds > 0 else None


class Throughput:
  """Adds up blocks: since the last row of metrics, and over the whole attempt."""

  def __init__(self, batch_size: int):
    """Args:
    batch_size: examples per step over all replicas.
    """
    self.batch_size = batch_size
    self._compiles = True
    self._window = self._total = Rate(0, 0.0, batch_size)

  def add(self, steps: int, seconds: float, *, traced: bool = False) -> bool:
    """Takes a block; returns whether it counts.

    Args:
      steps: optimizer steps in it.
      seconds: from its start, with the devices idle, to its end, with the devices idle again.
      traced: whether a trace was made of it, which takes time of its own.
    """
    if self._compiles or traced:
      self._compiles = False
      return False
    self._window, self._total = (
      dataclasses.replace(rate, steps=rate.steps + steps, seconds=rate.seconds + seconds)
      for rate in (self._window, self._total)
    )
    return True

  def take_window(self) -> Rate:
    """The rate since this was last called."""
    window, self._window = self._window, Rate(0, 0.0, self.batch_size)
    return window

  @property
  def window(self) -> Rate:
    """The rate since `take_window` was last called."""
    return self._window

  @property
  def total(self) -> Rate:
    """The rate over the attempt."""
    return self._total
