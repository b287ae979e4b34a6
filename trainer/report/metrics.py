"""metrics.jsonl: one JSON object per line, never two for the same split and step.

A row is {"step": int, "split": str, "time": float, NAME: number or null, ...}. A value that is not finite is null,
since JSON knows no NaN. A kill can tear at most the last line. Rows past the step that a run resumes from are dropped,
because that part of the run is done again. Only the chief writes.
"""

from __future__ import annotations

import json
import math
import os
import time as clock
from collections.abc import Mapping
from typing import Any

from absl import logging

from trainer import durable
from trainer.errors import ConfigError

# What of a row depends on the machine and the moment; all else is the same in each run of a deterministic config.
TIMES = ('time', 'examples_per_second', 'step_milliseconds')

_OWN = ('step', 'split', 'time')


class MetricsFile:
  """The file, opened for appending by its one writer; with `writer=False` every method does nothing."""

  def __init__(self, path: str, *, writer: bool):
    """Opens the file, or creates it.

    Raises:
      ConfigError: it cannot be written to.
    """
    self.path, self.writer = path, writer
    self._file: int | None = None
    self._seen: set[tuple[str, int]] = set()
    if writer:
      self._open()
      # A line torn by a kill would spoil the next one.
      self._keep(lambda row: True)

  def drop_after(self, step: int) -> int:
    """Drops the rows of later steps, before the run goes on from `step`; -1 drops all. Returns how many there were."""
    return self._keep(lambda row: row['step'] <= step) if self.writer else 0

  def write(self, step: int, split: str, values: Mapping[str, Any], *, time: float | None = None) -> None:
    """Appends one row; a row of the same split and step is replaced.

    Args:
      step: optimizer steps done.
      split: 'train', 'eval' or another name.
      values: numbers by name; None and what is not finite become null.
      time: seconds since 1970; None: now.

    Raises:
      ConfigError: the disk is full or the file cannot be written to; what was there stays as it was.
      ValueError: a value has the name of a field of the row itself.
    """
    if not self.writer:
      return
    if taken := [name for name in values if name in _OWN]:
      raise ValueError(f'a metric cannot be called {taken[0]!r}: each row has a field of that name')
    if (split, step) in self._seen:
      # An evaluation that was written, but not saved as done before the process was killed, is done again.
      self._keep(lambda row: (row['split'], row['step']) != (split, step))
    row = {'step': int(step), 'split': split, 'time': round(clock.time() if time is None else time, 3)}
    row |= {name: _number(value) for name, value in values.items()}
    self._append(json.dumps(row, allow_nan=False).encode() + b'\n')
    self._seen.add((split, step))

  def sync(self) -> None:
    """Returns when all rows are on the disk.

    Raises:
      ConfigError: the disk does not take them.
    """
    if self._file is not None:
      try:
        os.fsync(self._file)
      except OSError as error:
        raise self._unwritable(error) from error

  def close(self) -> None:
    if self._file is not None:
      try:
        self.sync()
      finally:
        os.close(self._file)
        self._file = None

  def _open(self) -> None:
    try:
      self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
      raise self._unwritable(error) from error

  def _append(self, line: bytes) -> None:
    assert self._file is not None, 'the file is closed'
    size = os.fstat(self._file).st_size
    try:
      while line:  # a disk that becomes full takes a part first, and says so at the next try
        line = line[os.write(self._file, line) :]
    except OSError as error:
      os.ftruncate(self._file, size)
      raise self._unwritable(error) from error

  def _keep(self, wanted) -> int:
    """Rewrites the file with the rows that are wanted, if there are others in it; returns how many there were."""
    with open(self.path, 'rb') as file:
      contents = file.read()
    rows, damaged, torn = _parse(contents)
    kept = [(line, row) for line, row in rows if wanted(row)]
    self._seen = {(row['split'], row['step']) for _, row in kept}
    if damaged:
      aside = f'{self.path}.damaged'
      logging.warning('%s: line %d is not a row of metrics; left out, and kept in %s', self.path, damaged[0], aside)
      durable.replace(aside, contents)
    if len(kept) < len(rows) or damaged or torn:
      try:
        durable.replace(self.path, b''.join(line + b'\n' for line, _ in kept))
      except OSError as error:
        raise self._unwritable(error) from error
      # The old file is still open under no name.
      if self._file is not None:
        os.close(self._file)
      self._open()
    return len(rows) - len(kept)

  def _unwritable(self, error: OSError) -> ConfigError:
    return ConfigError(
      f'metrics cannot be written to {self.path}: {error.strerror}: make room or set the permissions, '
      'or choose another --workdir'
    )


def read(path: str) -> list[dict[str, Any]]:
  """The rows of a file, in their order; [] if there is none. A torn last line, of a write under way, is no row.

  Raises:
    ConfigError: a line is not a row of metrics; its number is named.
  """
  try:
    with open(path, 'rb') as file:
      rows, damaged, _ = _parse(file.read())
  except FileNotFoundError:
    return []
  if damaged:
    raise ConfigError(f'{path}: line {damaged[0]} is not a row of metrics: mend or remove it')
  return [row for _, row in rows]


def _parse(contents: bytes) -> tuple[list[tuple[bytes, dict[str, Any]]], list[int], bool]:
  """(line and row of each good line, number of the first damaged line if any, whether the last line is torn)."""
  rows: list[tuple[bytes, dict[str, Any]]] = []
  damaged: list[int] = []
  *lines, tail = contents.split(b'\n')
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      good = isinstance(row['step'], int) and isinstance(row['split'], str)
    except (ValueError, TypeError, KeyError):
      good = False
    if good:
      rows.append((line, row))
    elif not damaged:
      damaged.append(number)
  return rows, damaged, bool(tail)


def _number(value: Any) -> int | float | None:
  if value is None or (isinstance(value, int) and not isinstance(value, bool)):
    return value
  number = float(value)
  return number if math.isfinite(number) else None
