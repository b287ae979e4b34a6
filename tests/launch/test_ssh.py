"""scripts/launch_ssh over a real sshd, to several addresses of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.launch import pages, runs, sshd
from tests.launch.processes import wait, workers

PROGRAMS = ROOT / 'tests' / 'runtime' / 'programs'
LAUNCHER = ROOT / 'scripts' / 'launch_ssh'
HOSTS = ('127.0.0.2', '127.0.0.3')


@pytest.fixture(scope='module')
def server(tmp_path_factory) -> Iterator[sshd.Server]:
  if os.getuid() != 0:
    pytest.skip('this sshd is tried as root alone')
  runs.need(sshd.missing())
  with sshd.running(tmp_path_factory.mktemp('sshd')) as running:
    yield running


@pytest.fixture
def start(server, tmp_path):
  """A function that starts scripts/launch_ssh with a stand-in for the trainer on two hosts, or with the trainer."""
  started = []

  def begin(*args: str, hosts: str = ','.join(HOSTS), module: str = 'stand_in') -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [
        sys.executable, LAUNCHER, f'--hosts={hosts}', f'--ssh={server.ssh}', f'--module={module}',
        f'--env=PYTHONPATH={ROOT}:{PROGRAMS}', '--backoff_seconds=0', *args,
      ],
      cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started.append(process)
    return process

  yield begin
  for process in started:
    process.kill()
    process.communicate(timeout=60)


@pytest.fixture
def run(start):
  """A function that runs it to its end: (exit code, lines of stdout, lines of stderr)."""

  def complete(*args: str, **keywords) -> tuple[int, list[str], list[str]]:
    process = start(*args, **keywords)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.splitlines(), stderr.splitlines()

  return complete


def test_each_worker_gets_its_place_and_a_prefix(run, tmp_path):
  hosts = tmp_path / 'hosts.txt'
  hosts.write_text('# ours\n127.0.0.2\n\n127.0.0.3 2  # two\n')
  code, stdout, stderr = run('--once', '--', 'show', 'x  y', hosts=str(hosts))
  said = sorted(line for line in stderr if 'an error of' in line)  # what a login shell says is its own business
  assert (code, said) == (
    0, ['[127.0.0.2] an error of 0', '[127.0.0.3.0] an error of 1', '[127.0.0.3.1] an error of 2'],
  )  # fmt: skip
  for index, label in enumerate(('127.0.0.2', '127.0.0.3.0', '127.0.0.3.1')):
    (line,) = [line for line in stdout if line.startswith(f'[{label}] {{')]
    shown = json.loads(line.removeprefix(f'[{label}] '))
    assert shown['args'] == ['x  y']
    assert shown['task']['task'] == {'type': 'worker', 'index': index}
    addresses = shown['task']['cluster']['worker']
    assert [address.partition(':')[0] for address in addresses] == ['127.0.0.2', '127.0.0.3', '127.0.0.3']
    assert len(set(addresses)) == 3


@pytest.mark.parametrize(('codes', 'expected'), [('0,0', 0), ('75,3', 3), ('2,1', 2)])
def test_the_exit_code_is_the_one_that_says_most(run, tmp_path, codes, expected):
  assert run('--', 'codes', codes, f'--workdir={tmp_path}')[0] == expected


@pytest.mark.parametrize('end', ['killed', 'exit:75'])
def test_all_are_started_again(run, tmp_path, end):
  code, _, stderr = run('--grace_seconds=600', '--', 'attempts', end, 'exit:0', f'--workdir={tmp_path}/run')
  assert code == 0
  assert (
    'launch_ssh: attempt 1 ended with exit code 75, newest checkpoint: none (1 of 5 without progress); '
    'starting attempt 2 at once'
  ) in stderr
  assert [(tmp_path / 'run' / f'attempts.{index}').stat().st_size for index in range(2)] == [2, 2]


def test_signals_go_on_to_every_host(start):
  process = start('--once', '--', 'signals', '3')
  assert {process.stdout.readline() for _ in HOSTS} == {f'[{host}] ready\n' for host in HOSTS}
  for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
    process.send_signal(number)
    assert {process.stdout.readline() for _ in HOSTS} == {f'[{host}] {number.name}\n' for host in HOSTS}
  process.communicate(timeout=60)
  assert process.returncode == 75


def test_what_does_not_end_is_killed_on_its_host(run):
  code, _, stderr = run('--once', '--grace_seconds=0.1', '--', 'deaf')
  assert code == 1
  assert stderr[-1] == 'launch_ssh: killing 127.0.0.2, 0.1 s after the first failure'
  wait(lambda: not workers('deaf'), 20)


def test_workers_are_told_to_stop_when_the_launcher_is_killed(start, tmp_path):
  process = start('--once', '--grace_seconds=600', '--', 'attempts', 'plain', f'--workdir={tmp_path}/run')
  assert {process.stdout.readline() for _ in HOSTS} == {f'[{host}] ready\n' for host in HOSTS}
  assert len(workers(f'{tmp_path}/run')) == 2
  process.kill()
  wait(lambda: not workers(f'{tmp_path}/run'), 30)


def test_a_host_that_has_gone_is_no_mistake(start, tmp_path):
  folder = tmp_path / 'sshd'
  folder.mkdir()
  with sshd.running(folder) as own:
    options = (f'--ssh={own.ssh}', '--attempts=2')
    process = start(*options, '--', 'attempts', 'signals:1,exit:75', f'--workdir={tmp_path}/run')
    assert {process.stdout.readline() for _ in HOSTS} == {f'[{host}] ready\n' for host in HOSTS}
  for worker in workers(f'{tmp_path}/run'):  # they live on in connections of their own
    os.kill(worker, signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 1
  assert 'launch_ssh: no worker on 127.0.0.' in stderr
  assert 'Connection refused' in stderr
  assert 'giving up: attempt 2 ended with exit code 1' in stderr.splitlines()[-1]


def test_a_host_that_cannot_be_reached_is_a_mistake(run, tmp_path):
  code, _, stderr = run('--', 'show', f'--workdir={tmp_path}', hosts='127.0.0.2,nowhere.invalid')
  assert code == 2
  assert len(stderr) == 1
  assert stderr[0].startswith('error: no worker on nowhere.invalid (ssh: Could not resolve hostname')
  assert stderr[0].endswith("scripts/ssh_worker' work without a password")
  code, _, stderr = run('--directory=/nowhere', '--', 'show', f'--workdir={tmp_path}')
  assert code == 2
  assert '/nowhere' in stderr[0]


@pytest.mark.slow
@pytest.mark.parametrize('number', [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_a_worker_that_is_killed_leaves_no_trace_in_the_result(start, tmp_path, data_dir, number):
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  args = ('--', *runs.RUN, f'--config.data.data_dir={data_dir}', '--config.faults.heartbeat_timeout_seconds=5')
  hosts = ','.join(f'127.0.0.{last}' for last in range(2, 2 + number))
  process = start(*args, f'--workdir={workdir}', module='trainer', hosts=hosts)
  wait(lambda: runs.reached(workdir) >= 2 * runs.SAVES, 240)
  os.kill(workers(str(workdir))[1], signal.SIGKILL)
  _, stderr = process.communicate(timeout=300)
  assert process.returncode == 0, stderr[-3000:]
  assert '[127.0.0.2] stopped: a worker was lost' in stderr
  assert 'starting attempt 2' in stderr and 'starting attempt 3' not in stderr
  launcher = (ROOT / 'scripts' / 'launch_local', f'--workers={number}', '--once')
  subprocess.run([sys.executable, *launcher, *args, f'--workdir={whole}'], cwd=ROOT, check=True, timeout=200)
  runs.assert_same(workdir, whole)


@pytest.mark.parametrize(
  ('hosts', 'said'),
  [
    ('', '--hosts is missing'),
    ('nobody.txt x', "'nobody.txt x' must be 'host'"),
    ('a,b,a', 'a is there twice'),
    ('a,-oProxyCommand=x', "'-oProxyCommand=x' must be"),
    (',', 'names no host'),
  ],
)
def test_a_wrong_list_of_hosts(hosts, said):
  ended = subprocess.run(
    [sys.executable, LAUNCHER, f'--hosts={hosts}', '--', '--workdir=x'],
    capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip
  assert (ended.returncode, ended.stdout) == (2, '')
  assert ended.stderr.startswith('error: ')
  assert said in ended.stderr
  assert ended.stderr.count('\n') == 1


@pytest.mark.parametrize('command', [each for each in pages.commands('ssh') if 'launch_ssh' in each])
def test_a_command_of_the_page_says_what_it_would_start(tmp_path, command):
  (tmp_path / 'hosts.txt').write_text('me@gpu1\nme@gpu2 2    # two workers\n# gpu3 is being mended\n')
  program, *args = shlex.split(command)
  assert program == 'scripts/launch_ssh'
  ended = subprocess.run(
    [sys.executable, LAUNCHER, '--dry_run', *args],
    cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
  )  # fmt: skip
  labels = ['me@gpu1', 'me@gpu2.0', 'me@gpu2.1'] if 'hosts.txt' in command else ['gpu1', 'gpu2']
  lines = ended.stdout.splitlines()
  assert [line.partition(': ')[0] for line in lines] == labels
  assert all(': ssh -T -oBatchMode=yes ' in line for line in lines)
  assert all(f'cd {ROOT} && ' in line and 'scripts/ssh_worker --port=0' in line for line in lines)


def test_a_port_is_for_the_first_worker_of_each_host():
  ended = subprocess.run(
    [sys.executable, LAUNCHER, '--dry_run', '--hosts=a,b 2', '--port=20000', '--ssh=ssh -p 22', '--directory=/a b'],
    capture_output=True, text=True, timeout=60, check=True,
  )  # fmt: skip
  found = re.findall(r"^(\S+): ssh -p 22 .*cd .*/a b.* --port=(\d+)'$", ended.stdout, re.MULTILINE)
  assert found == [('a', '20000'), ('b.0', '20000'), ('b.1', '20001')]


@pytest.mark.slow
def test_the_command_of_the_page_for_one_machine_trains(tmp_path, data_dir):
  (command,) = (each for each in pages.commands('ssh') if 'launch_local' in each)
  program, *args = shlex.split(command)
  short = ('--config.train.steps=20', '--config.optimizer.warmup_steps=5', '--config.eval.every_steps=20')
  ended = subprocess.run(
    [sys.executable, ROOT / program, *args, f'--workdir={tmp_path}/run', f'--config.data.data_dir={data_dir}', *short],
    cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
  )  # fmt: skip
  assert ended.returncode == 0, ended.stderr[-3000:]
  assert runs.newest(tmp_path / 'run') == 20
