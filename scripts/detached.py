"""A command that runs on when whoever started it has gone, with its output in a file and its exit code in another.

A folder belongs to one command at a time: `lock` is held for as long as it runs, `log` has its output, `pid` the
process, `exit_code` what it ended with, written last and at once. A command that a crash of the machine took along has
none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import children


@dataclasses.dataclass(frozen=True)
class State:
  """How a folder's command is.

  Attributes:
    running: whether it runs.
    code: what it ended with, 128 + N for signal N; None while it runs, and if nobody was left to write it down.
    size: bytes of the log.
  """

  running: bool
  code: int | None
  size: int


def start(folder: pathlib.Path, command: list[str], env: dict[str, str]) -> bool:
  """Starts a command, in the current directory; False if the folder's last one still runs, and nothing is done.

  Args:
    folder: made if need be; the log of an earlier command is written on.
    command: what to run.
    env: its whole environment.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lock = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
  if not _take(lock):
    os.close(lock)
    return False
  (folder / 'exit_code').unlink(missing_ok=True)
  with open(folder / 'log', 'ab') as log:
    # The lock goes along: it belongs to the open file, and so to the holder, before we let go of it.
    subprocess.Popen(
      [sys.executable, __file__, str(folder), *command],
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,
      pass_fds=(lock,),
    )
  os.close(lock)
  return True


def _take(lock: int) -> bool:
  for _ in range(20):
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    time.sleep(0.05)  # `state` holds it for a moment, to see whether anybody else does
  return False


def state(folder: pathlib.Path) -> State:
  """How the folder's command is; as if it had never been started where there is no folder."""
  running = False
  with contextlib.suppress(FileNotFoundError), open(folder / 'lock') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      running = True
  code = None
  if not running:
    with contextlib.suppress(FileNotFoundError, ValueError):
      code = int((folder / 'exit_code').read_text())
  size = 0
  with contextlib.suppress(FileNotFoundError):
    size = (folder / 'log').stat().st_size
  return State(running, code, size)


def stop(folder: pathlib.Path, number: int = signal.SIGTERM) -> bool:
  """Sends a signal to the folder's command; False if none runs."""
  if not state(folder).running:
    return False
  with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
    os.kill(int((folder / 'pid').read_text()), number)
    return True
  return False


def hold(folder: pathlib.Path, command: list[str]) -> None:
  """Runs the command and writes down how it ends; the process that `start` leaves behind."""
  # What is sent to everybody when a machine goes down is the command's business. Both ignore SIGHUP, as under nohup.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda received, frame: None)
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    child = children.start(command, dict(os.environ))  # dies when we do: no run is left that nobody waits for
  except OSError as error:
    print(f'error: {command[0]} cannot be started: {error.strerror}', flush=True)
    code = 127
  else:
    _write(folder / 'pid', str(child.pid))
    code = child.wait()
  _write(folder / 'exit_code', str(128 - code if code < 0 else code))


def _write(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(f'{path.name}.tmp')
  with open(temporary, 'w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


if __name__ == '__main__':
  hold(pathlib.Path(sys.argv[1]), sys.argv[2:])
