"""A run that is killed at any moment, and started again, ends with the bytes of one that never was."""

import contextlib
import json
import os
import random
import signal
import subprocess

import numpy as np
import pytest

from trainer.checkpoint import Checkpoints
from trainer.report.metrics import TIMES

RUN = [
  '--config=configs/digits_cnn.py', '--config.model.channels=(8, 16)', '--config.model.convs=1',
  '--config.model.dropout=0.2',
  '--config.train.steps=600', '--config.train.log_every_steps=20', '--config.eval.every_steps=100',
  '--config.checkpoint.every_steps=30', '--config.checkpoint.every_seconds=0',
]  # fmt: skip

TOPOLOGIES = {
  'one_device': (['-m', 'trainer'], []),
  'two_devices': (['-m', 'trainer'], ['--config.cluster.cpu_devices=2']),
  'two_workers': (['scripts/launch_local', '--workers=2', '--once', '--grace_seconds=1', '--'], []),
}


def result(workdir):
  """All that a run leaves which must not depend on its being killed."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert len({(row['split'], row['step']) for row in rows}) == len(rows), 'two rows for one split and step'
  rows = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
  checkpoints = Checkpoints(str(workdir / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=False)
  last = checkpoints.restore(600)
  return rows, last.arrays, last.host


def seen(workdir, moment):
  """Whether the run in `workdir` has reached a moment, as its files show it."""
  names = os.listdir(workdir / 'checkpoints') if (workdir / 'checkpoints').exists() else []
  match moment:
    case 'start':
      return (workdir / 'run.lock').exists()
    case 'compile':
      return (workdir / 'run.json').exists()
    case 'step':
      return (workdir / 'metrics.jsonl').exists() and (workdir / 'metrics.jsonl').stat().st_size > 0
    case 'save':
      return any('saving' in name for name in names)
    case 'eval':
      return (workdir / 'metrics.jsonl').exists() and '"eval"' in (workdir / 'metrics.jsonl').read_text()
  raise AssertionError(moment)


def kill_when(process, reached):
  """Kills a run, and all its processes, at the first moment that `reached`; False if it ended before."""
  while not reached():
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(timeout=0.002)
      return False
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  return True


def kill_after(process, seconds):
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(timeout=seconds)
    return False
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  return True


@pytest.mark.slow
@pytest.mark.parametrize('topology', sorted(TOPOLOGIES))
def test_ends_with_the_same_bytes(run_trainer, start_trainer, tmp_path, topology):
  entry, extra = TOPOLOGIES[topology]
  run_trainer(*RUN, *extra, f'--workdir={tmp_path}/whole', entry=entry, check=True)
  killed, workdir = 0, tmp_path / 'killed'
  start = lambda: start_trainer(*RUN, *extra, f'--workdir={workdir}', entry=entry)  # noqa: E731
  for moment in ('start', 'compile', 'step', 'save', 'eval'):
    killed += kill_when(start(), lambda moment=moment: seen(workdir, moment))
  moments = random.Random(topology)
  for _ in range(4):
    killed += kill_after(start(), moments.uniform(4.0, 12.0))
  assert killed >= 5, 'the run must have been killed at least five times'
  run_trainer(*RUN, *extra, f'--workdir={workdir}', entry=entry, check=True)
  (rows, arrays, host), (whole_rows, whole_arrays, whole_host) = result(workdir), result(tmp_path / 'whole')
  assert rows == whole_rows
  assert host == whole_host
  assert arrays.keys() == whole_arrays.keys()
  for name, value in whole_arrays.items():
    np.testing.assert_array_equal(arrays[name], value, err_msg=name)
