"""scripts/launch_slurm on a real Slurm, which slurm_cluster.py starts: stops, time limits, and what comes of them."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.launch import runs, slurm_cluster
from tests.launch.processes import wait, workers
from tests.launch.slurm_cluster import Slurm

pytestmark = pytest.mark.slow
PROGRAMS = ROOT / 'tests' / 'runtime' / 'programs'
CONFIG = '--config=configs/digits_mlp.py'


@pytest.fixture(scope='module')
def slurm() -> Iterator[Slurm]:
  """Two nodes. The folder's path is short, for sockets lie in it."""
  runs.need(slurm_cluster.missing())
  folder = pathlib.Path(tempfile.mkdtemp(prefix='slurm-'))
  with slurm_cluster.running(folder, nodes=2, cpus=4, PYTHONPATH=str(PROGRAMS)) as cluster:
    yield cluster


def submit(slurm: Slurm, *args: str) -> str:
  """Submits a job; returns its number."""
  stdout = slurm.run(sys.executable, ROOT / 'scripts' / 'launch_slurm', *args)
  assert stdout.startswith('job ')
  return stdout.partition(':')[0].removeprefix('job ')


def log(workdir: pathlib.Path, number: str) -> str:
  path = pathlib.Path(f'{workdir}.slurm', f'{number}.log')
  return path.read_text() if path.exists() else ''


def test_a_stop_and_a_time_limit_leave_no_trace_in_the_result(slurm, tmp_path, data_dir):
  """Two workers on two nodes are told to stop, queued again, reach their time limit, are queued again, and end."""
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  run = (*runs.RUN, f'--config.data.data_dir={data_dir}')
  number = submit(
    slurm, '--nodes=2', '--cpus_per_task=1', '--time=1', '--grace_seconds=5', '--', *run, f'--workdir={workdir}'
  )

  def starts() -> int:
    return log(workdir, number).count(', start ')

  # On a machine that is busy a start may reach its limit before its first step; then there is one more of them.
  wait(lambda: runs.reached(workdir) >= runs.SAVES, 240, lambda: log(workdir, number))
  before = starts()
  slurm.run('scancel', '--signal=TERM', number)
  wait(lambda: starts() > before, 120, lambda: log(workdir, number))
  stopped_at = runs.newest(workdir)
  assert runs.SAVES <= stopped_at < runs.STEPS
  # Slurm knows no limit of less than a minute, which would be too many steps. So the workers do not take them: they
  # sleep until Slurm wakes them, to tell them that the limit is near.
  wait(lambda: runs.reached(workdir) > stopped_at, 240, lambda: log(workdir, number))
  before = starts()
  asleep = workers(SLURM_JOB_ID=number)
  assert len(asleep) == 2
  for pid in asleep:
    os.kill(pid, signal.SIGSTOP)
  launcher = (ROOT / 'scripts' / 'launch_local', '--workers=2', '--once', '--')
  subprocess.run([sys.executable, *launcher, *run, f'--workdir={whole}'], cwd=ROOT, check=True, timeout=240)
  wait(lambda: starts() > before, 120, lambda: log(workdir, number))
  assert stopped_at < runs.newest(workdir) < runs.STEPS
  job = slurm.wait_for_end(number, 240)
  said = log(workdir, number)
  assert (job['JobState'], job['ExitCode']) == ('COMPLETED', '0:0'), said
  assert said.count('trainer: SIGTERM: stopping at the next agreed step') == 4
  assert said.count('Slurm names 2 workers, each with 1 CPU device') >= 3
  assert said.count(f'queueing job {number} again') == int(job['Restarts']) >= 2
  runs.assert_same(workdir, whole)


def test_what_ends_a_job_and_what_does_not(slurm, tmp_path):
  """With a stand-in for the trainer: a crash, an array, a cancelled job, and one with the file STOP, all at once."""

  def start(name: str, *words: str, options: tuple[str, ...] = ()) -> str:
    return submit(
      slurm, *options, '--backoff_seconds=0', '--module=stand_in', '--', 'attempts', *words, CONFIG,
      f'--workdir={tmp_path}/{name}',
    )  # fmt: skip

  two = ('--nodes=1', '--tasks_per_node=2')
  crash = start('crash', 'killed', 'each:0/1', 'save:1,exit:1', 'exit:0', options=two)
  most = start('most', 'each:75/3', options=two)
  waits = 'signals:1,exit:75'
  cancelled, stopped = start('cancelled', waits), start('stopped', waits)
  array = start('array_{array}', 'save:{array},exit:75', 'exit:0', options=('--array=1,3',))
  wait(lambda: '0: ready' in log(tmp_path / 'cancelled', cancelled), 60)
  wait(lambda: '0: ready' in log(tmp_path / 'stopped', stopped), 60)
  slurm.run('scancel', cancelled)
  (tmp_path / 'stopped/STOP').touch()
  slurm.run('scancel', '--signal=TERM', stopped)
  ends = {
    number: slurm.wait_for_end(number) for number in (crash, most, cancelled, stopped, f'{array}_1', f'{array}_3')
  }
  found = {number: (job['JobState'], job['ExitCode'], job.get('Restarts')) for number, job in ends.items()}
  assert found[crash] == ('COMPLETED', '0:0', '0'), log(tmp_path / 'crash', crash)
  assert found[most] == ('FAILED', '3:0', '0'), 'though srun says 75'
  assert found[cancelled][0] == 'CANCELLED'
  assert found[stopped] == ('FAILED', '75:0', '0')
  assert found[f'{array}_1'] == found[f'{array}_3'] == ('COMPLETED', '0:0', '1')
  assert 'Slurm ends this job' in log(tmp_path / 'cancelled', cancelled)
  for member in ('1', '3'):
    assert (tmp_path / f'array_{member}/checkpoints/{member}').is_dir()
    assert 'start 2' in (tmp_path / f'array_array.slurm/{array}_{member}.log').read_text()


def test_a_job_that_another_one_preempts_is_queued_again(slurm, tmp_path):
  """With a stand-in for the trainer: Slurm tells one job a minute before, and ends the other one at once."""
  numbers = {}
  for partition in ('notice', 'main'):
    numbers[partition] = submit(
      slurm, f'--partition={partition}', '--sbatch=--exclusive', '--module=stand_in', '--', 'attempts',
      'save:1,signals:1,exit:75', 'exit:0', CONFIG, f'--workdir={tmp_path}/{partition}',
    )  # fmt: skip
  wait(lambda: all('0: ready' in log(tmp_path / partition, number) for partition, number in numbers.items()), 60)
  slurm.run('sbatch', '--partition=high', '--nodes=2', '--exclusive', '--output=/dev/null', '--wrap=true')
  for partition, number in numbers.items():
    job, said = slurm.wait_for_end(number, 60), log(tmp_path / partition, number)
    assert (job['JobState'], job['Restarts']) == ('COMPLETED', '1'), said
    expected = f'queueing job {number} again' if partition == 'notice' else 'Slurm ends this job'
    assert f'the workers ended with exit code 75, newest checkpoint: step 1; {expected}' in said
