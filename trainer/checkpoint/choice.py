"""Which checkpoint of a run a word of the user's means."""

from __future__ import annotations

from trainer.checkpoint.checkpoints import Checkpoints
from trainer.errors import ConfigError
from trainer.fields import nearest


def choose(checkpoints: Checkpoints, name: str, field: str, directory: str) -> int:
  """The step that 'latest', 'best' or a number means.

  Args:
    checkpoints: of the run.
    name: what was asked for.
    field: where it was asked for, for the message.
    directory: the run's, for the message.

  Raises:
    ConfigError: there is no such checkpoint.
  """
  steps = checkpoints.steps()
  if not steps:
    raise ConfigError(f'there is no complete checkpoint in {directory} yet')
  if name == 'latest':
    return steps[-1]
  if name == 'best':
    best = checkpoints.host(steps[-1])['progress']['best_step']
    if best not in steps:
      why = f'that was step {best}, which was not kept' if best >= 0 else 'none was evaluated'
      raise ConfigError(f'there is no best checkpoint: {why} (eval.best_metric, checkpoint.keep_best)')
    return best
  if not name.isdigit():
    raise ConfigError(f"{field}={name!r} must be 'latest', 'best' or a step{nearest(name, ('latest', 'best'))}")
  if int(name) not in steps:
    raise ConfigError(f'{field}={name} is not there; complete steps: {", ".join(map(str, steps))}')
  return int(name)
