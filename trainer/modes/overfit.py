"""Mode overfit: one batch again and again. A model that cannot learn that by heart has a fault, or too small a rate."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from trainer.report import words
from trainer.runtime import cluster
from trainer.train import short_run
from trainer.train.workdir import OVERFIT, Workdir

VERSION = 1
_LEARNT = 0.1  # share of the first loss
_LAST = 10  # steps whose mean is the last loss


def run(command: Any) -> None:
  """Trains `diagnose.steps` steps on the first batch, says whether it was learnt, and writes overfit.json.

  At the learning rate of the config, without its warm-up and its schedule. Dropout stays, and with it noise in the
  loss; so does weight decay.

  Args:
    command: what the command line says (trainer/main.py).

  Raises:
    ConfigError: a mistake of the user's.
  """
  config, where = command.config, cluster.discover(command.config)
  directory = Workdir(command.workdir, config.storage)
  steady = short_run.changed(config, steps=config.diagnose.steps, schedule='constant')
  losses = [loss for _, loss in short_run.losses(command, where, steady, one_batch=True)]
  if not where.is_chief:
    return
  first, last = losses[0], statistics.fmean(losses[-_LAST:])
  learnt = math.isfinite(last) and last <= _LEARNT * first
  directory.write(OVERFIT, json.dumps({'version': VERSION, 'learnt': learnt, 'losses': losses}) + '\n')
  print('One batch by heart')
  print(f'  first loss  {words.value(first)}')
  print(f'  last loss   {words.value(last)}, after {len(losses)} steps')
  if learnt:
    print('  learnt: model, loss, labels and optimizer work together')
  else:
    what = 'it diverged: lower optimizer.learning_rate' if not math.isfinite(last) or last > first else (
      'try more diagnose.steps, or --mode=lr_test; then look at the labels, the loss and model.dropout'
    )  # fmt: skip
    print(f'  not learnt (a tenth of the first loss would be): {what}')
  print(f'  all of it   {directory.shown(OVERFIT)}')
