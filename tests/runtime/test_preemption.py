"""Signals to a real process, and the flag by itself."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from trainer.runtime.preemption import Stop

HERE = pathlib.Path(__file__).parent
HINT = '(a second SIGINT stops at once, without saving)'


def said(reason: str) -> str:
  return f'trainer: {reason}: stopping at the next agreed step{" " + HINT if reason == "SIGINT" else ""}\n'


@pytest.fixture
def start():
  """A function that starts programs/stoppable.py and waits until it is ready."""
  started = []

  def begin(*args: str, ready: str = 'ready') -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [sys.executable, HERE / 'programs' / 'stoppable.py', *args],
      env={**os.environ, 'PYTHONPATH': str(HERE.parents[1])},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == f'{ready}\n'
    return process

  yield begin
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_the_first_signal_asks_to_stop(start, name):
  process = start('poll')
  process.send_signal(signal.Signals[name])
  stdout, stderr = process.communicate(timeout=60)
  assert stdout == f'stopped by {name}\n'
  assert stderr == said(name)
  assert process.returncode == 0


def test_a_second_sigterm_changes_nothing(start):
  process = start('poll', 'more')
  for _ in range(3):
    process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == 'stopped by SIGTERM\n'
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate('still there\n', timeout=60)
  assert stdout == 'still there SIGTERM\n'
  assert stderr == said('SIGTERM')
  assert process.returncode == 0


def test_a_second_sigint_stops_at_once(start):
  process = start('poll', 'more')
  process.send_signal(signal.SIGINT)
  assert process.stdout.readline() == 'stopped by SIGINT\n'
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == 130


def test_one_sigint_after_sigterm_is_the_first(start):
  process = start('poll', 'more')
  process.send_signal(signal.SIGTERM)
  assert process.stdout.readline() == 'stopped by SIGTERM\n'
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() == said('SIGTERM')
  assert process.stderr.readline() == f'trainer: already stopping {HINT}\n'
  stdout, _ = process.communicate('still there\n', timeout=60)
  assert stdout == 'still there SIGTERM\n'
  assert process.returncode == 0


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_signals_are_heard_while_the_main_thread_runs_no_python(start, name):
  process = start('busy')
  process.send_signal(signal.Signals[name])
  assert process.stderr.readline() == said(name)
  if name == 'SIGTERM':
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == f'trainer: already stopping {HINT}\n'
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == 130


def test_other_sources_set_the_same_flag(start):
  process = start('request', 'more')
  assert process.stdout.readline() == 'stopped by the deadline is near\n'
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate('still there\n', timeout=60)
  assert stdout == 'still there the deadline is near\n'
  assert stderr == said('the deadline is near')


def test_uninstall_puts_the_handlers_back(start):
  process = start('uninstall')
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == 42


def test_the_signals_of_a_forked_child_are_its_own(start):
  process = start('fork', ready='child ready')
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  assert len(children) == 1
  os.kill(int(children[0]), signal.SIGTERM)
  assert process.stdout.readline() == 'child died of SIGTERM\n'
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=60)[0] == 'stopped by SIGINT\n'


def test_the_first_of_many_requests_counts(capfd):
  stop = Stop()
  assert not stop.requested
  assert stop.reason == ''
  start_together = threading.Barrier(8)

  def ask(number: int) -> None:
    start_together.wait()
    stop.request(f'reason {number}')

  threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert stop.requested
  assert capfd.readouterr().err == said(stop.reason)


def test_install_and_uninstall_leave_the_process_as_it_was():
  before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  stop = Stop()
  for _ in range(2):
    stop.install()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    stop.uninstall()
    stop.uninstall()
  assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
  wakeup = signal.set_wakeup_fd(-1)
  signal.set_wakeup_fd(wakeup)
  assert wakeup == -1
  assert 'stop-signals' not in [thread.name for thread in threading.enumerate()]


def test_only_the_main_thread_installs():
  errors = []

  def attempt() -> None:
    try:
      Stop().install()
    except ValueError as error:
      errors.append(error)

  thread = threading.Thread(target=attempt)
  thread.start()
  thread.join()
  assert len(errors) == 1
