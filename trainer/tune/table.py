"""The points of a sweep as people read them, best first; and what to do with the best."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from trainer.report import words
from trainer.tune import record
from trainer.tune.halving import counts
from trainer.tune.record import Point, Record

SEED = 'seed'
# Runs that the command for a report names.
_REPORTED = 3


def render(found: Record, report: str = '') -> str:
  """The table, what failed, the mean over seeds where these are swept, and commands for the best.

  Args:
    found: the record, refreshed.
    report: the program that compares runs, given their directories; '': there is none.
  """
  fields = list(dict.fromkeys(path for point in found.points for path in point.overrides))
  header = ['point', *_short(fields), found.metric, 'at step', 'steps', 'state', 'attempts', 'time']
  rows = [_row(point, fields) for point in ranked(found)]
  most = 'most' if found.mode == 'max' else 'least'
  lines = [f'{len(found.points)} points of {found.config}, by {found.metric} ({most} is best):']
  lines += _aligned([header, *rows])
  lines += [f'point {point.number} {point.state}: {point.message}' for point in found.points if point.message]
  groups = over_seeds(found) if SEED in fields else []
  if groups:
    fields.remove(SEED)
    lines += ['', f'{found.metric} over seeds, mean and standard deviation:']
    cells = [[*(_value(overrides.get(f)) for f in fields), _spread(v), str(len(v))] for overrides, v in groups]
    lines += _aligned([[*_short(fields), found.metric, 'seeds'], *cells])
  best = next((point for point in ranked(found) if point.metric is not None and counts(point.metric)), None)
  if best is not None:
    lines += ['', *_commands(found, best, report)]
  return '\n'.join(lines)


def ranked(found: Record) -> list[Point]:
  """The points, best first; those without a metric last, in their order."""
  sign = -1.0 if found.mode == 'max' else 1.0

  def order(point: Point) -> tuple[bool, float, int]:
    value = point.metric
    return (True, 0.0, point.number) if value is None or not counts(value) else (False, sign * value, point.number)

  return sorted(found.points, key=order)


def over_seeds(found: Record) -> list[tuple[dict[str, Any], list[float]]]:
  """(overrides without the seed, metrics of the complete points with them), the best mean first."""
  groups: dict[str, tuple[dict[str, Any], list[float]]] = {}
  for point in found.points:
    if point.state == record.COMPLETE and point.metric is not None and counts(point.metric):
      overrides = {path: value for path, value in point.overrides.items() if path != SEED}
      groups.setdefault(record.key(overrides), (overrides, []))[1].append(point.metric)
  sign = -1.0 if found.mode == 'max' else 1.0
  return sorted(groups.values(), key=lambda group: sign * statistics.fmean(group[1]))


def _commands(found: Record, best: Point, report: str) -> list[str]:
  start = ['python', '-m', 'trainer', f'--config={found.config}']
  flags = [*found.flags, *record.as_flags(best.overrides)]
  run = f'--workdir={found.workdir(best)}'
  again = f'--workdir={os.path.join(found.folder, "again")}'
  runs = [found.workdir(point) for point in ranked(found)[:_REPORTED] if point.metric is not None]
  lines = [
    f'best: point {best.number}, {found.metric} {words.value(best.metric)} at step {best.metric_step:,}',
    f'  evaluate  {shlex.join([*start, run, *flags, "--mode=eval", "--checkpoint=best"])}',
    f'  again     {shlex.join([*start, again, *flags])}',
  ]
  return [*lines, f'  compare   {shlex.join([report, *runs])}'] if report else lines


def _row(point: Point, fields: Sequence[str]) -> list[str]:
  state = point.state
  if state == record.OPEN:
    state = 'unfinished' if point.attempts or point.step else 'not begun'
  return [
    str(point.number),
    *(_value(point.overrides[path]) if path in point.overrides else '' for path in fields),
    words.value(point.metric) if point.metric is not None else words.NOT_MEASURED,
    f'{point.metric_step:,}' if point.metric_step is not None else '',
    f'{point.step:,}',
    state if point.in_sweep else f'{state}, not in the sweep',
    str(point.attempts),
    words.duration(point.seconds),
  ]


def _spread(values: Sequence[float]) -> str:
  mean = words.value(statistics.fmean(values))
  return f'{mean} ± {words.value(statistics.stdev(values))}' if len(values) > 1 else mean


def _short(fields: Sequence[str]) -> list[str]:
  """The last parts of paths, where these tell them apart."""
  last = [path.rpartition('.')[2] for path in fields]
  return [name if last.count(name) == 1 else path for name, path in zip(last, fields, strict=True)]


def _value(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.6g}'
  return repr(tuple(value)) if isinstance(value, list) else str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ['  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
