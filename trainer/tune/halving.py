"""Successive halving, as pure functions of what the points have reached.

All points are trained to the first rung, a step of the run; the best 1/eta of them go on to the next, and so on to the
last step (Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016,
algorithm 1; with the rungs of Li et al., Hyperband, 2018, figure 1, of which it is one bracket). A rung is decided when
all of its points are there, so what is promoted depends neither on their order nor on how many run at a time, as it
does in the asynchronous form (Li et al., A system for massively parallel hyperparameter tuning, 2020).

A point has the schedule of the whole run from its first step on, is stopped at the rung, and goes on from its
checkpoint when it is promoted: no step is done twice, and those that end have done what they would have done alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from trainer.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Standing:
  """How far a point is.

  Attributes:
    values: rung -> its metric there, for each rung that it has reached; None or not finite: it has none that counts.
    ended: whether it will never go on: it diverged, failed or crashed.
  """

  values: Mapping[int, float | None]
  ended: bool = False


def rungs(steps: int, every: int, eta: int, count: int) -> list[int]:
  """The steps at which points are compared, ascending; the last is `steps`.

  Args:
    steps: of the whole run.
    every: steps between evaluations, of which a rung is a multiple.
    eta: one in so many is promoted; a rung has about so many times the steps of the one before.
    count: of points; there are no more rungs than it takes until one is left.
  """
  found, left, budget = [steps], count // eta, steps / eta
  while left >= 1 and budget >= every:
    rung = int(budget // every) * every
    if rung < found[0]:
      found.insert(0, rung)
    left, budget = left // eta, budget / eta
  return found


def check_rungs(given: Sequence[int], steps: int, every: int) -> list[int]:
  """Rungs of the user's, with the last step behind them.

  Raises:
    ConfigError: they do not rise, or are not steps at which there is an evaluation before the last.
  """
  for rung in given:
    if rung < 1 or rung >= steps or rung % every:
      raise ConfigError(
        f'--rungs: {rung} must be a multiple of eval.every_steps={every}, above 0 and below train.steps={steps}'
      )
  if list(given) != sorted(set(given)):
    raise ConfigError(f'--rungs={",".join(map(str, given))} must rise')
  return [*given, steps]


def promoted(values: Mapping[int, float | None], eta: int, mode: str) -> list[int]:
  """Which points of a rung go on: the best floor(n / eta) of n, but at least one.

  Args:
    values: point -> its metric at the rung; None or not finite: never promoted.
    eta: one in so many is promoted.
    mode: 'max' or 'min', whichever is better.

  Returns:
    Ascending; of equal points the one with the smaller number. Empty if none has a value.
  """
  sign = -1.0 if mode == 'max' else 1.0
  ranked = sorted((sign * value, number) for number, value in values.items() if value is not None and counts(value))
  return sorted(number for _, number in ranked[: max(1, len(values) // eta)])


def due(points: Mapping[int, Standing], rung_steps: Sequence[int], eta: int, mode: str) -> dict[int, int]:
  """Point -> the rung it is to be trained to next, of those that are to be trained now; empty when all is decided.

  Args:
    points: by number.
    rung_steps: ascending; one alone: there is no halving.
    eta, mode: as for `promoted`.
  """
  members = list(points)
  for rung in rung_steps:
    waiting = {n: rung for n in members if rung not in points[n].values and not points[n].ended}
    if waiting:
      return waiting
    members = promoted({n: points[n].values.get(rung) for n in members}, eta, mode)
  return {}


def counts(value: float | None) -> bool:
  """Whether a metric is a number that can be compared."""
  return value is not None and math.isfinite(value)
