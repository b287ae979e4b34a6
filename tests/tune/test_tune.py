"""scripts/tune with the real trainer: killed in the middle, it ends with the same table."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import signal

import pytest

from tests.conftest import ROOT
from tests.faults.program import Hit
from tests.launch.processes import wait
from tests.tune.runs import Runs
from trainer.report.metrics import TIMES

FLAGS = (
  '--config.precision.policy=float32', '--config.train.steps=40', '--config.optimizer.warmup_steps=5',
  '--config.eval.every_steps=10', '--config.train.steps_per_loop=1', '--config.checkpoint.every_steps=5',
  '--config.checkpoint.every_seconds=0', '--config.faults.metadata_host=', '--config.model.hidden=(16,)',
)  # fmt: skip
CONFIG = '--config=configs/digits_mlp.py'


@pytest.fixture
def runs(tmp_path, data_dir, fork_server):
  served = Runs(tmp_path, data_dir)
  yield served
  served.close()


def table(workdir: pathlib.Path) -> list[tuple]:
  """The points of tune.json, but for attempts and times."""
  points = json.loads((workdir / 'tune.json').read_text())['points']
  return [
    tuple(point[name] for name in ('number', 'overrides', 'state', 'metric', 'metric_step', 'step')) for point in points
  ]


def state(workdir: pathlib.Path, step: int) -> dict:
  """Hashes of a checkpoint, and what else was saved with it."""
  manifest = json.loads((workdir / f'checkpoints/{step}/complete.json').read_text())['manifest']
  return {part: manifest[part] for part in ('step', 'metric', 'host', 'arrays')}


def rows(workdir: pathlib.Path) -> list[dict]:
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


HALVING = ('--set=optimizer.learning_rate=1e-3,1e-2', '--halving', '--eta=2', '--rungs=10', '--', *FLAGS)
PROMOTED = 'points/001-learning_rate=0.01'


def halving_that_is_killed(runs: Runs, workdir: pathlib.Path) -> None:
  """Two points to step 10, one of them to the end; its first run is killed in the middle, with the sweep."""
  runs.hits[len(runs.started) + 1] = Hit('SIGKILL', 'step', 7)
  assert runs.tune(CONFIG, f'--workdir={workdir}', *HALVING).code == -9
  resumed = runs.tune(CONFIG, f'--workdir={workdir}', *HALVING)
  assert resumed.code == 0, resumed.stderr
  assert 'goes on from step 5, to step 10' in resumed.stderr and 'goes on from step 10, to step 40' in resumed.stderr
  assert len(runs.started) == 4 and '--config.train.pause_at_step=10' not in runs.started[-1]


def test_killed_in_the_middle_of_a_halving(runs, tmp_path):
  """What was promoted has done what it would have done alone, to the byte."""
  halving_that_is_killed(runs, tmp_path / 'hit')
  alone = [each if not each.startswith('--workdir=') else f'--workdir={tmp_path}/alone' for each in runs.started[-1]]
  assert runs.alone(alone) == 0
  assert state(tmp_path / 'hit' / PROMOTED, 40) == state(tmp_path / 'alone', 40)
  assert rows(tmp_path / 'hit' / PROMOTED) == rows(tmp_path / 'alone')
  values = {row['step']: row['accuracy'] for row in rows(tmp_path / 'alone') if row['split'] == 'eval'}
  best = max(values, key=lambda step: (values[step], -step))
  (first, second) = table(tmp_path / 'hit')
  assert second == (1, {'optimizer.learning_rate': 0.01}, 'complete', values[best], best, 40)
  assert first[:3] == (0, {'optimizer.learning_rate': 0.001}, 'not promoted') and first[4:] == (10, 10)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_halving_that_is_killed_and_one_that_is_not(runs, tmp_path):
  halving_that_is_killed(runs, tmp_path / 'hit')
  assert runs.tune(CONFIG, f'--workdir={tmp_path}/whole', *HALVING).code == 0
  assert table(tmp_path / 'hit') == table(tmp_path / 'whole')
  assert state(tmp_path / 'hit' / PROMOTED, 40) == state(tmp_path / 'whole' / PROMOTED, 40)


def test_ends_of_all_kinds_and_a_stop(runs, tmp_path):
  """With a stand-in for the trainer: three at a time, told to stop while one waits; the same command goes on."""
  workdir = tmp_path / 'sweep'
  rates = '--set=optimizer.learning_rate=6,1,2,3,4,5'
  flags = ('--config.train.steps=40', '--config.optimizer.warmup_steps=5', '--config.eval.every_steps=10')
  command = (CONFIG, f'--workdir={workdir}', rates, '--parallel=3', '--module=tests.tune.stand_in')
  command = (*command, '--backoff_seconds=0.05', '--attempts=2', '--', *flags)
  process = runs.start(*command)
  wait(lambda: len(list(workdir.glob('points/*/pid'))) == 6 and len(states(workdir)) == 5, 60)
  busy = runs.tune(*command)
  assert busy.code == 2 and 'is in use by process' in busy.stderr.splitlines()[-1]
  os.kill(process.pid, signal.SIGTERM)
  process.join(60)
  stopped = runs.ended(process)
  assert stopped.code == 75, stopped.stderr
  expected = {1: 'complete', 2: 'diverged', 3: 'failed', 4: 'crashed', 5: 'complete'}
  assert states(workdir) == expected, stopped.stderr
  assert 'unfinished' in stopped.stdout
  ended = runs.tune(*command)
  assert ended.code == 0 and states(workdir) == {0: 'complete', **expected}
  points = json.loads((workdir / 'tune.json').read_text())['points']
  assert [point['attempts'] for point in points] == [2, 1, 1, 1, 2, 2]
  lines = ended.stdout.splitlines()
  assert [line.split()[0] for line in lines[2:8]] == ['0', '5', '1', '2', '3', '4']
  assert 'point 2 diverged: diverged: the loss is not finite' in lines
  assert 'point 4 crashed: RuntimeError: it is broken' in lines
  assert runs.tune('--table', str(workdir)).stdout == ended.stdout


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ((), '--config is missing'),
    ((CONFIG,), '--workdir is missing'),
    ((CONFIG, '--workdir=DIR', '--rungs=5'), '--rungs is for --halving'),
    ((CONFIG, '--workdir=DIR', '--dry_run'), '--dry_run is for --slurm'),
    ((CONFIG, '--workdir=DIR', '--slurm', '--halving'), 'leave out --halving'),
    (('--config=configs/digits_cnn.py', '--workdir=DIR'), 'has no sweep()'),
    ((CONFIG, '--workdir=DIR', '--set=model.hiden=(8,),(9,)'), "did you mean 'model.hidden'"),
    ((CONFIG, '--workdir=DIR', '--halving'), 'train.steps=1000: set eval.every_steps'),
  ],
)
def test_a_mistake(arguments, says, tmp_path, capsys, monkeypatch):
  """One line and exit code 2, and no run has begun."""
  monkeypatch.syspath_prepend(str(ROOT / 'scripts'))
  monkeypatch.setattr('children.Events', lambda: None)
  script = runpy.run_path(str(ROOT / 'scripts' / 'tune'))
  steps = ['--', '--config.train.steps=1000'] if 'DIR' in ''.join(arguments) else []
  monkeypatch.setattr(
    'sys.argv', ['tune', *(each.replace('DIR', str(tmp_path / 'sweep')) for each in arguments), *steps]
  )
  assert script['main']() == 2
  (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert says in line and not list(tmp_path.glob('sweep/points'))


@pytest.mark.thorough
@pytest.mark.slow
def test_eight_points(runs, tmp_path):
  """A sweep of the config's own eight points, killed twice, ends as one that was not."""
  whole, hit = tmp_path / 'whole', tmp_path / 'hit'
  assert runs.tune(CONFIG, f'--workdir={whole}', '--', *FLAGS, timeout=600).code == 0
  runs.hits = {8 + 2: Hit('SIGKILL', 'step', 23), 8 + 2 + 4: Hit('SIGKILL', 'eval', 20)}
  assert [runs.tune(CONFIG, f'--workdir={hit}', '--', *FLAGS, timeout=600).code for _ in range(3)] == [-9, -9, 0]
  assert table(hit) == table(whole) and len(table(hit)) == 8
  assert len(runs.started) == 2 * 8 + 2
  for point in json.loads((whole / 'tune.json').read_text())['points']:
    assert state(hit / point['workdir'], 40) == state(whole / point['workdir'], 40)
    assert rows(hit / point['workdir']) == rows(whole / point['workdir'])


def states(workdir: pathlib.Path) -> dict[int, str]:
  """Of the points that have ended."""
  points = json.loads((workdir / 'tune.json').read_text())['points'] if (workdir / 'tune.json').exists() else []
  return {point['number']: point['state'] for point in points if point['state'] != 'open'}
