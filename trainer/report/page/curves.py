"""Rows of metrics as curves: one plot a metric, a series for each run and split, thinned so that no spike is lost."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from trainer.report.page.folder import CONTINUOUS_SPLIT, Run

SPEED = ('step_milliseconds', 'examples_per_second')
UNITS = {'step_milliseconds': 'ms', 'examples_per_second': 'examples/s', 'learning_rate': ''}

_MOST_POINTS, _LEAST_POINTS = 1_000, 40  # of a series
_ALL_POINTS = 50_000  # of all series of a page: about 2 MB
_BAD_SHOWN = 100  # values that are not finite, marked in a plot
_OWN = ('step', 'split', 'time')
_SYSTEM = re.compile(r'bytes|memory|utili[sz]ation|temperature|watts')
_SPLITS = ('train', 'eval', CONTINUOUS_SPLIT)


def plots(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """All metrics of all runs.

  Returns:
    Of each metric {'name', 'section': 'curves', 'speed' or 'system', 'unit', 'series': [see `series`]}; the loss first,
    then what is evaluated, then the rest.
  """
  found: dict[str, list[tuple[int, str, list[dict[str, Any]]]]] = {}
  for number, run in enumerate(runs):
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows:
      by_split.setdefault(row['split'], []).append(row)
    for split in sorted(by_split, key=_split_order):
      rows = sorted(by_split[split], key=lambda row: row['step'])
      for name in dict.fromkeys(itertools.chain.from_iterable(rows)):
        if name not in _OWN and any(is_number(row.get(name)) or row.get(name, 0) is None for row in rows):
          found.setdefault(name, []).append((number, split, rows))
  names = [name for name in found if not _is_constant_count(name, found[name])]
  evaluated = {name for name in names if any(split != 'train' for _, split, _ in found[name])}
  names.sort(key=lambda name: (name != 'loss', name not in evaluated))
  count = sum(len(found[name]) for name in names)
  most = max(_LEAST_POINTS, min(_MOST_POINTS, _ALL_POINTS // max(1, count)))
  starts = [start(run) for run in runs]
  return [
    {
      'name': name,
      'section': 'speed' if name in SPEED else 'system' if _SYSTEM.search(name) else 'curves',
      'unit': UNITS.get(name, ''),
      'series': [series(number, split, rows, name, starts[number], most) for number, split, rows in found[name]],
    }
    for name in names
  ]


def start(run: Run) -> float | None:
  """When the run began, in seconds since 1970: by its ledger, or by its first row."""
  if run.ledgers.get(0):
    return run.ledgers[0][0].begin
  return next((row['time'] for row in run.rows if is_number(row.get('time'))), None)


def series(
  run: int, split: str, rows: Sequence[dict[str, Any]], name: str, begin: float | None, most: int
) -> dict[str, Any]:
  """One curve.

  Args:
    run: number of the run.
    split: its split.
    rows: of that split, ascending by step.
    name: of the metric.
    begin: when the run began, in seconds since 1970; None: not known.
    most: points that it may have.

  Returns:
    {'run', 'split', 'x': steps, 'y': values, 't': seconds since the run began, or null where rows have no time,
    'rows': how many values there are, 'kept': how many of them are in x, 'mx', 'my', 'mt': the mean of each bucket of
    rows where not all are kept, 'bad': steps at which the value is not finite, 'bads': how many there are,
    'last', 'least', 'largest': (step, value) over all rows}
  """
  points: list[tuple[int, float, float | None]] = []
  bad: list[int] = []
  for row in rows:
    if name not in row:
      continue
    value = row[name]
    if is_number(value):
      time = row.get('time')
      points.append((row['step'], float(value), time - begin if is_number(time) and begin is not None else None))
    elif value is None or isinstance(value, float):
      bad.append(row['step'])
  kept, means = thin(points, most)
  timed = bool(points) and all(point[2] is not None for point in points)
  found: dict[str, Any] = {'run': run, 'split': split, 'rows': len(points), 'kept': len(kept), **_arrays(kept, timed)}
  if means:
    found |= {f'm{key}': values for key, values in _arrays(means, timed).items()}
  found |= {'bad': bad[:_BAD_SHOWN], 'bads': len(bad)}
  if points:
    least, largest = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    found |= {'last': points[-1][:2], 'least': least[:2], 'largest': largest[:2]}
  return found


def thin(
  points: Sequence[tuple[int, float, float | None]], most: int
) -> tuple[list[tuple[int, float, float | None]], list[tuple[float, float, float | None]]]:
  """At most `most` of the points: the first, the last, and of each bucket of neighbours the least and the largest.

  Returns:
    (the points that are kept, in their order; the mean of each bucket, [] if all points are kept).
  """
  if len(points) <= most:
    return list(points), []
  buckets = max(1, (most - 2) // 2)
  kept = {0, len(points) - 1}
  means = []
  for number in range(buckets):
    begin, end = number * len(points) // buckets, (number + 1) * len(points) // buckets
    kept.add(min(range(begin, end), key=lambda i: points[i][1]))
    kept.add(max(range(begin, end), key=lambda i: points[i][1]))
    inside = points[begin:end]
    times = [point[2] for point in inside if point[2] is not None]
    means.append(
      (
        sum(point[0] for point in inside) / len(inside),
        math.fsum(point[1] / len(inside) for point in inside),
        sum(times) / len(times) if times else None,
      )
    )
  return [points[i] for i in sorted(kept)], means


def is_number(value: Any) -> TypeGuard[float]:
  """Whether something from a file of JSON is a finite number, and fits into a float."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


def _arrays(points: Iterable[tuple[float, float, float | None]], timed: bool) -> dict[str, Any]:
  points = list(points)
  return {
    'x': [round(point[0], 1) if isinstance(point[0], float) else point[0] for point in points],
    'y': [float(f'{point[1]:.6g}') for point in points],
    't': [round(point[2], 1) for point in points if point[2] is not None] if timed else None,
  }


def _split_order(split: str) -> tuple[int, str]:
  return (_SPLITS.index(split) if split in _SPLITS else len(_SPLITS), split)


def _is_constant_count(name: str, parts: Sequence[tuple[int, str, list[dict[str, Any]]]]) -> bool:
  """Whether it is the number of examples evaluated, always the same: a fact, no curve."""
  return name == 'examples' and all(len({row.get(name) for row in rows if name in row}) == 1 for _, _, rows in parts)
