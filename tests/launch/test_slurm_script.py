"""scripts/launch_slurm with doubles of Slurm's commands."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.launch import pages

CONFIG = '--config=configs/digits_mlp.py'


def launch(here: pathlib.Path, *args: str) -> tuple[int, list[str], list[str]]:
  """(exit code, lines of stdout, lines of stderr) of scripts/launch_slurm."""
  path = f'{here / "bin"}{os.pathsep}{os.environ["PATH"]}'
  ended = subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'launch_slurm', *args],
    env={**os.environ, 'PATH': path}, cwd=here, capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip
  return ended.returncode, ended.stdout.splitlines(), ended.stderr.splitlines()


def test_the_script(here):
  code, stdout, stderr = launch(
    here, '--nodes=2', '--gpus_per_node=a100:8', '--tasks_per_node=4', '--cpus_per_task=6', '--partition=gpu',
    '--account=us', '--qos=low', '--mem=0', '--constraint=ib&fast', '--time=1-12', '--grace_seconds=90',
    '--sbatch=--exclusive', '--sbatch=--mail-type=END', '--dry_run', '--attempts=3', '--', CONFIG,
    '--workdir=runs/a b', "--config.model.hidden='x y'",
  )  # fmt: skip
  assert (code, stderr) == (0, [])
  assert stdout[0] == '#!/bin/bash'
  header = [line.removeprefix('#SBATCH ') for line in stdout if line.startswith('#SBATCH ')]
  assert header == [
    '--job-name=a_b', '--nodes=2', '--ntasks-per-node=4', '--cpus-per-task=6', '--gpus-per-node=a100:8',
    '--partition=gpu', '--account=us', '--qos=low', '--constraint=ib&fast', '--mem=0', '--time=1-12',
    '--signal=TERM@90', '--requeue', '--open-mode=append', f'--chdir={here}',
    f'--output="{here}/runs/a b.slurm/%j.log"', '--exclusive', '--mail-type=END',
  ]  # fmt: skip
  words = shlex.split('\n'.join(stdout[1 + len(header) :]).replace('\\\n', ''))
  cut = words.index('--')
  assert words[0] == 'exec'
  assert words[2] == str(ROOT / 'scripts' / 'slurm_job')
  assert words[3:cut] == [
    f'--logs={here}/runs/a b.slurm', '--grace_seconds=90', '--attempts=3', '--backoff_seconds=1',
  ]  # fmt: skip
  assert words[cut + 1 :] == [CONFIG, '--workdir=runs/a b', "--config.model.hidden='x y'"]
  assert not (here / 'runs').exists(), 'nothing was submitted'


def test_a_job_is_submitted(here):
  code, stdout, stderr = launch(here, '--nodes=2', '--', CONFIG, '--workdir=runs/digits')
  assert (code, stderr) == (0, [])
  log = here / 'runs/digits.slurm/42.log'
  assert stdout == [
    'job 42: 2 workers on 2 nodes',
    f'log     {log}',
    f'watch   squeue --job=42; tail -F {log}',
    'stop    touch runs/digits/STOP (saves), or scancel 42 (Slurm kills what is left soon)',
    'pause   scancel --signal=TERM 42 (saves, and queues it again)',
  ]
  assert (here / 'sbatch').read_text().startswith('#!/bin/bash\n#SBATCH --job-name=digits\n')
  assert log.parent.is_dir(), 'Slurm does not make it'


def test_an_array_has_a_log_for_each_job(here):
  array = ('--array=0-7%2', '--', CONFIG, '--workdir=runs/sweep/{array}', '--config.train.seed={array}')
  code, stdout, _ = launch(here, *array)
  assert code == 0
  assert f'log     {here}/runs/sweep/array.slurm/42_*.log' in stdout
  script = (here / 'sbatch').read_text()
  assert '#SBATCH --array=0-7%2\n' in script
  assert f'#SBATCH --output={here}/runs/sweep/array.slurm/%A_%a.log\n' in script


RUNS = ('--', CONFIG, '--workdir=runs/x')


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    (['--', CONFIG], '--workdir is missing'),
    (['--', CONFIG, '--workdir=gs://bucket/x'], 'not on a mounted file system'),
    (['--', '--workdir=runs/x'], '--config is missing'),
    (['--', '--config=configs/digit.py:plain', '--workdir=runs/x'], '--config=configs/digit.py is not there'),
    (['--gpus_per_node=8', '--tasks_per_node=3', *RUNS], 'cannot be shared equally by --tasks_per_node=3'),
    (['--gpus_per_node=2', '--tasks_per_node=4', *RUNS], 'cannot be shared equally by --tasks_per_node=4'),
    (['--gpus_per_node=all', *RUNS], '--gpus_per_node=all must be a number'),
    (['--time=1d', *RUNS], '--time=1d must be as in 30 (minutes)'),
    (['--time=2', '--grace_seconds=120', *RUNS], '--time=2 is over before it begins'),
    (['--array=a', '--', CONFIG, '--workdir=runs/{array}'], '--array=a must be numbers'),
    (['--array=0-3', *RUNS], 'would be the directory of all jobs'),
    ([*RUNS, '--config.train.seed={array}'], 'say which there are, as in --array=0-7'),
    (['--partition=a b', *RUNS], "--partition='a b' must be one word"),
    (['--sbatch=exclusive', *RUNS], 'must be an option of sbatch'),
    (['--nodes=0', *RUNS], '0 must be a whole number, at least 1'),
    (['--grace_seconds=-1', *RUNS], 'must be a number of seconds'),
  ],
)
def test_a_mistake_is_found_before_anything_is_submitted(here, args, said):
  code, stdout, stderr = launch(here, *args)
  assert (code, stdout) == (2, [])
  assert said in stderr[-1]
  assert 'error: ' in stderr[-1]
  assert not (here / 'sbatch').exists()


def test_what_stands_in_the_way_of_a_job(here):
  (here / 'refuse').touch()
  code, _, stderr = launch(here, *RUNS)
  assert code == 2
  assert stderr == [
    'error: Slurm does not take the job (sbatch: error: Batch job submission failed: Invalid account): '
    'see the script with --dry_run'
  ]
  (here / 'runs/x').mkdir(parents=True)
  (here / 'runs/x/STOP').touch()
  assert launch(here, *RUNS) == (2, [], ['error: runs/x/STOP is there: remove it to go on'])
  (here / 'runs/x/STOP').unlink()
  (here / 'bin/sbatch').unlink()
  ended = subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'launch_slurm', *RUNS],
    env={**os.environ, 'PATH': str(here / 'bin')}, cwd=here, capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip
  assert ended.returncode == 2
  assert ended.stderr.startswith('error: sbatch is not here: start this where jobs are submitted to Slurm')
  (here / 'runs/file').touch()
  code, _, stderr = launch(here, '--logs=runs/file/logs', *RUNS, '--workdir=runs/y')
  assert code == 2
  assert 'name another place with --logs' in stderr[0]


@pytest.mark.parametrize(
  ('text', 'minutes'),
  [('90', 90), ('0:30', 0.5), ('12:00:00', 720), ('2-12', 3600), ('1-0:30', 1470), ('1-0:0:30', 1440.5)],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(here, text, minutes):
  code, _, stderr = launch(here, f'--time={text}', f'--grace_seconds={minutes * 60}', '--dry_run', *RUNS)
  assert code == 2
  assert 'is over before it begins' in stderr[0]
  assert launch(here, f'--time={text}', f'--grace_seconds={minutes * 60 - 1}', '--dry_run', *RUNS)[0] == 0


@pytest.mark.parametrize('command', [each for each in pages.commands('slurm') if 'launch_slurm' in each])
def test_a_command_of_the_page_makes_a_script(here, command):
  program, *args = shlex.split(command)
  assert program == 'scripts/launch_slurm'
  code, stdout, stderr = launch(here, '--dry_run', *args)
  assert (code, stderr) == (0, [])
  assert stdout[0] == '#!/bin/bash'
  assert '\n'.join(stdout).endswith(' \\\n  '.join(map(shlex.quote, args[args.index('--') :])))


def test_the_page_has_no_other_commands():
  assert pages.commands('slurm')
  assert all(command.startswith('scripts/launch_slurm ') for command in pages.commands('slurm'))
