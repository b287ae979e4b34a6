"""Mode inspect: a batch as training would see it, augmented, for people to look at; needs no checkpoint."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.report.gallery import INPUTS, Gallery
from trainer.runtime import cluster
from trainer.train import session as session_lib
from trainer.train.workdir import Workdir


def run(command: Any) -> None:
  """Writes WORKDIR/inputs, `samples.first` examples of the first batch, and prints {"inputs", "examples", "batch"}.

  Beside what the model sees stands the recording that it is made of, where it is one. The range of the numbers is said,
  because a model that is given other ranges than it expects learns badly and says nothing.

  Args:
    command: what the command line says (trainer/main.py).

  Raises:
    ConfigError: a mistake of the user's.
  """
  config, where = command.config, cluster.discover(command.config)
  if where.num_workers > 1:
    raise ConfigError('--mode=inspect is for one process: start it without TF_CONFIG and outside of srun')
  directory = Workdir(command.workdir, config.storage)
  command.closing.callback(directory.close)
  directory.scratch()
  session = session_lib.build(config, where, on_strategy=command.stop.reinstall)
  task, dataset = session.task, session.dataset
  try:
    parts = session.pipeline.batch(0)
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  count = min(config.samples.first, len(parts['index']))
  gallery = Gallery(directory.file(INPUTS), INPUTS, f'The first batch of {dataset.name}, split {dataset.train.name}')
  gallery.facts = {'examples in a batch': config.train.global_batch_size, **_ranges(parts['inputs'])}
  for place in range(count):
    example = tf.nest.map_structure(lambda values, place=place: values[place], parts)
    index = int(example.pop('index'))
    heard = [] if dataset.synthetic else task.hear(session.pipeline.raw(index))
    gallery.add(str(index), [*task.look(example), *heard])
  gallery.close()
  print(json.dumps({'inputs': directory.publish(INPUTS), 'examples': count, 'batch': config.train.global_batch_size}))


def _ranges(inputs: Any) -> dict[str, Any]:
  """Least, largest, mean and deviation of each tensor of the inputs."""
  nest = inputs if isinstance(inputs, dict) else {'inputs': inputs}
  told = {}
  for name, values in nest.items():
    numbers = np.asarray(values, np.float64)
    told[f'{name} {values.dtype} {list(values.shape[1:])}'] = (
      f'{numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4g}, deviation {numbers.std():.4g}'
    )
  return told
