"""Mode eval: one checkpoint on the whole evaluation split; one JSON object on stdout."""

from __future__ import annotations

import json

import tensorflow as tf

from trainer.checkpoint import CheckpointError, Checkpoints
from trainer.errors import ConfigError
from trainer.fields import nearest
from trainer.report.reporter import CHECKPOINTS
from trainer.runtime import agreement, cluster
from trainer.train import session as session_lib
from trainer.train.workdir import Workdir


def run(config, workdir: str, checkpoint: str) -> None:
  """Evaluates and prints {"step", "split", "loss", metrics, "examples"}; writes nothing.

  Args:
    config: checked; it must be that of the run where a difference would matter.
    workdir: of a run with a complete checkpoint.
    checkpoint: 'latest', 'best' or a step.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config.
  """
  where = cluster.discover(config)
  directory = Workdir(workdir)
  if directory.earlier_config() is None:
    raise ConfigError(f'--workdir={workdir} holds no run: train first, or name the directory of a run')
  directory.adopt(config, trained=True, write=False)
  checkpoints = Checkpoints(directory.file(CHECKPOINTS), keep=1, keep_best=0, best_mode='max', writer=False)
  step = _choose(checkpoints, checkpoint)
  try:
    restored = checkpoints.restore(step)
  except CheckpointError as error:
    raise ConfigError(f'{error}; choose another with --checkpoint') from error
  session = session_lib.build(config, where, restored.host['task'])
  if agreement.from_chief(session.strategy, where, step) != step:
    raise ConfigError('the workers see different checkpoints: is --workdir on a file system that all share?')
  session.restore(restored)
  try:
    results = session.evaluator().evaluate()
  except tf.errors.DataLossError as error:
    raise session.pipeline.corrupt(error) from error
  if where.is_chief:
    print(json.dumps({'step': step, 'split': 'eval', **results}))


def _choose(checkpoints: Checkpoints, name: str) -> int:
  """The step that 'latest', 'best' or a number means."""
  steps = checkpoints.steps()
  if not steps:
    raise ConfigError('there is no complete checkpoint in --workdir yet')
  if name == 'latest':
    return steps[-1]
  if name == 'best':
    best = checkpoints.host(steps[-1])['progress']['best_step']
    if best not in steps:
      why = f'that was step {best}, which was not kept' if best >= 0 else 'none was evaluated'
      raise ConfigError(f'there is no best checkpoint: {why} (eval.best_metric, checkpoint.keep_best)')
    return best
  if not name.isdigit():
    raise ConfigError(f"--checkpoint={name!r} must be 'latest', 'best' or a step{nearest(name, ('latest', 'best'))}")
  if int(name) not in steps:
    raise ConfigError(f'--checkpoint={name} is not there; complete steps: {", ".join(map(str, steps))}')
  return int(name)
