"""scripts/bench_workers: what it makes of raw times, and that all arrangements train."""

import json
import os
import subprocess
import sys

import pytest

from tests import scripts

SCRIPT = scripts.SCRIPTS / 'bench_workers'


@pytest.mark.parametrize(('workers', 'sharing'), [(2, 1), (4, 2)])
def test_what_is_made_of_raw_times(workers, sharing):
  module = scripts.load('bench_workers')
  one = 1 / sharing  # of a core that makes as many steps while each of those that share it makes one
  seconds = {'one': [one, one], 'beside': [1.25, 1.25], 'workers': [2.0, 2.0], 'sharded': [2.5, 2.5]}
  raw = {'per_replica': 8, 'bytes': 4, 'policy': 'float32', 'seconds': seconds}
  found = module.summary({**raw, 'collectives': {'workers': [0.5], 'sharded': [1.0]}}, workers, sharing)
  assert {name: middle for name, (middle, _, _) in found['efficiency'].items()} == {
    'beside': 0.8, 'workers': 0.5, 'sharded': 0.4,
  }  # fmt: skip
  assert found['together']['workers'][0] == pytest.approx(1.6)
  assert found['collective_share'] == {'workers': 0.25, 'sharded': 0.4}
  assert found['difference_share'] == {'workers': 0.375, 'sharded': 0.5}
  assert found['on_paper'] == pytest.approx({'one': 1 / 1.5, 'beside': 1 / 1.75})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='any number is a multiple of one core')
def test_cores_that_would_be_shared_unevenly_are_refused():
  many = len(os.sched_getaffinity(0)) + 1
  done = subprocess.run([sys.executable, SCRIPT, f'--workers={many}'], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert f'--workers={many} must be at least 2, and at most the {many - 1} cores' in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs a core for each of two processes')
def test_all_arrangements_train():
  small = ('--config.model.channels=(4,)', '--config.model.convs=1', '--config.train.global_batch_size=8')
  command = [sys.executable, SCRIPT, '--rows=cnn', '--blocks=2', '--', *small]
  done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr
  row = json.loads(done.stdout.splitlines()[-1])['rows']['cnn']
  assert row['per_replica'] == 8
  assert row['step_seconds'].keys() == {'one', 'beside', 'workers', 'sharded'}
  assert all(seconds > 0 for seconds in (*row['step_seconds'].values(), *row['collective_seconds'].values()))
