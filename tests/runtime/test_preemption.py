"""Signals to a real process, and the flag by itself."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.runtime.preemption import Stop

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
HINT = '(a second SIGINT stops at once, without saving)'
SAVING = 'trainer: SIGUSR1: saving at the next agreed step, and going on\n'
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def said(reason: str) -> str:
  return f'trainer: {reason}: stopping at the next agreed step{" " + HINT if reason == "SIGINT" else ""}\n'


def ended(reason: str) -> str:
  return f'stopped: {reason}; before the first step, nothing to save\n'


@pytest.fixture
def start():
  """A function that starts programs/stoppable.py, or another, and waits until it is ready."""
  started = []

  def begin(
    *args: str,
    ready: str = 'ready',
    program: str = 'stoppable',
    stderr: int = subprocess.PIPE,
    before: str = 'env',
    **environment: str,
  ) -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [before, sys.executable, HERE / 'programs' / f'{program}.py', *args],
      env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{HERE}', **environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
    )
    started.append(process)
    if ready:
      assert process.stdout.readline() == f'{ready}\n'
    return process

  yield begin
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
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


def test_nohup_is_respected(start):
  process = start('poll', before='nohup')
  process.send_signal(signal.SIGHUP)
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate(timeout=60)
  assert (stdout, stderr) == ('stopped by SIGTERM\n', said('SIGTERM'))


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


def test_what_others_took_is_taken_back(start):
  process = start('retaken')
  process.send_signal(signal.SIGTERM)
  assert process.stderr.readline() == said('SIGTERM')
  process.send_signal(signal.SIGUSR1)
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() == f'trainer: already stopping {HINT}\n'  # and nothing of a save


# -- nobody reads stderr -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('action', 'code'), [('poll', 0), ('start', 75)])
@pytest.mark.parametrize('reader', ['stalled', 'gone'])
def test_nobody_reads_what_is_said(start, action, code, reader):
  receive, send = os.pipe()
  if reader == 'stalled':
    fcntl.fcntl(send, fcntl.F_SETPIPE_SZ, 4096)
    os.write(send, bytes(4096))
  else:
    os.close(receive)
  process = start(action, stderr=send)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == code
  os.close(send)
  if reader == 'stalled':
    os.close(receive)


def test_the_second_sigint_is_heard_though_nobody_reads_what_is_said(start):
  receive, send = os.pipe()
  os.close(receive)
  process = start('poll', 'more', stderr=send)
  for name in ('SIGTERM', 'SIGINT'):
    process.send_signal(signal.Signals[name])
    if name == 'SIGTERM':
      assert process.stdout.readline() == 'stopped by SIGTERM\n'
  process.stdin.write('still there\n')
  process.stdin.flush()
  assert process.stdout.readline() == 'still there SIGTERM\n'
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == 130
  os.close(send)


# -- before the first step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_before_the_first_step_a_stop_is_an_end(start, name):
  process = start('start')
  process.send_signal(signal.Signals[name])
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stdout, stderr) == (75, '', ended(name))


def test_other_sources_end_it_too(start):
  process = start('early', ready='')
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stdout, stderr) == (75, '', ended('the deadline is near'))


def test_last_words_are_heard_before_the_end(start):
  process = start('parting')
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stdout, stderr) == (75, 'last words after SIGTERM\n', ended('SIGTERM'))


@pytest.mark.parametrize('how', ['hanging', 'failing'])
def test_last_words_do_not_keep_it_from_its_end(start, how):
  process = start(how)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 75
  assert stderr.endswith(ended('SIGTERM'))
  assert ('ZeroDivisionError' in stderr) == (how == 'failing')


def test_an_event_loop_that_has_the_descriptor_hides_nothing(start):
  process = start('watched')
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert (process.returncode, stderr) == (75, ended('SIGTERM'))


def test_a_handler_that_python_was_not_told_of_is_replaced(start):
  process = start('untold')
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert (process.returncode, stderr) == (75, ended('SIGTERM'))


@pytest.mark.slow
def test_tensorflow_has_taken_sigterm_and_we_take_it_back(start, free_port):
  cluster = {'worker': [f'127.0.0.1:{free_port()}' for _ in range(2)]}
  tasks = [json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': index}}) for index in range(2)]
  workers = [start(program='early_stop', ready='', TF_CONFIG=task) for task in tasks]
  for worker in workers:
    stdout, stderr = worker.communicate(timeout=240)
    assert stdout == 'SIGTERM\n', stderr


# -- save and go on ----------------------------------------------------------------------------------------------------


def test_each_sigusr1_is_one_save(start):
  process = start('saves')
  for _ in range(200):
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == 'saved\n'
  process.send_signal(signal.SIGTERM)
  stdout, stderr = process.communicate(timeout=60)
  assert stdout == 'stopped by SIGTERM\n'
  assert stderr == 200 * SAVING + said('SIGTERM')


def test_sigusr1_is_said_to_be_heard_while_the_main_thread_runs_no_python(start):
  process = start('busy')
  process.send_signal(signal.SIGUSR1)
  assert process.stderr.readline() == SAVING


def test_sigusr1_before_the_first_step_is_remembered(start):
  process = start('remember')
  process.send_signal(signal.SIGUSR1)
  assert process.stderr.readline() == SAVING
  process.stdin.write('go on\n')
  process.stdin.flush()
  assert process.stdout.readline() == 'True True False\n'


def test_no_wish_to_save_or_to_trace_is_lost_or_doubled():
  stop = Stop()
  stop.install()
  try:
    for _ in range(100):
      os.kill(os.getpid(), signal.SIGUSR1)
      assert stop.save_requested
      assert stop.take_save_request()
      assert not stop.take_save_request()
      os.kill(os.getpid(), signal.SIGUSR2)
      assert stop.take_profile_request()
      assert not stop.take_profile_request() and not stop.save_requested
    assert not stop.requested
  finally:
    stop.uninstall()


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('how', 'code'), [('release', 75), ('not', -signal.SIGTERM)])
def test_late_signals(start, how, code):
  process = start(how, program='late_signals', ready='at exit')
  for _ in range(2):
    for number in OURS if how == 'release' else [signal.SIGTERM]:
      process.send_signal(number)
  stdout, stderr = process.communicate('go on\n', timeout=60)
  assert process.returncode == code
  assert stdout == 'finalizing\n' + ('done\n' if how == 'release' else '')
  assert stderr == ('' if how == 'release' else said('SIGTERM'))


def test_release_ignores_signals_and_requests(capfd):
  stop = Stop()  # its `at_once` is True: a request would end this process
  stop.install()
  try:
    stop.release()
    stop._retake()  # as the listener does every 0.1 s
    status = pathlib.Path('/proc/self/status').read_text()
    ignored = int(status.split('SigIgn:')[1].split()[0], 16)
    for number in OURS:
      assert ignored >> (number - 1) & 1
      os.kill(os.getpid(), number)
    stop.request('somebody who is late')
    assert not stop.requested
    assert not stop.save_requested
  finally:
    stop.uninstall()
  assert capfd.readouterr().err == ''


# -- the flag by itself ------------------------------------------------------------------------------------------------


def test_the_first_of_many_requests_counts(capfd):
  stop = Stop()
  stop.at_once = False
  assert not stop.requested
  assert stop.reason == ''
  assert stop.requested_at is None
  assert stop.grace_left(30) is None
  start_together = threading.Barrier(8)

  def ask(number: int) -> None:
    start_together.wait()
    stop.request(f'reason {number}', grace_seconds=number)

  threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
  before = time.monotonic()
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert stop.requested
  assert before <= stop.requested_at <= time.monotonic()
  assert stop.grace_left(30, at=stop.requested_at) == pytest.approx(float(stop.reason.split()[1]))
  assert capfd.readouterr().err == said(stop.reason)


@given(grace=st.floats(0, 1e6), own=st.none() | st.floats(0, 1e6) | st.just(math.inf), later=st.floats(0, 1e6))
def test_grace_left(grace, own, later):
  stop = Stop()
  stop.at_once = False
  stop.request('a test', grace_seconds=own)
  expected = grace - later if own is None else own - later
  assert stop.grace_left(grace, at=stop.requested_at + later) == pytest.approx(expected, abs=1e-6)
  assert stop.grace_left(grace) <= (grace if own is None else own)


def test_a_person_can_wait_for_the_save_and_a_machine_may_not():
  left = {}
  for number in (signal.SIGINT, signal.SIGTERM):
    stop = Stop()
    stop.at_once = False
    stop.install()
    os.kill(os.getpid(), number)
    stop.uninstall()
    left[number] = stop.grace_left(30, at=stop.requested_at)
  assert left == {signal.SIGINT: math.inf, signal.SIGTERM: pytest.approx(30)}


def test_install_and_uninstall_leave_the_process_as_it_was():
  before = [signal.getsignal(number) for number in OURS]
  stop = Stop()
  stop.reinstall()
  assert [signal.getsignal(number) for number in OURS] == before
  for _ in range(2):
    stop.install()
    stop.reinstall()
    assert all(signal.getsignal(number) not in before for number in OURS)
    stop.uninstall()
    stop.uninstall()
  assert [signal.getsignal(number) for number in OURS] == before
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
  assert 'stop-signals' not in [thread.name for thread in threading.enumerate()]
