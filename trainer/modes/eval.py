"""Mode eval: one checkpoint on the whole evaluation split; one JSON object on stdout."""

from __future__ import annotations

import json
from typing import Any

from trainer import config as config_lib
from trainer.checkpoint import CheckpointError, Checkpoints
from trainer.checkpoint.choice import choose
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.runtime import agreement, cluster
from trainer.storage.steps import CHECKPOINTS
from trainer.train import session as session_lib
from trainer.train.workdir import Workdir


def run(command: Any) -> None:
  """Evaluates and prints {"step", "split", "loss", metrics, "examples"}; writes nothing.

  Args:
    command: what the command line says (trainer/main.py). The config must be that of the run where a difference would
      matter; the work directory holds a complete checkpoint.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config.
  """
  session, step, _ = restored(command)
  try:
    results = session.evaluator().evaluate()
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  if session.cluster.is_chief:
    print(json.dumps({'step': step, 'split': 'eval', **results}))


def _alone(config: Any, reads_data: bool) -> Any:
  """The config for one device. Packed texts are opened in any case, for their vocabulary."""
  copy = config_lib.alone(config, made_up=not (reads_data or config.data.pack_tokens))
  with copy.unlocked():
    copy.optimizer.shard_state = False
  return copy


def restored(command: Any, *, alone: bool = False, reads_data: bool = True) -> tuple[session_lib.Session, int, Workdir]:
  """The run of a work directory at the checkpoint that the command line names, and its step; writes nothing.

  Args:
    command: what the command line says (trainer/main.py).
    alone: whether on one device, whatever the config says.
    reads_data: if alone, whether examples of the dataset are wanted; without them it need not be there.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config.
  """
  config = command.config
  directory = Workdir(command.workdir, config.storage)
  command.closing.callback(directory.close)
  directory.read()
  if directory.earlier_config() is None:
    raise ConfigError(f'--workdir={command.workdir} holds no run: train first, or name the directory of a run')
  directory.adopt(config, trained=True, write=False)
  config = _alone(config, reads_data) if alone else config
  where = cluster.discover(config)
  checkpoints = Checkpoints(directory.file(CHECKPOINTS), remote=directory.steps)
  step = choose(checkpoints, command.checkpoint, '--checkpoint', '--workdir')
  try:
    found = checkpoints.restore(step)
  except CheckpointError as error:
    raise ConfigError(f'{error}; choose another with --checkpoint') from error
  session = session_lib.build(
    config, where, found.host['task'], on_strategy=command.stop.reinstall, kept=found.host.get('precision', {})
  )
  if agreement.from_chief(session.strategy, where, step) != step:
    raise ConfigError('the workers see different checkpoints: is --workdir on a file system that all share?')
  session.restore(found, check_data=reads_data)
  return session, step, directory
