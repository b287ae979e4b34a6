"""A sweep as an array of jobs on a real Slurm, which tests/launch/slurm_cluster.py starts."""

from __future__ import annotations

import json
import pathlib
import re
import sys
import tempfile

import pytest

from tests.conftest import ROOT
from tests.launch import runs, slurm_cluster
from tests.launch.processes import wait

TUNE = (sys.executable, ROOT / 'scripts' / 'tune')


@pytest.mark.slow
@pytest.mark.thorough
def test_each_point_is_a_job(tmp_path, data_dir):
  runs.need(slurm_cluster.missing())
  workdir = tmp_path / 'sweep'
  rates = '--set=optimizer.learning_rate=1e-3,1e-2'
  run = ('--', *(flag for flag in runs.RUN if not flag.startswith('--config=')), f'--config.data.data_dir={data_dir}')
  command = (*TUNE, '--config=configs/digits_mlp.py', f'--workdir={workdir}', rates, '--slurm=--cpus_per_task=1')
  folder = pathlib.Path(tempfile.mkdtemp(prefix='slurm-'))  # of a short path, for sockets lie in it
  with slurm_cluster.running(folder, nodes=1, cpus=4) as slurm:
    stdout = slurm.run(*command, *run)
    (number,) = re.findall(r'^job (\d+): ', stdout, re.MULTILINE)
    log = workdir / 'logs' / f'{number}_1.log'

    def said() -> str:
      return log.read_text() if log.exists() else ''

    point = workdir / 'points' / '001-learning_rate=0.01'
    wait(lambda: runs.reached(point) >= runs.SAVES, 240, said)
    slurm.run('scancel', '--signal=TERM', f'{number}_1')  # saves, and is queued again
    for member in (0, 1):
      job = slurm.wait_for_end(f'{number}_{member}', 400)
      assert (job['JobState'], job['ExitCode']) == ('COMPLETED', '0:0'), said()
    assert f'queueing job {number}_1 again' in said()
    table = slurm.run(*TUNE, '--table', workdir).splitlines()
    assert [line.split()[0] for line in table[2:4]] == ['1', '0'] and all(' complete ' in line for line in table[2:4])
    assert slurm.run(*command, *run).splitlines() == ['all points have ended']
  points = json.loads((workdir / 'tune.json').read_text())['points']
  assert [(each['state'], each['step']) for each in points] == [('complete', runs.STEPS)] * 2
  assert [each['attempts'] for each in points] == [1, 2]
