"""scripts/slurm_job with doubles of Slurm's commands, and a stand-in for the trainer."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAMS = ROOT / 'tests' / 'runtime' / 'programs'


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


def test_what_srun_says_counts_where_the_tasks_have_left_no_word(here, run):
  (here / 'bin/srun').write_text('#!/bin/sh\nexit 75\n')
  assert run('attempts', 'exit:0')[0] == 75
  assert queued_again(here) == ['requeue 7']
  (here / 'bin/srun').write_text('#!/bin/sh\nexit 0\n')
  assert run('attempts', 'exit:0')[0] == 0
  (here / 'bin/srun').write_text('#!/bin/sh\nexit 1\n')
  assert run('attempts', 'exit:0', options=('--attempts=1',))[0] == 1


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
