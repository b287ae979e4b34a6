"""Mode continuous_eval: every checkpoint of a run that may be under way, each once; a JSON object per checkpoint.

A process of its own, on other hardware if wished: it only reads what training writes, and no checkpoint is locked. One
that training deletes before its turn is left out, and said. What is done is in continuous_eval.jsonl, so a restart goes
on. It ends when the last step of training has been evaluated.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from trainer.checkpoint import CheckpointError, Checkpoints, DamagedCheckpoint, NoSuchCheckpoint
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.runtime import agreement, cluster
from trainer.storage.steps import CHECKPOINTS
from trainer.train import session as session_lib
from trainer.train.workdir import Workdir

RESULTS = 'continuous_eval.jsonl'
_LOCK = 'continuous_eval.lock'
_POLL_SECONDS = 2.0
# What the chief tells the others instead of a step.
_WAIT, _END = -1, -2


def run(command: Any) -> None:
  """Evaluates and prints {"step", "split", "loss", metrics, "examples"} for each checkpoint, and keeps it in RESULTS.

  Waits for a run that has not begun yet, and for each next checkpoint. A notice to stop ends it at once, with 75.

  Args:
    command: what the command line says (trainer/main.py). The config must be that of the run where a difference would
      matter.

  Raises:
    ConfigError: the run is of another config; another process does the same; the data cannot be read.
  """
  config, where = command.config, cluster.discover(command.config)
  directory = Workdir(command.workdir, config.storage)
  command.closing.callback(directory.close)
  directory.read()
  checkpoints = Checkpoints(directory.file(CHECKPOINTS), remote=directory.steps)
  first = _first_host(directory, checkpoints)
  directory.adopt(config, trained=True, write=False)
  with _alone(directory, where):
    session = session_lib.build(
      config, where, first['task'], on_strategy=command.stop.reinstall, kept=first.get('precision', {})
    )
    _follow(session, directory, checkpoints)


def _follow(session: session_lib.Session, directory: Workdir, checkpoints: Checkpoints) -> None:
  """Evaluates what is there and what comes, until the last step of training."""
  chief = session.cluster.is_chief
  evaluator, rows = session.evaluator(), _rows(directory) if chief else []
  left_out: set[int] = set()

  def wanted() -> int:
    done = {row['step'] for row in rows} | left_out
    if any(step >= session.config.train.steps for step in done):
      return _END
    directory.refresh()
    return next((step for step in checkpoints.steps() if step not in done), _WAIT)

  while True:
    step = agreement.from_chief(session.strategy, session.cluster, wanted() if chief else 0)
    if step == _END:
      return
    if step == _WAIT:
      time.sleep(_POLL_SECONDS)
      continue
    found = None
    try:
      found = checkpoints.restore(step)
    except (NoSuchCheckpoint, DamagedCheckpoint) as error:
      logging.warning('step %d is left out: %s', step, error)
    except CheckpointError as error:
      raise ConfigError(str(error)) from error
    if not agreement.all_true(session.strategy, session.cluster, found is not None) or found is None:
      left_out.add(step)
      continue
    session.restore(found)
    try:
      results = evaluator.evaluate()
    except DATA_ERRORS as error:
      raise session.pipeline.corrupt(error) from error
    if chief:
      rows.append({'step': step, 'split': 'eval', **results})
      directory.write(RESULTS, ''.join(f'{json.dumps(row)}\n' for row in rows))
      print(json.dumps(rows[-1]), flush=True)


def _first_host(directory: Workdir, checkpoints: Checkpoints) -> dict[str, Any]:
  """What the first checkpoint that can be had was saved with beside its arrays; waits for one."""
  said = False
  while True:
    for step in checkpoints.steps():
      with contextlib.suppress(NoSuchCheckpoint, DamagedCheckpoint):
        return checkpoints.host(step)
    if not said:
      logging.warning('waiting for the first checkpoint in %s', directory.shown(CHECKPOINTS))
      said = True
    time.sleep(_POLL_SECONDS)
    directory.refresh()


def _rows(directory: Workdir) -> list[dict[str, Any]]:
  """What an earlier process has evaluated.

  Raises:
    ConfigError: the file is not what this mode writes.
  """
  text = directory.text(RESULTS)
  try:
    rows = [json.loads(line) for line in text.splitlines()]
    if not all(isinstance(row['step'], int) for row in rows):
      raise ValueError('a step is no number')
  except (ValueError, TypeError, KeyError) as error:
    raise ConfigError(f'{directory.shown(RESULTS)} cannot be read ({error}): move it away to begin anew') from error
  return rows


@contextlib.contextmanager
def _alone(directory: Workdir, where: cluster.Cluster) -> Iterator[None]:
  """Holds a lock that keeps a second such process on the same file system away; a bucket has none for this."""
  if directory.is_remote or not where.is_chief:
    yield
    return
  try:
    with open(directory.file(_LOCK), 'w') as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        raise ConfigError(
          f'another process evaluates the checkpoints of {directory.path}: wait for it, or use --mode=eval'
        ) from error
      yield
  except PermissionError as error:
    raise ConfigError(f'--workdir={directory.path} cannot be written to: {error.strerror}') from error
