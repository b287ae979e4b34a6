"""scripts/launch_slurm and scripts/slurm_job with doubles of Slurm's commands, and a stand-in for the trainer."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.launch import pages

PROGRAMS = ROOT / 'tests' / 'runtime' / 'programs'
CONFIG = '--config=configs/digits_mlp.py'

# Runs its command once per task; the file `tasks` has their numbers for scancel.
SRUN = """
import os, subprocess, sys
command = sys.argv[1:]
with open('srun', 'a') as file: print(*command, file=file)
while command[0].startswith('--'): del command[0]
ranks = range(int(os.environ['SLURM_NTASKS']))
tasks = [subprocess.Popen(command, env={**os.environ, 'SLURM_PROCID': str(rank)}) for rank in ranks]
with open('tasks.new', 'w') as file: print(*[task.pid for task in tasks], file=file)
os.replace('tasks.new', 'tasks')
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCANCEL = """
import os, signal, sys
with open('scancel', 'a') as file: print(*sys.argv[1:], file=file)
for pid in open('tasks').read().split():
  os.kill(int(pid), signal.SIGTERM)
"""
SCONTROL = """
import os, sys
if sys.argv[1] == 'show':
  print('JobId=7 ' + (open('shown').read() if os.path.exists('shown') else 'JobState=RUNNING Reason=None'))
else:
  with open('scontrol', 'a') as file: print(*sys.argv[1:], file=file)
  sys.exit('requeue is disabled' if os.path.exists('refuse') else 0)
"""
SBATCH = """
import os, sys
if os.path.exists('refuse'): sys.exit('sbatch: error: Batch job submission failed: Invalid account')
open('sbatch', 'w').write(sys.stdin.read())
print('42;cluster')
"""


@pytest.fixture
def here(tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder with doubles of Slurm's commands in bin, which write down what they are asked."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, text in {'srun': SRUN, 'scancel': SCANCEL, 'scontrol': SCONTROL, 'sbatch': SBATCH}.items():
    (folder / name).write_text(f'#!{sys.executable}{text}')
    (folder / name).chmod(0o755)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  return tmp_path


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


@pytest.fixture
def job(here):
  """A function that starts the batch script of a job of two tasks, whose log folder is `logs`."""
  (here / 'logs').mkdir()
  started = []

  def start(*args: str, options: tuple[str, ...] = (), restart: int = 0, **variables: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [
        sys.executable, ROOT / 'scripts' / 'slurm_job', '--logs=logs', '--backoff_seconds=0', '--module=stand_in',
        *options, '--', *args, f'--workdir={here}/run',
      ],
      env={
        **os.environ, 'PATH': f'{here / "bin"}{os.pathsep}{os.environ["PATH"]}', 'PYTHONPATH': str(PROGRAMS),
        'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_JOB_NODELIST': 'n[1-2]', 'TF_CONFIG': 'of somebody else',
        **({'SLURM_RESTART_COUNT': str(restart)} if restart else {}), **variables,
      },
      cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    for task in (here / 'tasks').read_text().split() if (here / 'tasks').exists() else ():
      with contextlib.suppress(ProcessLookupError):
        os.kill(int(task), signal.SIGKILL)  # its worker goes with it
    process.communicate(timeout=60)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
  """Waits for both tasks, whose words may stand in one line."""
  heard = ''
  while heard.count('ready') < 2:
    line = process.stdout.readline()
    assert line, heard
    heard += line


@pytest.fixture
def run(job):
  """A function that runs a batch script to its end: (exit code, what it said, without times)."""

  def complete(*args: str, **keywords) -> tuple[int, list[str]]:
    process = job(*args, **keywords)
    _, stderr = process.communicate(timeout=60)
    lines = [line for line in stderr.splitlines() if line.startswith('slurm_job: ')]
    return process.returncode, [re.sub(r'^slurm_job: \S+ \S+ ', '', line) for line in lines]

  return complete


def queued_again(here: pathlib.Path) -> list[str]:
  return (here / 'scontrol').read_text().splitlines() if (here / 'scontrol').exists() else []


def attempts(here: pathlib.Path) -> int:
  return (here / 'run/attempts.0').stat().st_size


@pytest.mark.parametrize(('codes', 'expected'), [('0/0', 0), ('2/75', 2), ('75/3', 3)])
def test_a_final_code_ends_the_job(here, run, codes, expected):
  code, said = run('attempts', f'each:{codes}')
  assert (code, said) == (expected, ['job 7 on n[1-2], start 1'])
  assert (attempts(here), queued_again(here)) == (1, [])
  assert os.listdir(here / 'logs') == ['7.json']


def test_srun_is_asked_for_what_sites_may_have_set_otherwise(here, run):
  assert run('attempts', 'exit:0', options=('--grace_seconds=90',), SLURM_CPUS_PER_TASK='6')[0] == 0
  words = (here / 'srun').read_text().split()
  assert words[:5] == [
    '--label', '--distribution=block', '--kill-on-bad-exit=0', '--wait=90', '--cpus-per-task=6',
  ]  # fmt: skip


def test_workers_that_have_agreed_to_stop_are_queued_again(here, run):
  code, said = run('attempts', 'save:40,each:75/75')
  assert code == 75
  assert said[1:] == ['the workers ended with exit code 75, newest checkpoint: step 40; queueing job 7 again']
  assert queued_again(here) == ['requeue 7']


@pytest.mark.parametrize('crash', ['each:75/1', 'exit:1', 'die:SIGKILL'])
def test_a_crash_is_followed_by_another_attempt_in_the_same_nodes(here, run, crash):
  code, said = run('attempts', crash, 'exit:0')
  assert code == 0
  described = {'each:75/1': 'exit code 75', 'exit:1': 'exit code 1', 'die:SIGKILL': 'signal SIGKILL'}[crash]
  assert said[1:] == [
    f'the workers ended with {described}, newest checkpoint: none (1 of 5 without progress); '
    'starting them again at once'
  ]
  assert (attempts(here), queued_again(here)) == (2, [])


def test_the_batch_script_hands_on_that_it_is_told_to_stop(here, job):
  process = job('attempts', 'signals:1,exit:75')
  wait_until_ready(process)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 75
  assert stderr.splitlines()[-1].endswith('(1 of 5 without progress); queueing job 7 again')
  assert (here / 'scancel').read_text() == '--signal=TERM 7\n'
  assert queued_again(here) == ['requeue 7']


def test_tasks_that_slurm_ends_need_not_be_told(here, job):
  (here / 'shown').write_text('JobState=COMPLETING Reason=None')
  process = job('attempts', 'signals:1,exit:75')
  wait_until_ready(process)
  process.send_signal(signal.SIGTERM)
  for task in (here / 'tasks').read_text().split():
    os.kill(int(task), signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75
  assert not (here / 'scancel').exists()
  assert queued_again(here) == []


def test_tasks_that_were_told_are_queued_again_even_if_one_fails(here, job):
  process = job('attempts', 'signals:1,each:75/1')
  wait_until_ready(process)
  for task in (here / 'tasks').read_text().split():
    os.kill(int(task), signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75
  assert queued_again(here) == ['requeue 7']


@pytest.mark.parametrize('reason', ['None', 'TimeLimit'])
def test_a_job_that_slurm_ends_is_left_to_it_unless_its_time_is_over(here, run, reason):
  (here / 'shown').write_text(f'JobState=COMPLETING Reason={reason}')
  code, said = run('attempts', 'each:75/75')
  assert code == 75
  assert queued_again(here) == ([] if reason == 'None' else ['requeue 7'])
  assert ('Slurm ends this job' in said[-1]) == (reason == 'None')


def test_the_stop_file_ends_the_job(here, run):
  (here / 'run').mkdir()
  (here / 'run/STOP').touch()
  code, said = run('attempts', 'exit:0')
  assert (code, said[1:]) == (75, [f'{here}/run/STOP is there: remove it and submit the job again to go on'])
  assert not (here / 'run/attempts.0').exists()


def test_a_job_is_not_queued_again_for_ever(here, run):
  options = ('--attempts=3',)
  assert run('attempts', 'exit:75', options=options)[0] == 75
  assert run('attempts', 'exit:75', options=options, restart=1)[0] == 75
  assert len(queued_again(here)) == 2
  code, said = run('attempts', 'exit:75', options=options, restart=2)
  assert code == 75
  assert said[-1] == (
    'giving up: the workers ended with exit code 75, newest checkpoint: none; no progress in 3 attempts in a row'
  )
  assert len(queued_again(here)) == 2
  # A new job begins to count anew, even one of the same number; progress does so too.
  assert run('attempts', 'exit:75', options=options)[0] == 75
  assert run('attempts', *['exit:75'] * 4, 'save:9,exit:75', options=options, restart=1)[1][-1].endswith(
    'newest checkpoint: step 9; queueing job 7 again'
  )
  assert json.loads((here / 'logs/7.json').read_text()) == {'furthest': 9, 'fruitless': 0, 'open': False}


def test_an_attempt_that_was_killed_with_its_job_counts(here, run):
  (here / 'logs/7.json').write_text('{"furthest": 5, "fruitless": 1, "open": true}')
  code, said = run('attempts', 'exit:0', options=('--attempts=2',), restart=4)
  assert code == 75
  assert said == [
    'job 7 on n[1-2], start 5',
    'giving up: the last attempt was killed with its job, newest checkpoint: none; no progress in 2 attempts in a row',
  ]
  assert run('attempts', 'exit:0', options=('--attempts=3',), restart=4)[0] == 0


def test_a_member_of_an_array_is_queued_again_alone(here, run):
  array = {'SLURM_ARRAY_JOB_ID': '5', 'SLURM_ARRAY_TASK_ID': '3'}
  code, _ = run('attempts', 'save:{array},exit:75', **array)
  assert code == 75
  assert (here / 'run/checkpoints/3').is_dir()
  assert queued_again(here) == ['requeue 5_3']


def test_slurm_may_refuse_to_queue_a_job_again(here, run):
  (here / 'refuse').touch()
  code, said = run('attempts', 'each:75/75')
  assert code == 75
  assert said[-1] == (
    'error: Slurm does not queue job 7 again (requeue is disabled): submit it again with the same command'
  )
