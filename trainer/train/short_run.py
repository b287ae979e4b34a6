"""Some steps of a run on a state that is thrown away: what tests of a config are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.data.pipeline import DATA_ERRORS
from trainer.runtime import cluster
from trainer.train import session as session_lib

_BLOCK = 10  # steps between two looks


def changed(config: ml_collections.ConfigDict, **fields: Any) -> ml_collections.ConfigDict:
  """A copy of the config with other fields of its section `optimizer`, and `steps` of `train`."""
  copy = config.copy_and_resolve_references()
  with copy.unlocked():
    copy.train.steps = fields.pop('steps')
    copy.optimizer.update({'warmup_steps': 0, 'decay_steps': 0, **fields})
  return copy.lock()


def losses(
  command: Any, where: cluster.Cluster, config: ml_collections.ConfigDict, *, one_batch: bool = False
) -> Iterator[tuple[float, float]]:
  """(learning rate, mean loss of the batch) of each step, as they are done; a loss may be infinite or NaN.

  Args:
    command: what the command line says (trainer/main.py).
    where: the cluster that was discovered.
    config: what is trained, for `train.steps` steps.
    one_batch: the first batch again and again, augmented once.

  Raises:
    ConfigError: the machine, the data, the task or the model cannot serve the config.
  """
  session = session_lib.build(config, where, on_strategy=command.stop.reinstall)
  step = session.train_step()
  batches = iter(session.pipeline.train(session.strategy, 0, repeat=one_batch))
  try:
    for first in range(0, config.train.steps, _BLOCK):
      steps = min(_BLOCK, config.train.steps - first)
      found, _ = step.run(batches, tf.constant(first, tf.int64), tf.constant(steps), tf.zeros([3]))
      rows = step.split(found.numpy())
      with np.errstate(invalid='ignore', divide='ignore'):
        yield from zip(
          rows.fact('learning_rate').tolist(), (rows.sum('loss') / rows.sum('weight')).tolist(), strict=True
        )
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
