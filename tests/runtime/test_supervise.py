"""scripts/supervise with a stand-in for the trainer, and the policy that it shares with scripts/launch_local."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import errors
from trainer.checkpoint import layout
from trainer.storage import place

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPERVISOR = ROOT / 'scripts' / 'supervise'
PROGRAMS = pathlib.Path(__file__).parent / 'programs'
NO_WORKDIR = "error: --workdir is missing: name the directory of the run behind '--', as for the trainer\n"

sys.path.insert(0, str(ROOT / 'scripts'))
import children  # noqa: E402
import restarts  # noqa: E402

sys.path.remove(str(ROOT / 'scripts'))


@pytest.fixture
def start(tmp_path):
  """A function that starts the supervisor; its work directory is tmp_path/run unless the arguments name one."""
  started = []

  def begin(*args: str, options: tuple[str, ...] = (), **keywords) -> subprocess.Popen[str]:
    args = args if any('workdir' in argument for argument in args) else (*args, f'--workdir={tmp_path}/run')
    keywords = {'stdin': subprocess.DEVNULL, 'cwd': tmp_path, **keywords}
    process = subprocess.Popen(
      [sys.executable, SUPERVISOR, '--module=stand_in', *options, '--', *args],
      env={**os.environ, 'PYTHONPATH': str(PROGRAMS), 'PYTHONUNBUFFERED': '1'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      **keywords,
    )
    started.append(process)
    return process

  yield begin
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


@pytest.fixture
def run(start):
  """A function that runs the supervisor to its end: (exit code, lines of stdout, lines of stderr)."""

  def complete(*args: str, **keywords) -> tuple[int, list[str], list[str]]:
    process = start(*args, **{'options': ('--backoff_seconds=0',), **keywords})
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.splitlines(), stderr.splitlines()

  return complete


def attempts(workdir: pathlib.Path) -> int:
  return (workdir / 'attempts.0').stat().st_size


def test_the_trainer_gets_the_arguments_no_stdin_and_a_session_of_its_own(run, tmp_path):
  (tmp_path / 'typed').write_text('what was typed')
  with (tmp_path / 'typed').open() as typed:
    code, stdout, stderr = run('show', '--workdir=w', '--', 'x y', stdin=typed)
  assert code == 0
  shown = json.loads(stdout[0])
  assert shown['args'] == ['--workdir=w', '--', 'x y']
  assert shown['stdin'] == ''
  assert shown['own_session']
  assert stdout[1:] == ['half a line']
  assert stderr == ['an error of 0']


def test_the_folder_that_it_is_called_from_is_not_searched_for_modules(run, tmp_path):
  (tmp_path / 'stand_in.py').write_text('raise SystemExit(3)')
  assert run('attempts', 'exit:0')[0] == 0


@pytest.mark.parametrize('code', [0, 2, 3])
def test_a_final_exit_code_is_returned_at_once(run, tmp_path, code):
  assert run('attempts', f'exit:{code}') == (code, [], [])
  assert attempts(tmp_path / 'run') == 1


@pytest.mark.parametrize(
  ('end', 'described'),
  [
    ('exit:75', 'exit code 75'),
    ('exit:1', 'exit code 1'),
    ('exit:137', 'exit code 137'),
    ('die:SIGKILL', 'signal SIGKILL'),
    ('die:SIGSEGV', 'signal SIGSEGV'),
    ('die:SIGTERM', 'signal SIGTERM'),  # that was not for us
  ],
)
def test_any_other_end_is_followed_by_another_attempt(run, tmp_path, end, described):
  code, stdout, stderr = run('attempts', end, f'save:7,{end}', 'exit:0')
  assert (code, stdout) == (0, [])
  assert stderr == [
    f'supervise: attempt 1 ended with {described}, newest checkpoint: none (1 of 5 without progress); '
    'starting attempt 2 at once',
    f'supervise: attempt 2 ended with {described}, newest checkpoint: step 7; starting attempt 3 at once',
  ]
  assert attempts(tmp_path / 'run') == 3


@pytest.mark.parametrize(
  ('end', 'described', 'expected'),
  [('exit:75', 'exit code 75', 75), ('exit:1', 'exit code 1', 1), ('die:SIGKILL', 'signal SIGKILL', 137)],
)
def test_gives_up_without_progress(run, tmp_path, end, described, expected):
  code, _, stderr = run('attempts', f'save:40,{end}', end, options=('--backoff_seconds=0', '--attempts=3'))
  assert code == expected
  assert attempts(tmp_path / 'run') == 4
  assert len(stderr) == 4
  assert stderr[-1] == (
    f'supervise: giving up: attempt 4 ended with {described}, newest checkpoint: step 40; '
    'no progress in 3 attempts in a row'
  )


def test_what_was_there_before_is_no_progress(run, tmp_path):
  (tmp_path / 'run' / 'checkpoints' / '40').mkdir(parents=True)
  (tmp_path / 'run' / 'checkpoints' / '40' / 'complete.json').touch()
  code, _, stderr = run('attempts', 'exit:1', options=('--attempts=1',))
  assert code == 1
  assert stderr == [
    'supervise: giving up: attempt 1 ended with exit code 1, newest checkpoint: step 40; no progress in 1 attempt'
  ]


def test_progress_resets_the_count_and_the_wait(run, tmp_path):
  scripts = ('exit:1', 'exit:1', 'save:10,exit:1', 'exit:75', 'save:20,exit:75', 'exit:1', 'exit:1', 'exit:1')
  code, _, stderr = run('attempts', *scripts, options=('--attempts=3', '--backoff_seconds=0.01'))
  assert code == 1
  assert attempts(tmp_path / 'run') == 8
  waits = [line.rpartition(' starting ')[2].split(' ', 2)[2] for line in stderr[:-1]]
  assert waits == ['in 0.01 s', 'in 0.02 s', 'at once', 'in 0.01 s', 'at once', 'in 0.01 s', 'in 0.02 s']
  assert 'giving up' in stderr[-1]


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_stop_goes_on_to_the_trainer_and_is_the_end(start, tmp_path, name):
  process = start('attempts', 'signals:1,save:5,exit:75')
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.Signals[name])
  assert process.communicate(timeout=60) == (f'{name}\n', '')
  assert process.returncode == 75
  assert attempts(tmp_path / 'run') == 1


@pytest.mark.parametrize(('end', 'expected'), [('exit:130', 130), ('die:SIGKILL', 137), ('exit:0', 0), ('exit:3', 3)])
def test_after_a_stop_the_code_is_the_trainers_whatever_it_is(start, tmp_path, end, expected):
  process = start('attempts', f'signals:2,{end}')
  assert process.stdout.readline() == 'ready\n'
  for _ in range(2):  # the second Ctrl-C is handed on as well
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == 'SIGINT\n'
  assert process.communicate(timeout=60) == ('', '')
  assert process.returncode == expected
  assert attempts(tmp_path / 'run') == 1


def test_other_signals_go_on_to_the_trainer_and_are_not_the_end(start, tmp_path):
  process = start('attempts', 'signals:2,save:5,exit:75', 'exit:0')
  assert process.stdout.readline() == 'ready\n'
  for name in ('SIGUSR1', 'SIGUSR2'):
    process.send_signal(signal.Signals[name])
    assert process.stdout.readline() == f'{name}\n'
  _, stderr = process.communicate(timeout=60)
  assert 'starting attempt 2 at once' in stderr
  assert process.returncode == 0
  assert attempts(tmp_path / 'run') == 2


def test_a_trainer_that_does_not_listen_yet_survives_a_wish_to_save(start, tmp_path):
  process = start('attempts', 'plain')
  assert process.stdout.readline() == 'ready\n'
  for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    process.send_signal(number)
  assert process.communicate(timeout=60) == ('', '')
  assert process.returncode == 75
  assert attempts(tmp_path / 'run') == 1


def test_a_trainer_that_does_not_end_is_killed_if_there_is_a_limit(start, tmp_path):
  process = start('attempts', 'deaf', options=('--grace_seconds=0.1',))
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert stderr == 'supervise: killing the trainer, 0.1 s after it was told to stop\n'
  assert process.returncode == 137
  assert attempts(tmp_path / 'run') == 1


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_stop_ends_the_wait_for_the_next_attempt(start, tmp_path, name):
  process = start('attempts', 'exit:1', options=('--backoff_seconds=100000',))
  assert process.stderr.readline().endswith('; starting attempt 2 in 100000 s\n')
  process.send_signal(signal.SIGUSR1)  # there is nobody to hand it on to
  process.send_signal(signal.Signals[name])
  assert process.communicate(timeout=60) == ('', '')
  assert process.returncode == 75
  assert attempts(tmp_path / 'run') == 1


@pytest.mark.parametrize('end', ['exit:75', 'exit:1'])
def test_no_restart_while_the_stop_file_is_there(start, tmp_path, end):
  stop = tmp_path / 'run' / 'STOP'
  process = start('attempts', f'signals:1,{end}', 'exit:0')
  assert process.stdout.readline() == 'ready\n'
  stop.touch()
  process.send_signal(signal.SIGUSR1)  # lets it go on
  assert process.communicate(timeout=60) == ('SIGUSR1\n', f'supervise: {stop} is there: remove it to go on\n')
  assert process.returncode == 75
  assert attempts(tmp_path / 'run') == 1


def test_no_first_attempt_while_the_stop_file_is_there(run, tmp_path):
  stop = tmp_path / 'run' / 'STOP'
  stop.parent.mkdir()
  stop.touch()
  assert run('attempts', 'exit:0') == (75, [], [f'supervise: {stop} is there: remove it to go on'])
  stop.unlink()
  assert run('attempts', 'exit:0') == (0, [], [])
  assert attempts(tmp_path / 'run') == 1


def test_of_a_run_in_a_bucket_the_trainer_itself_looks_for_the_stop_file_first(run, tmp_path, monkeypatch):
  """Its copy here may be of an earlier attempt, and the bucket's file gone since."""
  monkeypatch.setenv('TRAINER_SCRATCH', str(tmp_path))
  (copy := pathlib.Path(place.local_copy('gs://bucket/run'))).mkdir()
  (copy / 'STOP').touch()
  told = ['supervise: gs://bucket/run/STOP is there: remove it to go on']
  assert run('attempts', 'exit:75', 'exit:0', '--workdir=gs://bucket/run') == (75, [], told)
  (copy / 'STOP').unlink()
  assert run('attempts', 'exit:75', 'exit:0', '--workdir=gs://bucket/run') == (0, [], [])


def test_a_run_that_is_complete_is_so_in_spite_of_the_stop_file(start, tmp_path):
  process = start('attempts', 'signals:1,exit:0')
  assert process.stdout.readline() == 'ready\n'
  (tmp_path / 'run' / 'STOP').touch()
  process.send_signal(signal.SIGUSR1)
  assert process.communicate(timeout=60) == ('SIGUSR1\n', '')
  assert process.returncode == 0


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel tells children of the death of their parent on Linux')
def test_the_trainer_does_not_outlive_a_supervisor_that_was_killed(start):
  process = start('attempts', 'exit:1', 'signals:1', options=('--backoff_seconds=0',))
  assert process.stdout.readline() == 'ready\n'  # of the second attempt
  (child,) = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  watched = os.pidfd_open(int(child))
  process.kill()
  try:
    assert select.select([watched], [], [], 60)[0]  # becomes readable when the process has ended
  finally:
    with contextlib.suppress(ProcessLookupError):
      signal.pidfd_send_signal(watched, signal.SIGKILL)
    os.close(watched)


@pytest.mark.parametrize('args', [['attempts', 'exit:0'], ['--workdir'], ['--workdir='], ['--', '--workdir=x'], []])
@pytest.mark.parametrize('script', ['supervise', 'launch_local'])
def test_no_work_directory_is_a_mistake_in_one_line(script, args):
  process = subprocess.run(
    [sys.executable, ROOT / 'scripts' / script, '--module=stand_in', '--', *args],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert (process.returncode, process.stdout, process.stderr) == (2, '', NO_WORKDIR)


@pytest.mark.parametrize(
  'args',
  [['stray'], ['--attempts=0'], ['--attempts=x'], ['--backoff_seconds=-1'], ['--backoff_seconds=nan'],
   ['--grace_seconds=x'], ['--workers=2', '--grace_seconds=1']],
)  # fmt: skip
def test_a_wrong_command_line_is_exit_code_2(args):
  process = subprocess.run(
    [sys.executable, SUPERVISOR, *args, '--', '--workdir=w'], capture_output=True, text=True, timeout=60, check=False
  )
  assert process.returncode == 2
  assert 'error:' in process.stderr


@pytest.mark.parametrize(
  ('args', 'expected'),
  [
    (['--workdir=a b'], 'a b'),
    (['-workdir=a'], 'a'),
    (['--config=c', '--workdir', 'a', '--mode=train'], 'a'),
    (['-workdir', 'a'], 'a'),
    (['--workdir=a', '--workdir', 'b'], 'b'),
    (['--workdir', 'b', '-workdir=a=c'], 'a=c'),
    (['--workdir', '--workdir=a'], '--workdir=a'),
    (['--workdirs=a', '--no-workdir=a', 'workdir=a', '--workdir=b', '--', '--workdir=c'], 'b'),
    (['--workdir=a', '--workdir'], ''),
    ([], ''),
  ],
)
def test_the_work_directory_is_found_as_absl_finds_it(args, expected):
  assert restarts.find_workdir(args) == expected


@pytest.mark.parametrize('workdir', [['--workdir', 'w'], ['-workdir=v', '--workdir=w']])
def test_progress_is_looked_for_in_the_work_directory(run, tmp_path, workdir):
  (tmp_path / 'w' / 'checkpoints' / '5').mkdir(parents=True)
  (tmp_path / 'w' / 'checkpoints' / '5' / 'complete.json').touch()
  _, _, stderr = run('codes', '1', *workdir, options=('--attempts=1',))
  assert 'newest checkpoint: step 5;' in stderr[-1]


def test_workers_are_for_launch_local(run, tmp_path):
  code, stdout, stderr = run('attempts', 'exit:75', 'show', options=('--workers=2', '--attempts=7'))
  assert code == 0
  assert sorted(line for line in stdout if 'half' in line) == [f'[worker {index}] half a line' for index in range(2)]
  assert (
    'launch_local: attempt 1 ended with exit code 75, newest checkpoint: none (1 of 7 without progress); '
    'starting attempt 2 in 1 s'
  ) in stderr


def test_the_exit_codes_are_those_of_the_trainer():
  assert set(restarts.FINAL) == {errors.EXIT_COMPLETE, errors.EXIT_USER_MISTAKE, errors.EXIT_DIVERGED}
  assert restarts.USER_MISTAKE == errors.EXIT_USER_MISTAKE
  assert restarts.RUN_AGAIN == errors.EXIT_RUN_AGAIN


NAMES = ('0', '7', '07', '10', '9', '+8', '1_0', '٣', '11.saving', '12.replaced', '13.deleting', 'damaged', '-1', '')


@given(st.dictionaries(st.sampled_from(NAMES[:-1]), st.sampled_from(['complete.json', 'saving.json', None])))
def test_the_newest_checkpoint_is_that_of_the_trainer(tmp_path_factory, folders):
  workdir = tmp_path_factory.mktemp('run')
  assert restarts.newest_step(str(workdir)) is None
  for name, marker in folders.items():
    folder = workdir / 'checkpoints' / name
    folder.mkdir(parents=True)
    if marker:
      (folder / marker).touch()
  complete = layout.Layout(str(workdir / 'checkpoints'), lambda stage: None).steps()
  assert restarts.newest_step(str(workdir)) == (complete[-1] if complete else None)


ENDS = st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=60)


@given(st.integers(1, 6), st.floats(0, 1e6), st.none() | st.integers(0, 3), ENDS)
def test_the_policy(limit, backoff, before, ends):
  policy = restarts.Policy(limit, backoff, before)
  furthest = -1 if before is None else before
  fruitless = 0
  doubled = 0  # how often the wait has been doubled since the last progress
  for step in ends:
    progress = step is not None and step > furthest
    furthest = step if progress else furthest
    fruitless = 0 if progress else fruitless + 1
    doubled = 0 if progress else doubled
    wait = policy.wait_seconds(step)
    assert policy.fruitless == fruitless
    assert (wait is None) == (fruitless == limit)
    if wait is None:
      return
    if progress:
      assert wait == 0
    else:
      assert wait == min(backoff * 2.0**doubled, max(60, backoff))
      doubled += 1
  # Steps 0 to 5 can be reached once each, so no run of this kind goes on for ever.
  assert len(ends) <= 6 + 7 * (limit - 1)


def test_the_wait_grows_to_a_minute_and_no_further():
  policy = restarts.Policy(10**6, 1.0, None)
  waits = [policy.wait_seconds(None) for _ in range(5000)]
  assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
  assert set(waits[8:]) == {60}
  longer = restarts.Policy(10**6, 90.0, None)
  assert {longer.wait_seconds(None) for _ in range(5)} == {90}


@pytest.fixture
def events():
  """Events of this process; what listens to its signals is put back."""
  numbers = (*children.STOPPING, *children.REMARKS)
  before = [signal.getsignal(number) for number in numbers]
  wakeup = signal.set_wakeup_fd(-1)
  yield children.Events()
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)
  signal.set_wakeup_fd(wakeup)


def test_no_signal_is_missed(events):
  """Several at once, while the main thread waits."""
  seen = threading.Semaphore(0)

  def send() -> None:
    for _ in range(300):
      for number in children.REMARKS:
        os.kill(os.getpid(), number)
      for _ in children.REMARKS:  # one that is still pending would swallow the next of its kind
        seen.acquire()

  sender = threading.Thread(target=send, daemon=True)
  sender.start()
  found = []
  for _ in range(300):
    pair = [events.next(time.monotonic() + 60) for _ in children.REMARKS]
    found.append(sorted(pair))
    seen.release(len(pair))
  sender.join()
  assert found == [[('signal', number) for number in children.REMARKS]] * 300


def test_the_wait_is_as_long_as_was_said(events):
  os.kill(os.getpid(), signal.SIGUSR1)
  began = time.monotonic()
  events.pause(0.05)
  assert time.monotonic() - began >= 0.05
  assert not events.stopping


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_stop_before_the_first_attempt_is_heard(events, name, tmp_path, capsys):
  os.kill(os.getpid(), signal.Signals[name])
  events.pause(100000)
  options = argparse.Namespace(attempts=5, backoff_seconds=1.0)
  assert restarts.run('supervise', options, [f'--workdir={tmp_path}'], pytest.fail, events) == 75
  assert capsys.readouterr().err == ''


def test_an_end_is_described():
  assert restarts.describe(1) == 'exit code 1'
  assert restarts.describe(-9) == 'signal SIGKILL'
  assert restarts.describe(-45) == 'signal 45'  # one of those that have no name
  assert [restarts.exit_code(code) for code in (0, 75, -9)] == [0, 75, 137]
