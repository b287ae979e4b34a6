"""scripts/launch_local with the real trainer; also with more workers than there are cores here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.launch import runs
from tests.launch.processes import wait, workers

LAUNCHER = ROOT / 'scripts' / 'launch_local'


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize('number', [2, 4])
def test_a_worker_that_is_killed_leaves_no_trace_in_the_result(tmp_path, data_dir, number):
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  args = (f'--workers={number}', '--backoff_seconds=0', '--', *runs.RUN, f'--config.data.data_dir={data_dir}')
  args = (*args, '--config.faults.heartbeat_timeout_seconds=5', '--config.train.steps=100')
  process = subprocess.Popen(
    [sys.executable, LAUNCHER, *args, f'--workdir={workdir}'], cwd=ROOT, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  try:
    wait(lambda: runs.reached(workdir) >= 2 * runs.SAVES, 240)
    os.kill(workers(str(workdir))[number - 1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=300)
  finally:
    process.kill()
    process.communicate()
  assert process.returncode == 0, stderr[-3000:]
  assert f'worker {number - 1} ended with signal SIGKILL' in stderr
  assert 'starting attempt 2' in stderr and 'starting attempt 3' not in stderr
  subprocess.run(
    [sys.executable, LAUNCHER, *args, f'--workdir={whole}'], cwd=ROOT, check=True, timeout=300, capture_output=True
  )
  runs.assert_same(workdir, whole, steps=100)
