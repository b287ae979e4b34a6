"""Two worker processes compute what one process with one device computes."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.train import small_run
from tests.train.test_step import column, losses
from trainer.train.step import Rows

CASES = {
  'plain': {'norm': 'group'},
  'micro': {'norm': 'group', 'micro_batches': 4},
  'synchronized': {'norm': 'sync_batch'},
  'sliced': {'norm': 'group', 'shard': True, 'bucket': 100},
  'overflow': {'policy': 'mixed_float16', 'spike': 1e4, 'steps': 30},
}


def as_run(main):
  """What test_step's helpers want of a run."""
  none = np.zeros([len(main), 0], np.float32)
  return SimpleNamespace(rows=Rows(main, none, none))


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory, free_port):
  """name/rows and name/variable of each case, from the chief of two workers."""
  out = tmp_path_factory.mktemp('two') / 'results.npz'
  workers = [f'127.0.0.1:{free_port()}' for _ in range(2)]
  processes = []
  for index in range(2):
    tf_config = {'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}}
    command = ['env', f'TF_CONFIG={json.dumps(tf_config)}', sys.executable, '-m', 'tests.distributed.small_worker']
    processes.append(subprocess.Popen([*command, str(out), json.dumps(CASES)], cwd=ROOT))
  try:
    assert [process.wait(timeout=400) for process in processes] == [0, 0]
  finally:
    for process in processes:
      process.kill()
  return np.load(out)


@pytest.mark.slow
def test_same_losses_and_weights(two_processes):
  for name in ('plain', 'micro', 'synchronized', 'sliced'):
    alone = small_run.train(1, **{**CASES[name], 'micro_batches': 1, 'shard': False})
    np.testing.assert_allclose(losses(as_run(two_processes[f'{name}/rows'])), losses(alone), rtol=1e-5, err_msg=name)
    for variable, value in alone.state.snapshot().items():
      if variable.startswith(('model/', 'ema/')):
        np.testing.assert_allclose(two_processes[f'{name}/{variable}'], value, rtol=1e-3, atol=1e-5, err_msg=variable)


@pytest.mark.slow
def test_each_process_holds_half_of_what_is_in_slices(two_processes):
  whole, half = two_processes['plain/held'], two_processes['sliced/held']
  np.testing.assert_allclose(half, whole / 2, rtol=1e-2)


@pytest.mark.slow
def test_workers_do_not_ask_each_other_for_a_batch(two_processes):
  assert (two_processes['input/asks'], two_processes['input/traces']) == (0, 1)


@pytest.mark.slow
def test_an_overflow_on_one_worker_skips_the_step_on_both(two_processes):
  alone, pair = small_run.train(1, **CASES['overflow']), as_run(two_processes['overflow/rows'])
  skipped = np.flatnonzero(column(alone, 'finite') == 0)
  assert len(skipped)
  np.testing.assert_array_equal(np.flatnonzero(column(pair, 'finite') == 0), skipped)
  np.testing.assert_array_equal(column(pair, 'loss_scale'), column(alone, 'loss_scale'))
