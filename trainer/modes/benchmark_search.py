"""Mode benchmark with --search: which precision, and XLA or not, trains fastest here; `auto` takes it from then on."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import trainer
from trainer.checkpoint import disk
from trainer.errors import ConfigError, RunAgain
from trainer.measure import candidates as candidates_lib
from trainer.measure import throttling
from trainer.measure.candidates import Candidate
from trainer.report import run_record, words
from trainer.runtime import measured
from trainer.train.workdir import PRECISION, Workdir

# Of precision.json.
VERSION = 1


def run(command: Any) -> None:
  """Measures what the config leaves open of precision.policy and precision.xla, and keeps the fastest in the cache.

  Writes precision.json, all windows included, to the work directory, and prints a table of it. No state is kept.

  Args:
    command: what the command line says (trainer/main.py).

  Raises:
    ConfigError: a mistake of the user's, or the cache cannot be written to.
    RunAgain: the process was told to stop, and nothing is written; or what was measured is not valid, and the file says
      why: the cache is left as it was.
  """
  config = command.config
  if 'auto' not in (config.precision.policy, config.precision.xla):
    raise ConfigError(
      f'--search has nothing to try: precision.policy={config.precision.policy!r} and '
      f"precision.xla={config.precision.xla!r} are settled; set one of them to 'auto'"
    )
  _make_writable(measured.folder())
  directory = Workdir(command.workdir, config.storage)
  command.closing.callback(directory.close)
  directory.scratch()
  disk.make_writable(directory.path)
  started = datetime.datetime.now(datetime.UTC)

  def between() -> None:
    if command.stop.requested:
      raise RunAgain(f'{command.stop.reason}: the measurement is not complete, and nothing of it is kept')

  found = candidates_lib.measure(config, lambda line: print(line, flush=True), between)
  about = found[0].rounds[0]
  if not about['chief']:
    return
  chosen = candidates_lib.best(found)
  choice = {
    'measured': started.isoformat(timespec='seconds'),
    'policy': chosen.policy,
    'xla': chosen.xla == 'on',
    'reason': _reason(found, chosen, started),
  }
  why_not = why_not_valid(found, config.benchmark.largest_foreign_load)
  cache = '' if why_not else measured.write(about['key'], choice)
  rows = [_row(each, found[0], config.train.global_batch_size) for each in found]
  record = {
    'version': VERSION,
    'valid': not why_not,
    'why_not_valid': why_not,
    'choice': choice,
    'cache': cache or None,
    'loss_tolerance': candidates_lib.LOSS_TOLERANCE,
    'versions': run_record.versions(),
    'git': run_record.git_state(os.path.dirname(os.path.abspath(trainer.__file__))),
    'flags': sys.argv[1:],
    'key': about['key'],
    'candidates': rows,
  }
  directory.write(PRECISION, json.dumps(record, indent=2) + '\n')
  print('Precision and XLA' if not why_not else 'Precision and XLA, NOT VALID')
  table = [*_table(found, chosen, rows), ('chosen', f'{chosen.name}, {choice["reason"]}')]
  if chosen.policy != found[0].policy:
    table.append(('', 'its first losses agree with float32; that the result is as good is yours to judge'))
  if not why_not:
    table.append(('kept in', f'{cache}, where auto finds it in runs of such a config that begin from now on'))
  for name, text in [*table, ('all of it', directory.shown(PRECISION))]:
    print(f'  {name:<30}  {text}')
  if why_not:
    raise RunAgain(f'what was measured is not valid, and not kept: {"; ".join(why_not)}')


def why_not_valid(found: Sequence[Candidate], largest_foreign_load: float) -> list[str]:
  """Reasons not to believe what was measured."""
  measured_ones = [(each, of_round) for each in found for of_round in each.rounds]
  moving = dict.fromkeys(each.name for each, of_round in measured_ones if not of_round['settled'])
  reasons = [f'the speed of {" and of ".join(moving)} had not settled'] if moving else []
  # Workers on one machine are each other's others.
  others = max((of_round['others'] for _, of_round in measured_ones if of_round['workers'] == 1), default=0.0)
  if others > largest_foreign_load:
    reasons.append(f'other programs took up to {others:.0%} of the cores (benchmark.largest_foreign_load)')
  complaints = (throttling.complaint(of_round['throttling']) for _, of_round in measured_ones)
  return reasons + list(dict.fromkeys(filter(None, complaints)))


def _reason(found: Sequence[Candidate], chosen: Candidate, when: datetime.datetime) -> str:
  date = f'measured on {when:%Y-%m-%d}'
  if chosen is found[0]:
    return f'{date}: none of {len(found) - 1} others was faster'
  return f'{date}: {found[0].median / chosen.median:.2f} times the speed of {found[0].name}'


def _row(each: Candidate, first: Candidate, batch: int) -> dict[str, Any]:
  if not each.rounds:
    return {'policy': each.policy, 'xla': each.xla, 'failure': each.failure}
  by_round = [
    a['speed']['step_seconds']['median'] / b['speed']['step_seconds']['median']
    for a, b in zip(first.rounds, each.rounds, strict=True)
  ]
  return {
    'policy': each.policy,
    'xla': each.xla,
    'failure': None,
    'examples_per_second': batch / each.median,
    'step_seconds': each.median,
    'ratio': first.median / each.median,
    'ratio_by_round': by_round,
    'faster_than_noise': each.faster_than(first),
    'compile_seconds': statistics.median(found['first_step']['compile_seconds'] for found in each.rounds),
    'loss_difference': each.loss_difference(first),
    'rounds': list(each.rounds),
  }


def _table(found: Sequence[Candidate], chosen: Candidate, rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
  table = []
  for each, row in zip(found, rows, strict=True):
    if row['failure']:
      table.append((each.name, f'cannot be: {row["failure"]}'))
      continue
    parts = [words.rate(row['examples_per_second']), f'{words.duration(row["step_seconds"])} per step']
    if each is not found[0]:
      rounds = ', '.join(f'{ratio:.2f}' for ratio in row['ratio_by_round'])
      parts.append(f'{row["ratio"]:.2f} times the first ({rounds} by round)')
    parts.append(f'compiling {words.duration(row["compile_seconds"])}')
    if each is not found[0]:
      parts.append(f'first losses differ by {row["loss_difference"]:.2%}')
      if row['loss_difference'] > candidates_lib.LOSS_TOLERANCE:
        parts.append(f'which is more than {candidates_lib.LOSS_TOLERANCE:.0%}: it may not be chosen')
    table.append((each.name, ', '.join(parts)))
  first, last = rows[0], next(row for each, row in zip(found, rows, strict=True) if each is chosen)
  longer, gained = last['compile_seconds'] - first['compile_seconds'], first['step_seconds'] - last['step_seconds']
  if chosen is not found[0] and longer > 0:
    table.append(('', f'it compiles {words.duration(longer)} longer, which {longer / gained:,.0f} steps make up for'))
  return table


def _make_writable(folder: str) -> None:
  try:
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(None, 'Permission denied')
  except OSError as error:
    raise ConfigError(
      f'the cache {folder} cannot be written to ({error.strerror}): name another folder with XDG_CACHE_HOME'
    ) from error
