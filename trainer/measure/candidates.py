"""Which precision is the fastest here: each candidate in processes of its own, one after the other, there and back.

A machine that becomes slower or busier meanwhile does so for all of them: the second round goes the other way. All
workers of a run do the same; the processes of a candidate meet as workers do.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from trainer import apart
from trainer.errors import ConfigError, RunAgain
from trainer.measure import candidate

ROUNDS = 2
# A candidate's losses may differ so much from those of the first, as a share: the mean over the first steps.
LOSS_TOLERANCE = 0.02
# Standard errors of a difference that count as noise, about 95 of 100.
_DEVIATIONS = 2.0


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What was measured of one.

  Attributes:
    policy: value of `precision.policy`.
    xla: value of `precision.xla`.
    rounds: what candidate.measure found in each round; empty if it could not be measured.
    failure: why it could not; '' if it could.
  """

  policy: str
  xla: str
  rounds: tuple[dict[str, Any], ...]
  failure: str = ''

  @property
  def name(self) -> str:
    return f'{self.policy}{" with XLA" if self.xla == "on" else " without XLA" if self.xla == "off" else ""}'

  @property
  def seconds(self) -> list[float]:
    """Of a step, one number per window."""
    return [seconds / steps for found in self.rounds for steps, seconds, _ in found['speed']['windows']]

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)

  @property
  def losses(self) -> list[float]:
    return self.rounds[0]['first_losses']

  def loss_difference(self, other: Candidate) -> float:
    """Mean difference of the first losses to those of another, over the mean size of those; inf if not finite."""
    if not all(map(math.isfinite, self.losses + other.losses)):
      return math.inf
    differences = [abs(a - b) for a, b in zip(self.losses, other.losses, strict=True)]
    size = statistics.fmean(map(abs, other.losses))
    return statistics.fmean(differences) / size if size else math.inf if any(differences) else 0.0

  def faster_than(self, other: Candidate) -> bool:
    """Whether it is by more than the noise: that of the windows, and that from round to round."""
    noise = _DEVIATIONS * math.hypot(_standard_error(self.seconds), _standard_error(other.seconds))
    if statistics.fmean(other.seconds) - statistics.fmean(self.seconds) <= noise or self.median >= other.median:
      return False
    pairs = zip(self.rounds, other.rounds, strict=True)
    return all(a['speed']['step_seconds']['median'] < b['speed']['step_seconds']['median'] for a, b in pairs)


def best(found: Sequence[Candidate]) -> Candidate:
  """The fastest, with those that may be: the first stands until one is faster by more than the noise, and so on.

  Args:
    found: the first is the one that the others are held against, and was measured.
  """
  chosen = found[0]
  for each in found[1:]:
    if each.rounds and each.loss_difference(found[0]) <= LOSS_TOLERANCE and each.faster_than(chosen):
      chosen = each
  return chosen


def measure(
  config: Any, say: Callable[[str], None] = lambda line: None, between: Callable[[], None] = lambda: None
) -> list[Candidate]:
  """Measures all that the devices can do of what the config leaves open; half of `benchmark.windows` in each round.

  Args:
    config: checked.
    say: takes a line of progress now and then.
    between: called several times a second; may raise, to end the measurement.

  Raises:
    ConfigError: a mistake of the user's.
    RunAgain: the first candidate could not be measured.
  """
  windows = max(2, math.ceil(config.benchmark.windows / ROUNDS))
  found = _one((config, 0, windows, True), between)
  if 'error' in found:
    raise ConfigError(found['error'])
  if 'failure' in found:
    raise RunAgain(f'not even the first candidate could be measured: {found["failure"]}')
  names: list[tuple[str, str]] = [(policy, xla) for policy, xla in found['candidates']]
  rounds: list[list[dict[str, Any]]] = [[found], *([] for _ in names[1:])]
  failures = [''] * len(names)
  chief = found['chief']
  if chief:
    say(_line(1, names[0], found))
  for turn in range(ROUNDS):
    for number in list(range(len(names)))[:: 1 if turn % 2 == 0 else -1]:
      if (turn, number) == (0, 0) or failures[number]:
        continue
      found = _one((config, number, windows, turn == 0), between)
      failures[number] = found.get('error', '') or found.get('failure', '')
      rounds[number] = [] if failures[number] else [*rounds[number], found]
      if chief:
        say(_line(turn + 1, names[number], found))
  if failures[0]:
    raise RunAgain(f'the first candidate could not be measured again: {failures[0]}')
  return [Candidate(*names[i], tuple(rounds[i]), failures[i]) for i in range(len(names))]


def _line(turn: int, name: tuple[str, str], found: dict[str, Any]) -> str:
  why = found.get('error') or found.get('failure')
  result = f'cannot be: {why}' if why else f'{1000 * found["speed"]["step_seconds"]["median"]:.3g} ms a step'
  return f'Round {turn} of {ROUNDS}, precision.policy={name[0]}, precision.xla={name[1]}: {result}'


def _one(arguments: tuple[Any, ...], between: Callable[[], None]) -> dict[str, Any]:
  """What candidate.measure found in a process of its own; or {'error'}, a mistake; or {'failure'}, anything else."""
  try:
    return apart.call(candidate.measure, *arguments, between=between)
  except (ConfigError, RunAgain) as error:
    return {'error': str(error)}
  except apart.EndedEarly as error:
    return {'failure': str(error)}


def _standard_error(values: Sequence[float]) -> float:
  return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.inf
