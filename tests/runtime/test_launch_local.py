"""scripts/launch_local with a stand-in for the trainer: no TensorFlow here."""

from __future__ import annotations

import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys

import pytest

from tests import scripts

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / 'scripts' / 'launch_local'
PROGRAMS = pathlib.Path(__file__).parent / 'programs'


def start(*args: str, workers: int = 2, **environment: str) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [sys.executable, LAUNCHER, f'--workers={workers}', '--module=stand_in', *args],
    env={**os.environ, 'PYTHONPATH': str(PROGRAMS), **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*args: str, **keywords) -> tuple[int, list[str], list[str]]:
  """(exit code, lines of stdout, lines of stderr)"""
  process = start(*args, **keywords)
  stdout, stderr = process.communicate(timeout=60)
  return process.returncode, stdout.splitlines(), stderr.splitlines()


@pytest.fixture(scope='module')
def launcher():
  return scripts.load('launch_local')


def test_each_worker_gets_its_place_the_arguments_and_a_prefix():
  code, stdout, stderr = run(
    '--once', '--', 'show', '--config=c.py', '--', 'x y', workers=3, CUDA_VISIBLE_DEVICES='4,5,6,7,8,9,3'
  )
  assert code == 0
  assert sorted(stderr) == [f'[worker {index}] an error of {index}' for index in range(3)]
  for index in range(3):
    prefix = f'[worker {index}] '
    lines = [line.removeprefix(prefix) for line in stdout if line.startswith(prefix)]
    assert lines[1:] == ['half a line']
    shown = json.loads(lines[0])
    assert shown['args'] == ['--config=c.py', '--', 'x y']
    assert shown['task']['task'] == {'type': 'worker', 'index': index}
    assert shown['gpus'] == ['4,5', '6,7', '8,9'][index]
    addresses = shown['task']['cluster']['worker']
    assert len(set(addresses)) == 3
    assert all(address.startswith('127.0.0.1:') for address in addresses)
  assert len(stdout) == 6


@pytest.mark.parametrize(
  ('codes', 'expected'),
  [
    ([0, 0], 0),
    ([0, 1], 1),
    ([75, 0], 75),
    ([1, 75], 75),
    ([75, 3, 1], 3),
    ([3, 2, 75], 2),
    ([-9, 1], 137),
    ([-9, 75], 75),
  ],
)
def test_exit_code_is_the_one_that_says_most(launcher, codes, expected):
  assert launcher.restarts.exit_code(launcher.workers.outcome(codes)) == expected


def test_the_exit_code_is_returned():
  assert run('--once', '--', 'codes', '0,0')[0] == 0
  code, _, stderr = run('--once', '--', 'codes', '75,3')
  assert code == 3
  assert any('ended with exit code' in line for line in stderr)


@pytest.mark.parametrize('action', ['peer', 'killed'])
def test_the_others_may_end_by_themselves_after_a_failure(action):
  code, stdout, stderr = run('--once', '--grace_seconds=600', '--', action)
  assert code == 75
  assert stdout == ['[worker 0] the peer has gone']
  assert len(stderr) == 1  # either may be seen to end first
  assert 'ended with' in stderr[0]


def test_what_does_not_end_is_killed_and_does_not_count():
  code, _, stderr = run('--once', '--grace_seconds=0.1', '--', 'deaf')
  assert code == 1
  assert stderr[-1] == 'launch_local: killing worker 0, 0.1 s after the first failure'


def test_signals_go_on_to_every_worker():
  process = start('--once', '--', 'signals', '5')
  assert {process.stdout.readline() for _ in range(2)} == {'[worker 0] ready\n', '[worker 1] ready\n'}
  for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
    process.send_signal(number)
    name = signal.Signals(number).name
    assert {process.stdout.readline() for _ in range(2)} == {f'[worker {index}] {name}\n' for index in range(2)}
  stdout, _ = process.communicate(timeout=60)
  assert stdout == ''
  assert process.returncode == 75


@pytest.mark.parametrize('end', ['killed', 'peer', 'exit:75', 'exit:1', 'die:SIGKILL'])
def test_all_are_started_again_when_one_is_lost_or_all_have_stopped(tmp_path, end):
  code, stdout, stderr = run(
    '--grace_seconds=600', '--backoff_seconds=0', '--', 'attempts', end, 'show', f'--workdir={tmp_path}/run'
  )
  assert code == 0
  described = {'exit:1': 'exit code 1', 'die:SIGKILL': 'signal SIGKILL'}.get(end, 'exit code 75')
  assert (
    f'launch_local: attempt 1 ended with {described}, newest checkpoint: none (1 of 5 without progress); '
    'starting attempt 2 at once'
  ) in stderr
  for index in range(2):
    assert (tmp_path / 'run' / f'attempts.{index}').stat().st_size == 2
    assert f'[worker {index}] half a line' in stdout


def test_each_attempt_has_new_ports(tmp_path):
  code, stdout, _ = run(
    '--backoff_seconds=0', '--', 'attempts', 'show,exit:75', 'show,exit:75', 'show', f'--workdir={tmp_path}'
  )
  assert code == 0
  shown = [json.loads(line.removeprefix('[worker 0] ')) for line in stdout if line.startswith('[worker 0] {')]
  first, second, third = (set(found['task']['cluster']['worker']) for found in shown)
  assert len(first) == len(second) == len(third) == 2
  assert not first & second
  assert not second & third


def test_what_had_to_be_killed_is_started_again(tmp_path):
  code, _, stderr = run(
    '--grace_seconds=0.1', '--backoff_seconds=0', '--', 'attempts', 'deaf', 'exit:0', f'--workdir={tmp_path}/run'
  )
  assert code == 0
  assert 'launch_local: killing worker 0, 0.1 s after the first failure' in stderr
  assert 'launch_local: attempt 1 ended with exit code 1, ' in '\n'.join(stderr)
  assert [(tmp_path / 'run' / f'attempts.{index}').stat().st_size for index in range(2)] == [2, 2]


@pytest.mark.parametrize('codes', ['0,0', '75,3', '2,1'])
def test_a_final_exit_code_is_not_followed_by_another_attempt(tmp_path, codes):
  code, _, stderr = run('--', 'codes', codes, f'--workdir={tmp_path}')
  assert code == {'0,0': 0, '75,3': 3, '2,1': 2}[codes]
  assert not any('attempt' in line for line in stderr)


def test_gives_up_when_no_attempt_makes_progress(tmp_path):
  code, _, stderr = run('--backoff_seconds=0', '--attempts=2', '--', 'codes', '75,1', f'--workdir={tmp_path}')
  assert code == 75
  assert stderr[-1] == (
    'launch_local: giving up: attempt 2 ended with exit code 75, newest checkpoint: none; '
    'no progress in 2 attempts in a row'
  )


def test_a_stop_is_not_followed_by_another_attempt(tmp_path):
  process = start('--', 'attempts', 'signals:1,exit:75', f'--workdir={tmp_path}/run')
  assert {process.stdout.readline() for _ in range(2)} == {'[worker 0] ready\n', '[worker 1] ready\n'}
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75
  assert [(tmp_path / 'run' / f'attempts.{index}').stat().st_size for index in range(2)] == [1, 1]


def test_a_stop_ends_the_wait_for_the_next_attempt(tmp_path):
  process = start('--backoff_seconds=100000', '--', 'codes', '75,75', f'--workdir={tmp_path}')
  while 'starting attempt 2 in 100000 s' not in process.stderr.readline():
    pass
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75


def test_no_attempt_while_the_stop_file_is_there(tmp_path):
  (tmp_path / 'STOP').touch()
  code, stdout, stderr = run('--', 'codes', '0,0', f'--workdir={tmp_path}')
  assert (code, stdout, stderr) == (75, [], [f'launch_local: {tmp_path}/STOP is there: remove it to go on'])


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel tells children of the death of their parent on Linux')
def test_workers_do_not_outlive_a_launcher_that_was_killed():
  process = start('--once', '--', 'signals', '1')
  for _ in range(2):
    process.stdout.readline()
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  watched = [os.pidfd_open(int(child)) for child in children]
  process.kill()
  process.communicate(timeout=60)
  assert len(watched) == 2
  for descriptor in watched:  # becomes readable when the process has ended
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)


def test_reserved_ports_belong_to_the_workers_alone(launcher):
  reserved = launcher.children.reserve_ports(2)
  for sock in reserved:
    address = sock.getsockname()
    with socket.socket() as stranger, pytest.raises(OSError, match='in use'):
      stranger.bind(address)
    with socket.socket() as worker:
      worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
      worker.bind(('0.0.0.0', address[1]))
      worker.listen()
      with socket.create_connection(address), worker.accept()[0]:
        pass
    sock.close()


def test_gpus_are_shared_out(launcher, monkeypatch, tmp_path, capsys):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
  assert launcher.share_gpus(2) == [None, None]
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,2,5')
  assert launcher.share_gpus(2) == ['0', '2']
  with pytest.raises(SystemExit) as exit_info:
    launcher.share_gpus(4)
  assert exit_info.value.code == 2
  assert 'there are 3 GPUs' in capsys.readouterr().err
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
  lister = tmp_path / 'nvidia-smi'
  lister.write_text('#!/bin/sh\necho "GPU 0: A"; echo "GPU 1: B"; echo "GPU 2: C"; echo "GPU 3: D"\n')
  lister.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  assert launcher.share_gpus(2) == ['0,1', '2,3']


@pytest.mark.parametrize('args', [['--workers=0'], ['--worker=x'], ['stray']])
def test_a_wrong_command_line_is_exit_code_2(args):
  process = subprocess.run([sys.executable, LAUNCHER, *args], capture_output=True, text=True, timeout=60, check=False)
  assert process.returncode == 2
  assert 'error:' in process.stderr
