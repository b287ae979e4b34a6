"""The real trainer as the runs of a sweep, forked from a server that has imported TensorFlow (tests/faults)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import runpy
import signal
import socket
import sys
import threading
from typing import Any

from tests.conftest import ROOT
from tests.faults import processes, program
from tests.faults.program import Hit, Program
from tests.tune import forked

_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Ended:
  """A sweep's exit code (-N for signal N), and what it said."""

  code: int
  stdout: str
  stderr: str


class Runs:
  """Serves the processes of `forked.py`.

  Args:
    folder: for the socket, and what the runs print.
    data_dir: of TFDS.

  Attributes:
    started: arguments of each run, in the order in which they were started.
    hits: number of a run -> what happens to it; a run that is killed so takes the whole sweep along.
  """

  def __init__(self, folder: pathlib.Path, data_dir: str):
    self._folder, self._data_dir = folder, data_dir
    self.started: list[list[str]] = []
    self.hits: dict[int, Hit] = {}
    self._sweeps, self._folders = 0, dict[int, pathlib.Path]()
    self._socket = socket.socket(socket.AF_UNIX)
    self._socket.bind(str(folder / 'socket'))
    self._socket.listen()
    self._thread = threading.Thread(target=self._serve, daemon=True)
    self._thread.start()

  def tune(self, *args: str, timeout: float = _SECONDS) -> Ended:
    """Runs scripts/tune to its end."""
    process = self.start(*args)
    process.join(timeout)
    return self.ended(process)

  def start(self, *args: str) -> Any:
    """Starts scripts/tune, forked too; returns its process, with `pid`."""
    self._sweeps += 1
    folder = self._folder / f'sweep-{self._sweeps}'
    folder.mkdir()
    env = {**os.environ, forked.SOCKET: str(self._folder / 'socket'), 'TFDS_DATA_DIR': self._data_dir}
    process = processes.context.Process(target=_tune, args=(['--module=tests.tune.forked', *args], env, str(folder)))
    process.start()
    self._folders[process.pid] = folder
    return process

  def ended(self, process: Any) -> Ended:
    """What is left of a process of `start`, which is killed if it has not ended."""
    process.kill()
    process.join()
    stdout, stderr = ((self._folders[process.pid] / name).read_text() for name in ('stdout', 'stderr'))
    return Ended(process.exitcode, stdout, stderr)

  def alone(self, argv: list[str]) -> int:
    """Runs the trainer without a sweep; returns its exit code."""
    folder = self._folder / 'by-itself'
    folder.mkdir()
    env = {**os.environ, 'TFDS_DATA_DIR': self._data_dir}
    (ended,) = processes.run([Program(tuple(argv), env, str(folder), '')])
    return ended.code

  def close(self) -> None:
    self._socket.close()

  def _serve(self) -> None:
    with contextlib.suppress(OSError):  # closed
      while True:
        connection, _ = self._socket.accept()
        threading.Thread(target=self._run, args=(connection,), daemon=True).start()

  def _run(self, connection: socket.socket) -> None:
    """One run; its process is killed when the one that stands for it has died."""
    with connection, connection.makefile('rwb') as lines:
      asked: dict[str, Any] = json.loads(lines.readline())
      number = len(self.started)
      self.started.append(asked['argv'])
      folder = self._folder / f'run-{number}'
      folder.mkdir()
      hit = self.hits.get(number)
      child = processes.context.Process(
        target=program.run,
        args=(Program(tuple(asked['argv']), asked['env'], str(folder), '', hits=(hit,) if hit else ()),),
      )
      child.start()
      threading.Thread(target=self._hand_on, args=(lines, child), daemon=True).start()
      child.join()
      if hit and child.exitcode == -signal.SIGKILL:
        os.kill(asked['parent'], signal.SIGKILL)
        return
      with contextlib.suppress(OSError):  # nobody listens any more
        lines.write(f'{child.exitcode}\n'.encode())
        lines.flush()

  def _hand_on(self, lines: Any, child: Any) -> None:
    with contextlib.suppress(OSError, ValueError, ProcessLookupError):  # it has ended
      for line in iter(lines.readline, b''):
        os.kill(child.pid, int(line))
      child.kill()


def _tune(args: list[str], env: dict[str, str], folder: str) -> None:
  """The body of a forked scripts/tune."""
  os.setsid()
  os.chdir(ROOT)
  for number, name in ((1, 'stdout'), (2, 'stderr')):
    handle = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(handle, number)
    os.close(handle)
  os.environ.clear()
  os.environ.update(env)
  script = ROOT / 'scripts' / 'tune'
  sys.path.insert(0, str(script.parent))
  sys.argv = [str(script), *args]
  runpy.run_path(str(script), run_name='__main__')
