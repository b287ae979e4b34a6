"""What a run is and how it stands: the head of the page, and on what each attempt ran."""

from __future__ import annotations

import os
import re
import statistics
import urllib.parse
from collections.abc import Sequence
from typing import Any

from trainer.errors import EXIT_COMPLETE
from trainer.report import goodput, words
from trainer.report.page.curves import is_number
from trainer.report.page.folder import CONTINUOUS_SPLIT, Checkpoint, Run
from trainer.report.page.settings import at
from trainer.report.page.spent import clock, end_in_words
from trainer.storage.steps import CHECKPOINTS

_COMMIT = 12  # digits
_RECENT = 20  # rows of training whose median says how fast a run is
_SHOWN_VERSIONS = ('trainer', 'tensorflow', 'tensorflow-tpu', 'keras', 'python')
_OTHER_FILES = ('metrics.jsonl', 'config.json', 'run.json', 'ledger.jsonl', 'plan.json', 'stalls', 'profiles')
_CLOSE = 1e-6


def view(run: Run) -> dict[str, Any]:
  """The head of a run.

  Returns:
    {'state': (words, tone), 'about': words, 'step', 'steps', 'done': share, 'left': words, 'best_name', 'best': words,
    'best_step', 'rate', 'milliseconds', 'device', 'commit', 'goodput', 'facts': [(name, words)]}; what is not known is
    None or ''
  """
  step, steps = _step(run), at(run.config, 'train.steps')
  steps = steps if isinstance(steps, int) and steps > 0 else None
  last = run.attempts[-1] if run.attempts else {}
  milliseconds = _recent(run, 'step_milliseconds')
  state = _state(run, step, steps)
  left = ''
  if state[1] == 'live' and steps and milliseconds and step < steps:
    left = f'about {words.duration((steps - step) * milliseconds / 1000)} left at the present pace'
  best = best_of(run)
  return {
    'state': state,
    'about': _about(run),
    'step': step,
    'steps': steps,
    'done': min(1.0, step / steps) if steps else None,
    'left': left,
    'best_name': best[0] if best else '',
    'best': f'{words.value(best[1])}' if best else '',
    'best_step': best[2] if best else None,
    'rate': _recent(run, 'examples_per_second'),
    'milliseconds': milliseconds,
    'device': _device(last),
    'commit': _commit(last),
    'goodput': goodput.summarize(run.ledgers[0]).goodput if run.ledgers.get(0) else None,
    'facts': [(name, text) for name, text in _facts(run, last) if text],
  }


def best_of(run: Run) -> tuple[str, float, int] | None:
  """(name of the metric, value, step) of the best evaluation as the newest checkpoint knows it.

  The checkpoint has no name for it: it is that of the evaluation at that step which has that value.
  """
  for checkpoint in reversed(run.checkpoints):
    value, step = checkpoint.progress.get('best_value'), checkpoint.progress.get('best_step')
    if not is_number(value) or not isinstance(step, int) or step < 0:
      continue
    set_name = at(run.config, 'eval.best_metric')
    name = set_name if isinstance(set_name, str) and set_name not in ('', 'auto') else ''
    for row in run.rows:
      if not name and row['step'] == step and row['split'] == 'eval':
        same = (key for key, found in row.items() if is_number(found) and abs(found - value) <= _CLOSE * abs(value))
        name = next((key for key in same if key not in ('step', 'time')), '')
    return name or 'best metric', float(value), step
  return None


def topologies(run: Run) -> list[dict[str, Any]]:
  """On what the attempts of run.json ran; neighbours that ran on the same are one row."""
  found: list[dict[str, Any]] = []
  for number, attempt in enumerate(run.attempts, 1):
    precision, xla, strategy = (_object(attempt, name) for name in ('precision', 'xla', 'strategy'))
    row = {
      'device': _device(attempt),
      'strategy': _with_reason(strategy.get('name'), strategy.get('reason')),
      'precision': _with_reason(precision.get('policy'), precision.get('reason')),
      'xla': _with_reason({True: 'on', False: 'off'}.get(xla.get('on')), xla.get('reason')),  # type: ignore[arg-type]
      'host': _text(attempt.get('host')),
      'platform': _text(attempt.get('platform')),
      'commit': _commit(attempt),
      'versions': ', '.join(f'{name} {version}' for name, version in _object(attempt, 'versions').items()),
    }
    if found and {name: found[-1][name] for name in row} == row:
      found[-1]['last'] = number
      continue
    found.append({**row, 'first': number, 'last': number, 'started': _started(attempt)})
  return found


def checkpoints(run: Run, page_folder: str) -> list[dict[str, Any]]:
  """The complete checkpoints, the newest first: {'step', 'metric', 'best', 'link': relative, or '', 'where'}."""
  best = best_of(run)
  return [
    {
      'step': checkpoint.step,
      'metric': checkpoint.metric,
      'best': best is not None and checkpoint.step == best[2],
      'link': link(run, f'{CHECKPOINTS}/{checkpoint.step}', page_folder),
      'where': f'{run.path.rstrip("/")}/{CHECKPOINTS}/{checkpoint.step}',
    }
    for checkpoint in reversed(run.checkpoints)
  ]


def files(run: Run, page_folder: str) -> list[tuple[str, str]]:
  """(name, link) of what else there is to look at."""
  there = [name for name in _OTHER_FILES if os.path.exists(os.path.join(run.folder, name))]
  return [(name, link(run, name, page_folder)) for name in there]


def link(run: Run, name: str, page_folder: str) -> str:
  """From the page to something in the work directory; '' where that is in a bucket."""
  if run.is_remote:
    return ''
  return './' + urllib.parse.quote(os.path.relpath(os.path.join(run.folder, name), page_folder))


def _step(run: Run) -> int:
  """Steps done, as far as any file knows."""
  ledger = [span['last'] for span in run.ledgers[0][-1].spans] if run.ledgers.get(0) else []
  rows = [row['step'] for row in run.rows if row['split'] != CONTINUOUS_SPLIT]
  return int(max([0, *ledger[-1:], *(checkpoint.step for checkpoint in run.checkpoints[-1:]), *rows]))


def _state(run: Run, step: int, steps: int | None) -> tuple[str, str]:
  if not run.ledgers.get(0):
    return ('complete', 'good') if steps and step >= steps else ('no ledger: not known', 'warn')
  end = run.ledgers[0][-1].end
  if end == EXIT_COMPLETE and steps and step < steps:
    return 'ended before its last step', 'warn'
  if end not in (EXIT_COMPLETE, goodput.RUNNING) and steps and any(c.step >= steps for c in run.checkpoints):
    return 'complete', 'good'
  return end_in_words(end)


def _recent(run: Run, name: str) -> float | None:
  values = [row[name] for row in run.rows if row['split'] == 'train' and is_number(row.get(name))]
  return float(statistics.median(values[-_RECENT:])) if values else None


def _facts(run: Run, last: dict[str, Any]) -> Sequence[tuple[str, str]]:
  config, newest = run.config, run.checkpoints[-1] if run.checkpoints else None
  ledger = run.ledgers.get(0)
  versions = _object(last, 'versions')
  attempts = max(len(run.attempts), len(ledger or []))
  return [
    ('task', _text(at(config, 'task.name'))),
    ('model', ', '.join(filter(None, (_text(at(config, 'model.name')), _size(newest))))),
    ('dataset', _dataset(run)),
    ('global batch', _text(at(config, 'train.global_batch_size'))),
    ('optimizer', _optimizer(run)),
    ('last evaluation', _last_evaluation(run)),
    ('device', _device(last)),
    ('precision', _text(_object(last, 'precision').get('policy'))),
    ('began', f'{clock(ledger[0].begin)} UTC' if ledger else _started(last)),
    ('last sign of life', f'{clock(ledger[-1].last_sign)} UTC' if ledger else ''),
    ('attempts', f'{attempts:,}' if attempts else ''),
    ('commit', _commit(last)),
    ('versions', ', '.join(f'{name} {versions[name]}' for name in _SHOWN_VERSIONS if name in versions)),
    ('begins with', _text(_object(last, 'init_from').get('path'))),
    ('work directory', run.path),
  ]


def _about(run: Run) -> str:
  """'classification: cnn on uci_digits'."""
  task, model, dataset = (_text(at(run.config, path)) for path in ('task.name', 'model.name', 'data.dataset'))
  return f'{task}: {model} on {dataset}' if task and model and dataset else ''


def _dataset(run: Run) -> str:
  config = run.config
  name, train, evaluation = (_text(at(config, f'data.{key}')) for key in ('dataset', 'train_split', 'eval_split'))
  others = at(config, 'data.mixture')
  mixed = ', mixed with others' if isinstance(others, list) and others else ''
  return f'{name} ({train}; evaluated on {evaluation}){mixed}' if name else ''


def _optimizer(run: Run) -> str:
  name, rate, schedule = (_text(at(run.config, f'optimizer.{key}')) for key in ('name', 'learning_rate', 'schedule'))
  return f'{name}, learning rate {rate}, {schedule}' if name else ''


def _last_evaluation(run: Run) -> str:
  rows = [row for row in run.rows if row['split'] == 'eval']
  if not rows:
    return ''
  row = max(rows, key=lambda row: row['step'])
  values = {name: value for name, value in row.items() if name not in ('step', 'split', 'time') and is_number(value)}
  return f'{words.values(values)} (step {row["step"]:,})'


def _size(checkpoint: Checkpoint | None) -> str:
  return f'{words.count(checkpoint.values)} values in its variables' if checkpoint and checkpoint.values else ''


def _device(attempt: dict[str, Any]) -> str:
  devices = _object(attempt, 'devices')
  if not devices:
    return ''
  workers, local, kind = devices.get('workers'), devices.get('per_worker'), _text(devices.get('kind')).upper()
  shape = f'{workers} workers x ' if isinstance(workers, int) and workers > 1 else ''
  return f'{shape}{local} {kind}' + (f' ({name})' if (name := _text(_object(attempt, 'strategy').get('name'))) else '')


def _commit(attempt: dict[str, Any]) -> str:
  git = _object(attempt, 'git')
  if not git.get('commit'):
    return ''
  return _text(git['commit'])[:_COMMIT] + (', with changes' if git.get('dirty') else '')


def _started(attempt: dict[str, Any]) -> str:
  """'2026-01-31T12:00:00+00:00' -> '2026-01-31 12:00:00 UTC'."""
  return re.sub(r'^([0-9-]+)T([0-9:]+)\+00:00$', r'\1 \2 UTC', _text(attempt.get('started')))


def _with_reason(value: Any, reason: Any) -> str:
  return f'{_text(value)}: {_text(reason)}' if reason else _text(value)


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
  found = values.get(name)
  return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
  return '' if value is None else str(value)
