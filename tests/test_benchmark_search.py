"""Precision and XLA by measuring: what --search finds is kept and taken, and a run stays with what it began with."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from trainer import main
from trainer.errors import ConfigError
from trainer.modes import benchmark_search
from trainer.runtime import measured
from trainer.runtime.cluster import Cluster

SMOKE = '--config=configs/digits_mlp.py:smoke'
ALONE = Cluster('one', '', 'cpu', 1)


def remember(monkeypatch, cache, where=ALONE, policy='mixed_bfloat16'):
  """Writes what a search would have: `policy` without XLA."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  config = main.parse(['trainer', SMOKE, '--workdir=x']).config
  choice = {'policy': policy, 'xla': False, 'reason': 'measured on 2026-01-31: 1.90 times'}
  measured.write(measured.key(config, where), choice)


def banner(done, name):
  return next(line.split(None, 1)[1] for line in done.stdout.splitlines() if line.startswith(f'  {name} '))


@pytest.fixture
def run(run_trainer, tmp_path):
  """Runs the smoke config in `tmp_path/run`, with a cache of tmp_path."""

  def start(*arguments, cache):
    return run_trainer(
      SMOKE, f'--workdir={tmp_path}/run', *arguments, env={'XDG_CACHE_HOME': str(tmp_path / cache)}, check=True
    )

  return start


def test_auto_takes_what_was_measured_and_a_run_keeps_it(run, tmp_path, monkeypatch):
  remember(monkeypatch, tmp_path / 'cache')
  first = run(cache='cache')
  assert banner(first, 'precision') == 'mixed_bfloat16: measured on 2026-01-31: 1.90 times'
  assert banner(first, 'XLA').startswith('off: measured on')
  (attempt,) = json.loads((tmp_path / 'run' / 'run.json').read_text())['attempts']
  assert attempt['precision'] == {'policy': 'mixed_bfloat16', 'reason': 'measured on 2026-01-31: 1.90 times'}
  second = run('--config.train.steps=8', cache='none')
  assert banner(second, 'precision') == 'mixed_bfloat16: as this run began: measured on 2026-01-31: 1.90 times'
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  last = next(row['loss'] for row in reversed(rows) if row['split'] == 'eval')
  evaluated = run('--config.train.steps=8', '--mode=eval', cache='none')
  assert json.loads(evaluated.stdout)['loss'] == last  # float32 would give other digits


@pytest.mark.thorough
def test_what_is_measured_later_does_not_change_a_run(run, tmp_path, monkeypatch):
  assert banner(run(cache='cache'), 'precision').startswith('float32: a CPU')
  remember(monkeypatch, tmp_path / 'cache')
  assert banner(run('--config.train.steps=8', cache='cache'), 'precision').startswith(
    'float32: as this run began: a CPU'
  )


@pytest.mark.thorough
def test_what_the_chief_has_measured_holds_for_all_workers(start_trainer, tmp_path, monkeypatch, free_port):
  workers = tuple(f'127.0.0.1:{free_port()}' for _ in range(2))
  remember(monkeypatch, tmp_path / 'cache-0', Cluster('multi_worker', '', 'cpu', 1, workers))
  processes = []
  for index in range(2):
    tf_config = json.dumps({'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}})
    env = {'TF_CONFIG': tf_config, 'XDG_CACHE_HOME': str(tmp_path / f'cache-{index}')}
    processes.append(start_trainer(SMOKE, f'--workdir={tmp_path}/run', env=env))
  done = [subprocess.CompletedProcess((), 0, *process.communicate(timeout=200)) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], done
  assert banner(done[0], 'precision').startswith('mixed_bfloat16: measured')


@pytest.mark.slow
def test_the_search(run_trainer, tmp_path):
  """Of XLA alone, so that there are two candidates on any CPU."""
  done = run_trainer(
    SMOKE, f'--workdir={tmp_path}/new', '--mode=benchmark', '--search', '--config.precision.policy=float32',
    '--config.benchmark.windows=4', '--config.benchmark.window_seconds=0.02',
    '--config.benchmark.warmup_windows=200', '--config.benchmark.largest_foreign_load=1.0',
    env={'XDG_CACHE_HOME': str(tmp_path)},
  )  # fmt: skip
  assert done.returncode in (0, 75), done.stderr
  found = json.loads((tmp_path / 'new' / 'precision.json').read_text())
  assert found['valid'] == (done.returncode == 0) == (not found['why_not_valid'])
  assert [(each['policy'], each['xla']) for each in found['candidates']] == [('float32', 'off'), ('float32', 'on')]
  for each in found['candidates']:
    assert [len(of_round['speed']['windows']) for of_round in each['rounds']] == [2, 2]
    assert len(each['rounds'][0]['first_losses']) == 10
    assert each['loss_difference'] < 1e-4  # the model drops in training, and XLA draws other numbers for that
  assert found['candidates'][0]['ratio'] == 1
  kept = list((tmp_path / 'tf-trainer' / 'precision').iterdir())
  assert len(kept) == found['valid']
  if kept:
    assert json.loads(kept[0].read_text())['policy'] == 'float32' and str(kept[0]) in done.stdout
  assert 'chosen' in done.stdout and 'Round 2 of 2' in done.stdout


def test_nothing_to_search_is_a_mistake():
  settled = ['--config.precision.policy=float32', '--config.precision.xla=off']
  config = main.parse(['trainer', SMOKE, '--workdir=x', '--mode=benchmark', '--search', *settled]).config
  with pytest.raises(ConfigError, match="set one of them to 'auto'"):
    benchmark_search.run(SimpleNamespace(config=config))
