"""A work directory as somebody finds it: under way, killed, half copied. What is there is read, what is not is said."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.errors import ConfigError
from trainer.report import goodput, ledger
from trainer.report.gallery import INDEX, KINDS
from trainer.storage import place
from trainer.storage.bucket import Bucket
from trainer.storage.steps import CHECKPOINTS, MARKER, Steps

CONFIG, RUN, METRICS, CONTINUOUS = 'config.json', 'run.json', 'metrics.jsonl', 'continuous_eval.jsonl'
BENCHMARK, LR_TEST, OVERFIT, BAD_STEPS = 'benchmark.json', 'lr_test.json', 'overfit.json', 'bad_steps.jsonl'
# Rows of the process that evaluates beside training have the split of the others; here they have a name of their own.
CONTINUOUS_SPLIT = 'continuous_eval'

_OBJECTS = (CONFIG, RUN, BENCHMARK, LR_TEST, OVERFIT)
_LINES = (METRICS, CONTINUOUS, BAD_STEPS)


@dataclasses.dataclass
class Checkpoint:
  """A complete step.

  Attributes:
    step: optimizer steps.
    metric: what ranks it; None where nothing was measured.
    progress: what the run knew of itself then.
    values: numbers in the variables of the model; None where the manifest does not say.
  """

  step: int
  metric: float | None
  progress: dict[str, Any]
  values: int | None


@dataclasses.dataclass
class Run:
  """What a work directory holds.

  Attributes:
    path: as it was named.
    folder: where it can be read on this machine.
    name: short, and another one for each run of a page.
    config, benchmark, lr_test, overfit: the files of those names; {} where there is none.
    attempts: of run.json.
    rows: of metrics.jsonl and continuous_eval.jsonl, each with an int 'step' and a str 'split'.
    bad_steps: of bad_steps.jsonl.
    ledgers: attempts by worker.
    checkpoints: complete ones, ascending.
    galleries: (folder relative to the work directory, index).
    notices: what could not be read, in sentences.
  """

  path: str
  folder: str
  name: str = ''
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  benchmark: dict[str, Any] = dataclasses.field(default_factory=dict)
  lr_test: dict[str, Any] = dataclasses.field(default_factory=dict)
  overfit: dict[str, Any] = dataclasses.field(default_factory=dict)
  attempts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  bad_steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  ledgers: dict[int, list[goodput.Attempt]] = dataclasses.field(default_factory=dict)
  checkpoints: list[Checkpoint] = dataclasses.field(default_factory=list)
  galleries: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
  notices: list[str] = dataclasses.field(default_factory=list)

  @property
  def is_remote(self) -> bool:
    return place.is_remote(self.path)


def read(path: str, folder: str) -> Run:
  """What a work directory holds.

  Args:
    path: as it was named; may be in a bucket.
    folder: where it can be read here (trainer.storage.mirror.readable).

  Raises:
    ConfigError: it is no directory, or holds nothing of a run.
  """
  if not os.path.isdir(folder):
    raise ConfigError(f'{path} is not a directory: name the --workdir of a run')
  run = Run(path=path, folder=folder)
  known = {*_OBJECTS, *_LINES, ledger.file_name(0)}
  try:
    names = set(os.listdir(folder))
  except OSError as error:
    raise ConfigError(f'{path} cannot be read: {error.strerror}: set its permissions') from error
  run.galleries = list(_galleries(run))
  if not names & known and not run.galleries:
    raise ConfigError(f'{path} holds no run (none of {METRICS}, {CONFIG}, {RUN}, ...): name the --workdir of a run')
  run.config, run.benchmark = _object(run, CONFIG), _object(run, BENCHMARK)
  run.lr_test, run.overfit = _object(run, LR_TEST), _object(run, OVERFIT)
  attempts = _object(run, RUN).get('attempts')
  run.attempts = [attempt for attempt in attempts if isinstance(attempt, dict)] if isinstance(attempts, list) else []
  run.rows = _rows(run, METRICS)
  run.rows += [{**row, 'split': CONTINUOUS_SPLIT} for row in _rows(run, CONTINUOUS)]
  run.bad_steps = _lines(run, BAD_STEPS)
  run.ledgers = _ledgers(run)
  if run.is_remote:
    _fetch_markers(run)
  run.checkpoints = _checkpoints(run)
  return run


def name(runs: Sequence[Run]) -> None:
  """Gives each run the shortest end of its path that no other has."""
  parts = [[part for part in run.path.rstrip('/').split('/') if part] or [run.path] for run in runs]
  longest = max(map(len, parts))
  names: list[str] = []
  for length in range(1, longest + 1):
    names = ['/'.join(part[-length:]) for part in parts]
    if len(set(names)) == len(names):
      break
  for place_, (run, text) in enumerate(zip(runs, names, strict=True)):
    run.name = text if names.count(text) == 1 else f'{text} ({place_ + 1})'


def _object(run: Run, file_name: str) -> dict[str, Any]:
  try:
    with open(os.path.join(run.folder, file_name), 'rb') as file:
      found = json.load(file)
    if isinstance(found, dict):
      return found
    run.notices.append(f'{file_name} is not an object of JSON, and is left out.')
  except FileNotFoundError:
    pass
  except (OSError, ValueError, RecursionError) as error:
    run.notices.append(f'{file_name} cannot be read, and is left out: {error}')
  return {}


def _lines(run: Run, file_name: str) -> list[dict[str, Any]]:
  """The objects of a file of lines. A torn last line, of a write under way, is no line; other damage is said."""
  try:
    with open(os.path.join(run.folder, file_name), 'rb') as file:
      *lines, _ = file.read().split(b'\n')
  except FileNotFoundError:
    return []
  except OSError as error:
    run.notices.append(f'{file_name} cannot be read, and is left out: {error}')
    return []
  found, damaged = [], []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      found.append(row)
    else:
      damaged.append(number)
  if damaged:
    more = f' and {len(damaged) - 1} more' if len(damaged) > 1 else ''
    run.notices.append(f'{file_name}: line {damaged[0]}{more} cannot be read, and is left out.')
  return found


def _rows(run: Run, file_name: str) -> list[dict[str, Any]]:
  rows = _lines(run, file_name)
  good = [row for row in rows if type(row.get('step')) is int and isinstance(row.get('split'), str)]
  if len(good) < len(rows):
    run.notices.append(f'{file_name}: {len(rows) - len(good)} lines have no step or no split, and are left out.')
  return good


def _ledgers(run: Run) -> dict[int, list[goodput.Attempt]]:
  found = {}
  try:
    for worker in {0, *ledger.workers(run.folder)}:
      try:
        attempts = goodput.read(run.folder, worker)
        if not all(math.isfinite(number) for attempt in attempts for number in _times(attempt)):
          run.notices.append(f'{ledger.file_name(worker)} has times that are not finite, and is left out.')
          continue
        found[worker] = attempts
      except ConfigError as error:
        if os.path.exists(os.path.join(run.folder, ledger.file_name(worker))):
          run.notices.append(f'{ledger.file_name(worker)} tells of no attempt: {error}')
  except OSError as error:
    run.notices.append(f'the ledger cannot be read: {error}')
  return dict(sorted(found.items()))


def _times(attempt: goodput.Attempt) -> Iterator[float]:
  yield from (attempt.begin, attempt.last_sign)
  for span in attempt.spans:
    yield from (span['begin'], span['seconds'], span.get('busy', 0.0), span.get('data_wait') or 0.0)


def _fetch_markers(run: Run) -> None:
  """Brings here which steps count in the bucket, without their files."""
  try:
    os.makedirs(os.path.join(run.folder, CHECKPOINTS), exist_ok=True)
    Steps(Bucket(run.path), os.path.join(run.folder, CHECKPOINTS), writer=False).sync()
  except OSError as error:
    run.notices.append(f'the checkpoints in {run.path} cannot be listed: {error}')


def _checkpoints(run: Run) -> list[Checkpoint]:
  folder = os.path.join(run.folder, CHECKPOINTS)
  try:
    steps = sorted(int(entry) for entry in os.listdir(folder) if entry.isascii() and entry.isdigit())
  except OSError:
    return []
  found = []
  for step in steps:
    marker = os.path.join(folder, str(step), MARKER)
    if not os.path.exists(marker):
      continue  # being written, or a kill has cut it
    try:
      with open(marker, 'rb') as file:
        manifest = json.load(file)['manifest']
      metric, host = manifest.get('metric'), manifest.get('host') or {}
      progress = host.get('progress')
      found.append(
        Checkpoint(
          step=step,
          metric=float(metric) if isinstance(metric, int | float) else None,
          progress=progress if isinstance(progress, dict) else {},
          values=_values(manifest.get('arrays')),
        )
      )
    except FileNotFoundError:
      continue  # deleted meanwhile
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      run.notices.append(f'checkpoint {step}: its {MARKER} cannot be read: {error}')
  return found


def _values(arrays: Any) -> int | None:
  """Numbers in the arrays of the model."""
  total = 0
  for key, array in arrays.items() if isinstance(arrays, dict) else ():
    if key.startswith('model/'):
      size = 1
      for length in array['shape']:
        size *= int(length)
      total += size
  return total or None


def _galleries(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
  for kind in KINDS:
    for at, folders, names in os.walk(os.path.join(run.folder, kind)):
      folders.sort()
      if INDEX in names:
        relative = os.path.relpath(at, run.folder)
        if index := _object(run, os.path.join(relative, INDEX)):
          yield relative, index
