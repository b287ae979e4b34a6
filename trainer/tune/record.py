"""tune.json: the points of a sweep, and what became of them. One process at a time works on a sweep's directory.

{"version": 1, "config": ..., "flags": [...], "search": {...}, "metric": ..., "mode": "max", "steps": ...,
 "base": {...},
 "points": [{"number": 0, "overrides": {...}, "workdir": "points/000-...", "state": "complete", "exit_code": 0,
             "attempts": 1, "metric": ..., "metric_step": ..., "step": ..., "seconds": ..., "in_sweep": true,
             "message": ""}, ...]}

`base` is the config without overrides, by path. A point is known by its overrides: a sweep that is changed finds those
that are there already. The file is replaced whole at each event, before a run starts and after it has ended; all else
is read from the runs' own files, so a kill at any moment loses nothing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import IO, Any

from trainer import durable
from trainer.errors import ConfigError
from trainer.tune import results
from trainer.tune.space import Overrides

FILE, LOCK, POINTS, LOGS = 'tune.json', 'tune.lock', 'points', 'logs'
VERSION = 1
# States of a point. The last three are ends without a result; `open` may be under way, waiting or interrupted.
OPEN, COMPLETE, NOT_PROMOTED = 'open', 'complete', 'not promoted'
DIVERGED, FAILED, CRASHED = 'diverged', 'failed', 'crashed'
DEAD = (DIVERGED, FAILED, CRASHED)
_LONGEST_NAME = 100


@dataclasses.dataclass
class Point:
  """One point; `metric` is the best evaluation of its run, at `metric_step`; `step` its newest checkpoint."""

  number: int
  overrides: Overrides
  workdir: str
  state: str = OPEN
  exit_code: int | None = None
  attempts: int = 0
  metric: float | None = None
  metric_step: int | None = None
  step: int = 0
  seconds: float | None = None
  in_sweep: bool = True
  message: str = ''

  @property
  def key(self) -> str:
    return key(self.overrides)


@dataclasses.dataclass
class Record:
  """What tune.json holds; `folder` is the sweep's directory."""

  folder: str
  config: str
  flags: list[str]
  search: dict[str, Any]
  metric: str
  mode: str
  steps: int
  base: dict[str, Any]
  points: list[Point] = dataclasses.field(default_factory=list)

  def workdir(self, point: Point) -> str:
    return os.path.join(self.folder, point.workdir)

  def log(self, point: Point) -> str:
    return os.path.join(self.folder, LOGS, f'{point.number:03d}.log')

  def add(self, overrides: Overrides) -> Point:
    """The point with these overrides: that which is there, or a new one."""
    found = next((point for point in self.points if point.key == key(overrides)), None)
    if found is None:
      number = len(self.points)
      found = Point(number, dict(overrides), os.path.join(POINTS, f'{number:03d}-{name(overrides)}'))
      self.points.append(found)
    found.in_sweep = True
    return found

  def steps_of(self, point: Point) -> int:
    """train.steps of a point."""
    return int(point.overrides.get('train.steps', self.base['train.steps']))

  def refresh(self, point: Point) -> results.Result:
    """Reads what the run of a point has written; it may have ended when nobody was there to see it."""
    found = results.read(self.workdir(point), self.metric, self.mode)
    point.metric, point.metric_step, point.step = found.best, found.best_step, found.step
    point.attempts = max(point.attempts, found.attempts)  # of an array of jobs nobody else counts them
    point.seconds = None if found.seconds is None else round(found.seconds, 1)
    if point.state in (OPEN, NOT_PROMOTED) and found.at(self.steps_of(point)):
      point.state = COMPLETE
    return found

  def write(self) -> None:
    """Replaces the file.

    Raises:
      ConfigError: it cannot be written.
    """
    contents = {'version': VERSION} | {k: v for k, v in dataclasses.asdict(self).items() if k != 'folder'}
    try:
      durable.replace(os.path.join(self.folder, FILE), json.dumps(contents, indent=2).encode() + b'\n')
    except OSError as error:
      raise _unwritable(self.folder, error) from error


def read(folder: str) -> Record | None:
  """What the directory of a sweep holds; None where there is no sweep.

  Raises:
    ConfigError: its tune.json cannot be read, or is of another version of this program.
  """
  path = os.path.join(folder, FILE)
  try:
    with open(path, 'rb') as file:
      contents = json.load(file)
    if contents.pop('version') != VERSION:
      raise ConfigError(f'{path} was written by another version of this program: choose another --workdir')
    points = [Point(**point) for point in contents.pop('points')]
    return Record(folder, points=points, **contents)
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(f'{path} cannot be read ({error}): restore it, or choose another --workdir') from error


def claim(folder: str) -> IO[str]:
  """Makes the directory and locks it, for as long as the file that is returned stays open.

  Raises:
    ConfigError: it cannot be written to, holds something else than a sweep, or another process works on it.
  """
  if '://' in folder:
    raise ConfigError(f'--workdir={folder} is in a bucket: name a directory of this machine for a sweep')
  try:
    os.makedirs(folder, exist_ok=True)
    names = set(os.listdir(folder))
    if names and not names & {FILE, LOCK}:
      raise ConfigError(
        f'--workdir={folder} is not empty and holds no sweep (it has {min(names)!r}): name a new or an empty directory'
      )
    lock = open(os.path.join(folder, LOCK), 'a+')  # noqa: SIM115 (held until the process ends)
    os.makedirs(os.path.join(folder, LOGS), exist_ok=True)
  except OSError as error:
    raise _unwritable(folder, error) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    lock.seek(0)
    owner = lock.read().strip() or 'another process'
    raise ConfigError(f'--workdir={folder} is in use by {owner}: wait for it, or name another') from error
  since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
  lock.truncate(0)
  lock.write(f'process {os.getpid()} on {socket.gethostname()} since {since}\n')
  lock.flush()
  return lock


def key(overrides: Mapping[str, Any]) -> str:
  """What a point is known by; the order of its fields does not count, and a tuple is the list that JSON makes of it."""
  return json.dumps(overrides, sort_keys=True)


def name(overrides: Mapping[str, Any]) -> str:
  """A point as the name of a folder: 'learning_rate=0.003,dropout=0.1'."""

  def short(value: Any) -> str:
    return 'x'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)

  text = ','.join(f'{path.rpartition(".")[2]}={short(value)}' for path, value in overrides.items())
  return re.sub(r'[^A-Za-z0-9._=,-]+', '_', text)[:_LONGEST_NAME].strip('_,') or 'as_it_is'


def words(overrides: Mapping[str, Any]) -> str:
  """A point as people read it."""
  return ', '.join(f'{path}={value}' for path, value in overrides.items()) or 'the config as it is'


def as_flags(overrides: Mapping[str, Any]) -> list[str]:
  """A point as flags of the trainer."""
  return [f'--config.{path}={_text(value)}' for path, value in overrides.items()]


def _text(value: Any) -> str:
  # As it is read from a command line: a tuple with brackets.
  return repr(tuple(value)) if isinstance(value, list | tuple) else str(value)


def _unwritable(folder: str, error: OSError) -> ConfigError:
  return ConfigError(f'--workdir={folder} cannot be written to: {error.strerror or error}')
