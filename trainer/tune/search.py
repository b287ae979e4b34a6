"""Points drawn from a space, by Optuna's samplers (Akiba et al., Optuna, 2019).

A draw is a pure function of the space, the seed, the number of the point, and what is known of the points before it:
the study is made anew from tune.json for each, so there is no second record that a kill could leave behind.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.tune.halving import counts
from trainer.tune.space import Choice, Dimension, Overrides, Range, Space

RANDOM, TPE = 'random', 'tpe'
# A small space may give the same point again; after so many times there is nothing new to be found.
_TRIES = 50


@dataclasses.dataclass(frozen=True)
class Known:
  """A point that was drawn before.

  Attributes:
    overrides: its values.
    value: its metric; None where `running`, and where it diverged, failed or crashed, which ranks last.
    running: whether its end is not known yet.
  """

  overrides: Overrides
  value: float | None
  running: bool = False


def check_installed() -> None:
  """Raises:
  ConfigError: Optuna is not installed.
  """
  try:
    import optuna  # noqa: F401
  except ImportError as error:
    raise ConfigError(f"drawing points needs Optuna ({error}): pip install 'optuna>=5.0'") from error


def all_at_once(space: Space) -> list[Overrides]:
  """The points of a random search, none twice; less than `space.count` where a small space has no more."""
  found: list[Overrides] = []
  for number in range(space.count):
    point = draw(space, RANDOM, number, 'max', [Known(each, None, running=True) for each in found])
    if point is None:
      break
    found.append(point)
  return found


def draw(space: Space, sampler: str, number: int, mode: str, known: Sequence[Known]) -> Overrides | None:
  """The next point; None if a small space gives nothing new.

  Args:
    space: what to draw from.
    sampler: RANDOM (Bergstra and Bengio, 2012) or TPE (Bergstra et al., Algorithms for hyper-parameter optimization,
      2011, section 4).
    number: of the point.
    mode: 'max' or 'min', whichever is better.
    known: the points before it, in their order.
  """
  for attempt in range(_TRIES):
    seed = int(np.random.SeedSequence([space.seed, number, attempt]).generate_state(1)[0])
    point = _ask(space, sampler, seed, mode, known)
    if all(_plain(point) != _plain(each.overrides) for each in known):
      return point
  return None


def _ask(space: Space, sampler: str, seed: int, mode: str, known: Sequence[Known]) -> Overrides:
  import optuna

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  distributions = {path: _distribution(dimension) for path, dimension in space.dimensions.items()}
  make = optuna.samplers.TPESampler if sampler == TPE else optuna.samplers.RandomSampler
  directions = optuna.study.StudyDirection
  direction = directions.MAXIMIZE if mode == 'max' else directions.MINIMIZE
  study = optuna.create_study(sampler=make(seed=seed), direction=direction)
  if sampler == TPE:
    states = optuna.trial.TrialState
    for each in known:
      good = counts(each.value)
      # Of those that were pruned without a value, TPE knows that they are worse than all others.
      state = states.RUNNING if each.running else states.COMPLETE if good else states.PRUNED
      params = {path: _encoded(space.dimensions[path], value) for path, value in each.overrides.items()}
      study.add_trial(
        optuna.trial.create_trial(
          state=state, params=params, distributions=distributions, value=each.value if good else None
        )
      )
  params = study.ask(distributions).params
  return {path: _decoded(dimension, params[path]) for path, dimension in space.dimensions.items()}


def _distribution(dimension: Dimension) -> Any:
  from optuna import distributions

  if isinstance(dimension, Choice):
    # By their places, since Optuna takes no tuples.
    return distributions.CategoricalDistribution(tuple(range(len(dimension.values))))
  if dimension.whole:
    return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
  return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _encoded(dimension: Dimension, value: Any) -> Any:
  return _plain(dimension.values).index(_plain(value)) if isinstance(dimension, Choice) else value


def fits(space: Space, overrides: Overrides) -> bool:
  """Whether a point could have been drawn from a space."""
  if overrides.keys() != space.dimensions.keys():
    return False
  for path, dimension in space.dimensions.items():
    value = overrides[path]
    if isinstance(dimension, Choice):
      if _plain(value) not in _plain(dimension.values):
        return False
    elif not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
      return False
  return True


def _decoded(dimension: Dimension, value: Any) -> Any:
  if isinstance(dimension, Choice):
    return dimension.values[value]
  assert isinstance(dimension, Range)
  # Six digits tell points apart, and are read more easily.
  return int(value) if dimension.whole else min(max(float(f'{value:.6g}'), dimension.low), dimension.high)


def _plain(value: Any) -> Any:
  """A value as tune.json gives it back, so that a tuple equals the list that it became."""
  return json.loads(json.dumps(value))
