"""What a sweep tries. A config file's `sweep()` returns one of these, or what `of` makes one of:

  {'optimizer.learning_rate': [1e-3, 3e-3], 'model.dropout': [0.0, 0.1]}     a grid: each value with each other
  [{'optimizer.learning_rate': 1e-3}, {'optimizer.learning_rate': 3e-3, 'train.steps': 500}]                 points
  space({'optimizer.learning_rate': log_uniform(1e-4, 1e-2), 'model.dropout': choice(0.0, 0.1)}, count=20)    a space

Fields are named by their path in the config. A point is {path: value}; what it does not name stays as the config
has it.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.fields import nearest

Overrides = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `low` to `high`, both included; whole ones where `whole`, and spread evenly over their logarithm
  where `log`."""

  low: float
  high: float
  log: bool = False
  whole: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some values, none nearer to one than to another."""

  values: tuple[Any, ...]


Dimension = Range | Choice


@dataclasses.dataclass(frozen=True)
class Points:
  """Explicit points, a grid's among them.

  Attributes:
    points: in the order in which they are run.
    kind: 'grid' or 'points'.
  """

  points: tuple[Overrides, ...]
  kind: str = 'points'


@dataclasses.dataclass(frozen=True)
class Space:
  """Ranges and choices that points are drawn from.

  Attributes:
    dimensions: by path.
    count: how many points.
    seed: of the draws.
  """

  dimensions: Mapping[str, Dimension]
  count: int
  seed: int = 0


def log_uniform(low: float, high: float) -> Range:
  """A float whose logarithm is spread evenly.

  Raises:
    ConfigError: not 0 < low < high.
  """
  if not (_is_number(low) and _is_number(high) and 0 < low < high):
    raise ConfigError(f'log_uniform({low!r}, {high!r}) must be of two numbers above 0, the smaller first')
  return Range(float(low), float(high), log=True)


def uniform(low: float, high: float) -> Range:
  """A float, spread evenly.

  Raises:
    ConfigError: not low < high.
  """
  if not (_is_number(low) and _is_number(high) and low < high):
    raise ConfigError(f'uniform({low!r}, {high!r}) must be of two numbers, the smaller first')
  return Range(float(low), float(high))


def integer(low: int, high: int, log: bool = False) -> Range:
  """A whole number from `low` to `high`, both included.

  Raises:
    ConfigError: not low < high, or not whole; or not above 0, where its logarithm is spread evenly.
  """
  if not (_is_whole(low) and _is_whole(high) and low < high) or (log and low < 1):
    raise ConfigError(
      f'integer({low!r}, {high!r}{", log=True" if log else ""}) must be of two whole numbers'
      f'{" above 0" if log else ""}, the smaller first'
    )
  return Range(low, high, log, whole=True)


def choice(*values: Any) -> Choice:
  """One of the values.

  Raises:
    ConfigError: there are less than two.
  """
  if len(values) < 2:
    raise ConfigError(f'choice{values!r} has nothing to choose from: give two values or more')
  return Choice(values)


def space(dimensions: Mapping[str, Any], count: int, seed: int = 0) -> Space:
  """A space to draw from.

  Args:
    dimensions: by path: what `log_uniform`, `uniform`, `integer` or `choice` gives; or a list, which is a choice.
    count: how many points.
    seed: of the draws.

  Raises:
    ConfigError: it is empty, a dimension is none, or there are to be no points.
  """
  if not isinstance(dimensions, Mapping) or not dimensions:
    raise ConfigError('a space needs at least one field: {"optimizer.learning_rate": log_uniform(1e-4, 1e-2)}')
  if not _is_whole(count) or count < 1:
    raise ConfigError(f'a space with count={count!r}: must be a whole number, at least 1')
  if not _is_whole(seed) or seed < 0:
    raise ConfigError(f'a space with seed={seed!r}: must be a whole number, at least 0')
  return Space({_path(path): _dimension(path, values) for path, values in dimensions.items()}, count, seed)


def grid(values: Mapping[str, Any]) -> Points:
  """Each value with each other; the last field changes first.

  Raises:
    ConfigError: there is no field, or a field has no list of values.
  """
  if not values:
    raise ConfigError('a sweep over no field: name one, as in {"optimizer.learning_rate": [1e-3, 3e-3]}')
  for path, each in values.items():
    if not isinstance(each, list | tuple) or not each:
      raise ConfigError(f'{_path(path)}={each!r} must be a list of the values to try')
  return Points(tuple(dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())), 'grid')


def points(each: Iterable[Mapping[str, Any]]) -> Points:
  """Explicit points.

  Raises:
    ConfigError: there is none, or one is no {path: value}.
  """
  listed = list(each)
  for number, point in enumerate(listed):
    if not isinstance(point, Mapping):
      raise ConfigError(f'point {number} of the sweep, {point!r}, must be as in {{"optimizer.learning_rate": 1e-3}}')
  if not listed:
    raise ConfigError('the sweep has no points')
  return Points(tuple({_path(path): value for path, value in point.items()} for point in listed))


def of(what: Any) -> Points | Space:
  """A sweep from what a config file's `sweep()` returned.

  Raises:
    ConfigError: it is none.
  """
  if isinstance(what, Points | Space):
    return what
  if isinstance(what, Mapping):
    ranges = [path for path, values in what.items() if isinstance(values, Range | Choice)]
    if ranges:
      raise ConfigError(f'{ranges[0]} is drawn from a range, but not how often: return space({{...}}, count=20)')
    return grid(what)
  if isinstance(what, list | tuple):
    return points(what)
  raise ConfigError(
    f'sweep() returned {type(what).__name__}: must be a dict of lists (a grid), a list of dicts (points), or space(...)'
  )


def as_space(swept: Points | Space, count: int, seed: int) -> Space:
  """A sweep as something to draw from: of a grid, each field is a choice of its values.

  Args:
    swept: a grid or a space.
    count: how many points; 0: as many as the sweep says.
    seed: of the draws; -1: the sweep's own.

  Raises:
    ConfigError: explicit points are nothing to draw from; or it is not said how many points are to be drawn.
  """
  if isinstance(swept, Space):
    return Space(swept.dimensions, count or swept.count, swept.seed if seed < 0 else seed)
  if swept.kind != 'grid':
    raise ConfigError('explicit points are nothing to draw from: leave out --search, or give a grid or a space')
  if not count:
    raise ConfigError('it is not said how many points are to be drawn: add --count=20')
  values = {path: tuple(_unique(point[path] for point in swept.points)) for path in swept.points[0]}
  single = next((path for path, each in values.items() if len(each) < 2), '')
  if single:
    raise ConfigError(f'{single} has one value only, which is nothing to draw from: put it into the config')
  return Space({path: Choice(each) for path, each in values.items()}, count, max(seed, 0))


def from_settings(settings: Iterable[str], count: int, seed: int) -> Points | Space:
  """A sweep from the command line.

  Args:
    settings: each 'path=value,value,...' or 'path=log_uniform(1e-4, 1e-2)', with any of the functions here.
    count: points to draw, where one is drawn from a range.
    seed: of the draws; -1: 0.

  Raises:
    ConfigError: one makes no sense, or there is a range and no count.
  """
  found: dict[str, Any] = {}
  for setting in settings:
    path, equals, text = setting.partition('=')
    path = path.strip().removeprefix('config.')
    if not equals or not path or not text.strip():
      raise ConfigError(f"--set={setting!r} must be as in --set='optimizer.learning_rate=1e-3,3e-3'")
    if path in found:
      raise ConfigError(f'--set names {path} twice: give all of its values in one')
    found[path] = _values(setting, text.strip())
  if any(isinstance(values, Range | Choice) for values in found.values()):
    if not count:
      raise ConfigError('--set has a range, but not how many points are drawn from it: add --count=20')
    return space(found, count, max(seed, 0))
  return grid(found)


_FUNCTIONS: dict[str, Callable[..., Dimension]] = {
  'log_uniform': log_uniform,
  'uniform': uniform,
  'integer': integer,
  'choice': choice,
}


def _values(setting: str, text: str) -> Any:
  """A dimension, or a list of values; what is no Python literal is a string."""
  call = re.fullmatch(r'([a-z_]+)\((.*)\)', text)
  if call:
    if call[1] not in _FUNCTIONS:
      raise ConfigError(f'--set={setting!r}: there is no {call[1]}(){nearest(call[1], _FUNCTIONS)}')
    try:
      return _FUNCTIONS[call[1]](*_literals(call[2]))
    except TypeError as error:
      raise ConfigError(f'--set={setting!r}: {error}') from error
  return _literals(text)


def _literals(text: str) -> list[Any]:
  try:
    return list(ast.literal_eval(f'({text},)'))
  except (ValueError, SyntaxError):
    return [_literal(part.strip()) for part in text.split(',')]


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _dimension(path: str, values: Any) -> Dimension:
  if isinstance(values, Range | Choice):
    return values
  if isinstance(values, list | tuple) and len(values) > 1:
    return Choice(tuple(values))
  raise ConfigError(f'{path}={values!r} must be log_uniform(...), uniform(...), integer(...), choice(...) or a list')


def _path(path: Any) -> str:
  if not isinstance(path, str) or not path:
    raise ConfigError(f'{path!r} is no path of a config field: must be as in "optimizer.learning_rate"')
  return path


def _unique(values: Iterable[Any]) -> list[Any]:
  found: list[Any] = []
  for value in values:
    if value not in found:
      found.append(value)
  return found


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)
