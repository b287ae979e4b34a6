"""What the run of a point has written so far: the metric, how far it is, and the time it took."""

from __future__ import annotations

import dataclasses
import os
import re

from trainer.errors import ConfigError
from trainer.report import goodput, metrics
from trainer.report.reporter import METRICS
from trainer.storage.steps import CHECKPOINTS, MARKER
from trainer.tune.halving import counts

_STEP = re.compile(r'0|[1-9]\d*')


@dataclasses.dataclass(frozen=True)
class Result:
  """Of one run.

  Attributes:
    values: step of each evaluation -> the metric, None where it was not finite.
    best: the best of them; None: there is none that counts.
    best_step: its step; None as `best`.
    step: the newest complete checkpoint; 0: there is none.
    attempts: how many there were, as far as the run has written down.
    seconds: that they ran, all together; None: not known.
  """

  values: dict[int, float | None]
  best: float | None
  best_step: int | None
  step: int
  attempts: int
  seconds: float | None

  def at(self, rung: int) -> bool:
    """Whether the run has been evaluated at a step, and has saved it or a later one."""
    return self.step >= rung and rung in self.values


def read(workdir: str, metric: str, mode: str) -> Result:
  """Reads them; of a run that has not begun, all is empty.

  Args:
    workdir: of the run.
    metric: its name in the evaluation's rows.
    mode: 'max' or 'min', whichever is better; of equal values the first counts, as in training.

  Raises:
    ConfigError: metrics.jsonl is damaged, or has evaluations without this metric.
  """
  values: dict[int, float | None] = {}
  for row in metrics.read(os.path.join(workdir, METRICS)):
    if row['split'] == 'eval':
      if metric not in row:
        known = ', '.join(sorted(row.keys() - {'step', 'split', *metrics.TIMES}))
        raise ConfigError(f'{workdir}: evaluations have no {metric!r}; they have {known}: name one with --metric')
      values[row['step']] = row[metric]
  good = {step: value for step, value in values.items() if value is not None and counts(value)}
  sign = -1.0 if mode == 'max' else 1.0
  best_step = min(good, key=lambda step: (sign * good[step], step)) if good else None
  best = good[best_step] if best_step is not None else None
  return Result(values, best, best_step, newest_step(workdir), *_attempts(workdir))


def newest_step(workdir: str) -> int:
  """The newest complete checkpoint; 0 where there is none."""
  folder = os.path.join(workdir, CHECKPOINTS)
  try:
    names = os.listdir(folder)
  except FileNotFoundError:
    return 0
  steps = (int(name) for name in names if _STEP.fullmatch(name))
  return max((step for step in steps if os.path.lexists(os.path.join(folder, str(step), MARKER))), default=0)


def _attempts(workdir: str) -> tuple[int, float | None]:
  try:
    attempts = goodput.read(workdir)
  except ConfigError:  # it has not begun, or was ended before there was a ledger
    return 0, None
  return len(attempts), sum(attempt.last_sign - attempt.begin for attempt in attempts)
