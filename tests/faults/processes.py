"""Starts the processes of one attempt, and sees them to their end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import time
from multiprocessing import connection
from typing import Any

from tests.conftest import ROOT
from tests.faults import program
from tests.faults.program import Program

_POLL_SECONDS = 0.05

context = multiprocessing.get_context('forkserver')


@dataclasses.dataclass(frozen=True)
class Ended:
  """What is left of a process.

  Attributes:
    code: its exit code; -N if signal N ended it.
    at: `time.monotonic()` when it ended.
    stdout, stderr: what it said.
    trail: what happened in it, in order (program.py).
    killed: whether it was stopped, and was killed here when the others had ended.
  """

  code: int
  at: float
  stdout: str
  stderr: str
  trail: list[dict[str, Any]]
  killed: bool

  @property
  def reached(self) -> int | None:
    """Steps done in the end; None if it was not even known what was restored."""
    steps = [
      line['step'] for line in self.trail if line['kind'] == 'phase' and line['name'] not in ('build', 'restore')
    ]
    return steps[-1] if steps else None

  def hits(self) -> dict[str, float]:
    """Each fault that was done here, as in 'SIGKILL at step' -> when."""
    return {line['name']: line['at'] for line in self.trail if line['kind'] == 'hit'}

  def saved(self) -> list[int]:
    """The steps whose saves were completed, in order."""
    return [line['step'] for line in self.trail if (line['kind'], line['name']) == ('stage', 'complete')]

  def line(self, label: str) -> str:
    """The one line on stderr that begins with a label."""
    (line,) = [line for line in self.stderr.splitlines() if line.startswith(f'{label}: ')]
    return line


def start_server() -> None:
  """Starts the process that the others are forked from, and returns at once; it needs seconds to import all."""
  path = os.environ.get('PYTHONPATH')
  os.environ['PYTHONPATH'] = os.pathsep.join(part for part in (str(ROOT), path) if part)
  try:
    context.set_forkserver_preload([program.__name__])
    multiprocessing.forkserver.ensure_running()
  finally:
    del os.environ['PYTHONPATH']
    if path is not None:
      os.environ['PYTHONPATH'] = path


def run(programs: list[Program], *, timeout: float = 300.0) -> list[Ended]:
  """Runs the workers of one attempt to their end.

  One that is stopped by SIGSTOP is continued, if it is alone; of several it is killed when the others have ended.
  """
  children = [context.Process(target=program.run, args=(each,)) for each in programs]
  for child in children:
    child.start()
  ended: dict[int, float] = {}
  killed: set[int] = set()
  deadline = time.monotonic() + timeout
  try:
    while len(ended) < len(children):
      assert time.monotonic() < deadline, f'not ended after {timeout} s:\n{_tails(programs)}'
      running = [index for index in range(len(children)) if index not in ended]
      connection.wait([children[index].sentinel for index in running], _POLL_SECONDS)
      for index in running:
        if not children[index].is_alive():
          ended[index] = time.monotonic()
        elif _is_stopped(children[index].pid) and len(children) == 1:
          os.kill(children[index].pid, signal.SIGCONT)
        elif _is_stopped(children[index].pid) and len(running) == 1:
          killed.add(index)
          os.kill(children[index].pid, signal.SIGKILL)
  finally:
    for child in children:
      child.kill()
      child.join()
  return [
    _ended(each, child.exitcode, ended[index], index in killed)
    for index, (each, child) in enumerate(zip(programs, children, strict=True))
  ]


@contextlib.contextmanager
def reserved_ports(count: int):
  """Ports on this machine that nobody else is given meanwhile, as scripts/launch_local reserves them."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for sock in sockets:
      sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
      sock.bind(('127.0.0.1', 0))
    yield [sock.getsockname()[1] for sock in sockets]


def cluster(ports: list[int], index: int) -> dict[str, str]:
  """The variables that make a process a worker."""
  if len(ports) < 2:
    return {}
  workers = [f'127.0.0.1:{port}' for port in ports]
  task = {'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}}
  return {'TF_CONFIG': json.dumps(task), 'TF_GRPC_REUSE_PORT': 'true'}


def _is_stopped(pid: int | None) -> bool:
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'
  return False


def _ended(each: Program, code: int, at: float, killed: bool) -> Ended:
  trail = [json.loads(line) for line in _read(each.file('trail')).splitlines()]
  return Ended(code, at, _read(each.file('stdout')), _read(each.file('stderr')), trail, killed)


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text(errors='replace')
  except FileNotFoundError:
    return ''


def _tails(programs: list[Program]) -> str:
  return '\n'.join(f'--- {each.file("stderr")}\n{_read(each.file("stderr"))[-3000:]}' for each in programs)
