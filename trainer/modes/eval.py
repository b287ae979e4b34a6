"""Mode eval: one checkpoint on the whole evaluation split; one JSON object on stdout."""

from __future__ import annotations

import json

from trainer.checkpoint import CheckpointError, Checkpoints
from trainer.errors import ConfigError
from trainer.fields import nearest
from trainer.runtime import agreement, cluster
from trainer.train import session as session_lib
from trainer.train.workdir import CHECKPOINTS, Workdir


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
  _choose(checkpoints, checkpoint)  # a wrong name is said before anything is built
  session = session_lib.build(config, where)
  checkpoints = Checkpoints(
    directory.file(CHECKPOINTS), keep=1, keep_best=0, best_mode=session.best_mode, writer=False
  )
  step = agreement.from_chief(session.strategy, where, _choose(checkpoints, checkpoint))
  try:
    session.restore(checkpoints.restore(step))
  except CheckpointError as error:
    raise ConfigError(f'{error}; choose another with --checkpoint') from error
  results = session.evaluator().evaluate()
  if where.is_chief:
    print(json.dumps({'step': step, 'split': config.data.eval_split, **results}))


def _choose(checkpoints: Checkpoints, name: str) -> int:
  """The step that 'latest', 'best' or a number means."""
  steps = checkpoints.steps()
  if not steps:
    raise ConfigError('there is no complete checkpoint in --workdir yet')
  if name == 'latest':
    return steps[-1]
  if name == 'best':
    best = checkpoints.best_step()
    if best is None:
      raise ConfigError('no checkpoint has a metric to be the best by: set eval.best_metric, or take --checkpoint=latest')
    return best
  if not name.isdigit():
    raise ConfigError(f"--checkpoint={name!r} must be 'latest', 'best' or a step{nearest(name, ('latest', 'best'))}")
  if int(name) not in steps:
    raise ConfigError(f'--checkpoint={name} is not there; complete steps: {", ".join(map(str, steps))}')
  return int(name)
