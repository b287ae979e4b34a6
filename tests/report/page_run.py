"""A work directory with something of everything that a page can show, part of it hostile."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np

from trainer.report.gallery import Gallery, Part, heat, shares, signed

BEGIN = 1.7e9
HOSTILE = '</script><script>window.hacked = 1</script><img src="https://example.com/x.png" onerror="window.hacked = 2">'


def lines(path: pathlib.Path, rows: list[dict[str, Any]], tail: str = '') -> None:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)


def train_rows(count: int, every: int = 10) -> list[dict[str, Any]]:
  return [
    {
      'step': every * n, 'split': 'train', 'time': BEGIN + 20 + n, 'loss': 3 / n, 'accuracy': 1 - 1 / n,
      'examples_per_second': 6000.0 + n % 7, 'step_milliseconds': 10.0 + n % 5,
    }
    for n in range(1, count + 1)
  ]  # fmt: skip


def make(folder: pathlib.Path, *, rows: int = 40, rate: float = 0.003) -> pathlib.Path:
  """Writes the directory: two attempts, the first killed; curves, galleries, checks, a torn last line of metrics."""
  folder.mkdir(parents=True, exist_ok=True)
  last = 10 * rows
  config = {
    'seed': 0,
    'task': {'name': 'classification'},
    'model': {'name': 'cnn', 'options': HOSTILE},
    'data': {'dataset': 'uci_digits', 'train_split': 'train', 'eval_split': 'test', 'mixture': []},
    'eval': {'best_metric': 'auto'},
    'optimizer': {'name': 'adamw', 'learning_rate': rate, 'schedule': 'cosine'},
    'train': {'steps': 2 * last, 'global_batch_size': 64},
  }
  (folder / 'config.json').write_text(json.dumps(config))
  attempt = {
    'started': '2023-11-14T22:13:20+00:00', 'host': f'host {HOSTILE}', 'platform': 'Linux',
    'versions': {'python': '3.11', 'trainer': '0.1.0', 'keras': '3.15'}, 'git': {'commit': 'c0ffee' * 6, 'dirty': True},
    'devices': {'kind': 'cpu', 'per_worker': 1, 'workers': 1}, 'strategy': {'name': 'one', 'reason': 'one CPU'},
    'precision': {'policy': 'float32', 'reason': 'a CPU'}, 'xla': {'on': False, 'reason': 'a CPU'},
  }  # fmt: skip
  (folder / 'run.json').write_text(json.dumps({'attempts': [attempt, attempt]}))
  found = train_rows(rows)
  found[3]['loss'] = None
  evaluation = {'time': BEGIN + 40, 'loss': 0.5, 'accuracy': 0.9, 'examples': 360}
  found += [{'step': last, 'split': 'eval', **evaluation}, {'step': last // 2, 'split': 'eval', **evaluation}]
  lines(folder / 'metrics.jsonl', found, '{"step": 123, "split": "tr')
  lines(folder / 'continuous_eval.jsonl', [{'step': last, 'split': 'eval', 'loss': 0.4, 'accuracy': 0.91}])
  lines(folder / 'ledger.jsonl', ledger(last))
  marker = folder / 'checkpoints' / str(last) / 'complete.json'
  marker.parent.mkdir(parents=True, exist_ok=True)
  progress = {'step': last, 'best_step': last, 'best_value': 0.9}
  arrays = {'model/dense/kernel': {'shape': [10, 20]}, 'optimizer/m': {'shape': [10, 20]}}
  manifest = {'step': last, 'metric': 0.9, 'host': {'progress': progress}, 'arrays': arrays}
  marker.write_text(json.dumps({'manifest': manifest}))
  (folder / 'checkpoints' / '7').mkdir(exist_ok=True)  # never completed
  rates = [10 ** (n / 20 - 5) for n in range(100)]
  losses = [2 - math.tanh(n / 30) for n in range(100)]
  test = {'rates': rates, 'losses': [*losses[:-1], math.nan], 'smoothed': losses, 'proposal': 0.01}
  (folder / 'lr_test.json').write_text(json.dumps(test))
  (folder / 'overfit.json').write_text(json.dumps({'learnt': True, 'losses': losses}))
  benchmark = {'valid': False, 'why_not_valid': [HOSTILE], 'memory': {'host_bytes': 842_000_000}}
  (folder / 'benchmark.json').write_text(json.dumps(benchmark))
  bad = {
    'step': 40,
    'what': 'not finite',
    'policy': 'skip',
    'loss': 'nan',
    'batch': 39,
    'replicas': [0],
    'gradients': [],
  }
  lines(folder / 'bad_steps.jsonl', [{**bad, 'examples': {'0': [1, 2]}, 'examples_not_finite': [2]}])
  galleries(folder)
  return folder


def ledger(last: int) -> list[dict[str, Any]]:
  def span(name: str, begin: float, seconds: float, first: int, until: int) -> dict[str, Any]:
    busy = {'busy': seconds * 0.9, 'data_wait': seconds * 0.1} if name == 'step' else {}
    return {
      'kind': 'span', 'name': name, 'begin': BEGIN + begin, 'seconds': seconds, 'first': first, 'last': until, **busy,
    }  # fmt: skip

  half = last // 2
  return [
    {'kind': 'attempt', 'time': BEGIN, 'pid': 1, 'host': f'host {HOSTILE}', 'worker': 0},
    span('import', 0, 5, 0, 0),
    span('compile', 5, 5, 0, 1),
    span('step', 10, 20, 1, half + 10),
    {'kind': 'attempt', 'time': BEGIN + 35, 'pid': 2, 'host': 'here', 'worker': 0},
    span('import', 35, 5, 0, 0),
    {'kind': 'resumed', 'time': BEGIN + 40, 'step': half},
    span('compile', 40, 2, half, half + 1),
    span('step', 42, 18, half + 1, last),
    span('eval', 60, 1, last, last),
    {'kind': 'end', 'time': BEGIN + 61, 'code': 75},
  ]


def galleries(folder: pathlib.Path) -> None:
  random = np.random.default_rng(0)
  found = Gallery(str(folder / 'predictions' / 'step-400'), 'predictions', 'Of the test split', step=400)
  found.confusion = {'names': ['a', 'b', HOSTILE], 'counts': [[5, 1, 0], [2, 7, 0], [0, 0, 3]]}
  found.facts = {'accuracy': 0.86, 'split': 'test'}
  for number in range(30):
    pixels = random.integers(0, 255, (8, 8), np.uint8)
    found.add(f'{number}', [Part('input', 'image', pixels), shares({'a': 0.9, 'b': 0.1})], group='right')
  found.close()
  for step in (200, 400):
    found = Gallery(str(folder / 'samples' / f'step-{step}'), 'samples', 'Texts that go on', step=step)
    found.add(HOSTILE, [Part('text', 'text', HOSTILE), Part('n', 'numbers', {f'<b>{step}': 1.25, 'kind': HOSTILE})])
    found.close()
  found = Gallery(str(folder / 'inputs'), 'inputs', 'What the model is given')
  wave = (9000 * np.sin(np.arange(800) / 5)).astype(np.int16)
  found.add(
    'a voice', [Part('sound', 'sound', (wave, 8000)), Part('spectrogram', 'image', heat(random.random((40, 90))))]
  )
  found.close()
  found = Gallery(str(folder / 'explanations' / 'step-400'), 'explanations', 'Integrated gradients', step=400)
  tokens = [['good ', 0.8], ['but ', 0.0], ['<i>long</i> ', -0.4], ['over ', 7]]
  found.add(
    'positive', [Part('tokens', 'tokens', tokens), Part('where', 'image', signed(random.uniform(-1, 1, (8, 8))))]
  )
  found.close()
