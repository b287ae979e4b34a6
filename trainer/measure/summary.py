"""Numbers of a measurement out of its raw windows; pure functions."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

# Windows that are compared with as many before them, and how much they may differ, for a warm-up to be over.
_COMPARED, _TOLERANCE = 3, 0.03


@dataclasses.dataclass(frozen=True)
class Window:
  """Steps between two syncs with the devices.

  Attributes:
    steps: optimizer steps.
    seconds: of the wall, from sync to sync.
    waited: seconds of those in which the host waited for input; NaN where that is not measured. An accelerator may have
      been busy meanwhile, so there it is an upper bound.
  """

  steps: int
  seconds: float
  waited: float

  @property
  def step_seconds(self) -> float:
    return self.seconds / self.steps


def settled(step_seconds: Sequence[float]) -> bool:
  """Whether a warm-up is over: the last three windows have the speed of the three before them, to 3 %."""
  if len(step_seconds) < 2 * _COMPARED:
    return False
  before = statistics.median(step_seconds[-2 * _COMPARED : -_COMPARED])
  last = statistics.median(step_seconds[-_COMPARED:])
  return abs(last - before) <= _TOLERANCE * before


def of_windows(windows: Sequence[Window], batch_size: int, replicas: int) -> dict[str, Any]:
  """Speed over windows of the same kind.

  Returns:
    'examples_per_second' and '..._per_replica' over all of them; of the step, in seconds, 'mean' over the windows with
    its 'standard_error', 'median', 'least' and 'most'; 'waited_share' of the wall, None where it is not measured; and
    the raw 'windows' as [steps, seconds, seconds waited].
  """
  times = [window.step_seconds for window in windows]
  steps, seconds = sum(window.steps for window in windows), sum(window.seconds for window in windows)
  waited = sum(window.waited for window in windows)
  return {
    'examples_per_second': steps * batch_size / seconds,
    'examples_per_second_per_replica': steps * batch_size / seconds / replicas,
    'step_seconds': {
      'mean': statistics.fmean(times),
      'standard_error': statistics.stdev(times) / len(times) ** 0.5 if len(times) > 1 else None,
      'median': statistics.median(times),
      'least': min(times),
      'most': max(times),
    },
    'waited_share': None if np.isnan(waited) else waited / seconds,
    'windows': [[w.steps, w.seconds, None if np.isnan(w.waited) else w.waited] for w in windows],
  }


def of_single_steps(seconds: Sequence[float]) -> dict[str, float]:
  """Percentiles of steps that were timed one by one, and 'jitter': how far p90 lies above p50, as a share of that."""
  p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]))
  return {'steps': len(seconds), 'p50': p50, 'p90': p90, 'p99': p99, 'jitter': p90 / p50 - 1}


def input_share(real: dict[str, Any], repeated: dict[str, Any]) -> float:
  """The share of a step with real input that is not there where the same batch is given again and again.

  By medians over the windows; below 0 is noise.
  """
  return 1 - repeated['step_seconds']['median'] / real['step_seconds']['median']
