"""Mode lr_test: the loss while the learning rate rises from far too small to far too large; where it falls fastest.

The range test of Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3, with the exponential
rise and the smoothed loss that became usual. Nothing of it is kept but lr_test.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from trainer.errors import ConfigError
from trainer.report import words
from trainer.runtime import cluster
from trainer.train import short_run
from trainer.train.workdir import LR_TEST, Workdir

VERSION = 1
_SMOOTHING = 0.95  # decay of the running mean of the loss
_DIVERGED = 4.0  # a loss so many times the best ends the test
_ROWS, _BAR = 16, 40  # of the table


def run(command: Any) -> None:
  """Trains `diagnose.steps` steps, prints a table and a proposal, and writes lr_test.json.

  Args:
    command: what the command line says (trainer/main.py).

  Raises:
    ConfigError: a mistake of the user's; or the loss diverges too early to say anything.
  """
  config, fields, where = command.config, command.config.diagnose, cluster.discover(command.config)
  directory = Workdir(command.workdir, config.storage)
  rising = short_run.changed(
    config,
    steps=fields.steps,
    schedule='exponential',
    learning_rate=fields.lowest_rate,
    decay_rate=fields.highest_rate / fields.lowest_rate,
  )
  rates: list[float] = []
  losses: list[float] = []
  smooth: list[float] = []
  raw = 0.0
  for rate, loss in short_run.losses(command, where, rising):
    raw = _SMOOTHING * raw + (1 - _SMOOTHING) * loss
    mean = raw / (1 - _SMOOTHING ** (len(losses) + 1))  # as if it had begun with the losses: Adam's correction
    if not math.isfinite(mean) or (smooth and mean > _DIVERGED * min(smooth)):
      break
    rates.append(rate)
    losses.append(loss)
    smooth.append(mean)
  if len(rates) < _ROWS:
    raise ConfigError(
      f'the loss had diverged after {len(rates)} steps: lower diagnose.lowest_rate={fields.lowest_rate:g}, or raise '
      f'diagnose.steps={fields.steps}'
    )
  if not where.is_chief:
    return
  found = proposal(rates, smooth)
  everything = {'version': VERSION, **found, 'rates': rates, 'losses': losses, 'smoothed': smooth}
  directory.write(LR_TEST, json.dumps(everything) + '\n')
  low, fall, now = found['rate_of_lowest_loss'], found['rate_of_fastest_fall'], config.optimizer.learning_rate
  print('Learning rates')
  for line in table(rates, smooth):
    print(f'  {line}')
  print(f'  lowest loss at {low:.2g}, fastest fall at {fall:.2g}')
  print(f'  try --config.optimizer.learning_rate={found["proposal"]:.2g} (the config has {now:g})')
  print(f'  all of it: {directory.shown(LR_TEST)}')


def proposal(rates: Sequence[float], smooth: Sequence[float]) -> dict[str, float]:
  """What the curve says: the smaller of the rate of the fastest fall and a tenth of that of the lowest loss.

  Args:
    rates: rising, each the same factor above the one before.
    smooth: the smoothed loss at each.
  """
  lowest = min(range(len(smooth)), key=smooth.__getitem__)
  steepest = min(range(1, max(2, lowest + 1)), key=lambda i: smooth[i] - smooth[i - 1])
  fall, low = rates[steepest], rates[lowest]
  return {'rate_of_lowest_loss': low, 'rate_of_fastest_fall': fall, 'proposal': min(fall, low / 10)}


def table(rates: Sequence[float], smooth: Sequence[float]) -> list[str]:
  """Some of the rates with their loss, in figures and as a bar."""
  chosen = sorted({round(i * (len(rates) - 1) / (_ROWS - 1)) for i in range(_ROWS)})
  top = max(smooth[i] for i in chosen)
  bars = {i: '#' * max(1, round(_BAR * smooth[i] / top)) if top > 0 else '' for i in chosen}
  return [f'{rates[i]:8.1e}  loss {words.value(smooth[i]):>8}  {bars[i]}' for i in chosen]
