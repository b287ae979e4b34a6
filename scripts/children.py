"""Processes that a script starts, hands its signals on to, and takes along when it dies."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REMARKS = (signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == 'linux' else None


class Events:
  """What happens to us and to our children, in the order in which it happens. To be made once, in the main thread.

  An event is ('signal', its number) or ('exit', the process that has ended).
  """

  def __init__(self) -> None:
    self._stopping = False
    self._events: collections.deque[tuple[str, Any]] = collections.deque()
    self._ended: collections.deque[subprocess.Popen[bytes]] = collections.deque()
    # The kernel may give a signal to any thread, and then the main thread sleeps on, wherever it waits; its Python
    # handler would run no sooner than it wakes. The interpreter's wake-up descriptor is written to in any case.
    self._reader, self._writer = os.pipe()
    os.set_blocking(self._reader, False)
    os.set_blocking(self._writer, False)
    signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
    for number in (*STOPPING, *REMARKS):
      if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
        signal.signal(number, lambda received, frame: None)

  @property
  def stopping(self) -> bool:
    """Whether a signal that asks to stop has ever come."""
    self._collect()
    return self._stopping

  def watch(self, child: subprocess.Popen[bytes]) -> None:
    """Makes the end of a child an event."""
    threading.Thread(target=self._wait, args=(child,), daemon=True).start()

  def next(self, deadline: float | None = None) -> tuple[str, Any]:
    """Waits for an event.

    Args:
      deadline: the `time.monotonic()` to wait until; None: for ever.

    Raises:
      TimeoutError: the deadline has passed.
    """
    self._collect()
    while not self._events:
      timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
      if not select.select([self._reader], [], [], timeout)[0]:
        raise TimeoutError
      self._collect()
    return self._events.popleft()

  def pause(self, seconds: float) -> None:
    """Waits while no child runs; a signal that asks to stop ends it, others are for nobody and are dropped."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
      while not self.stopping:
        self.next(deadline)

  def _wait(self, child: subprocess.Popen[bytes]) -> None:
    child.wait()
    self._ended.append(child)
    with contextlib.suppress(BlockingIOError):  # the pipe is full, and wakes the main thread as it is
      os.write(self._writer, b'\0')  # no signal has this number

  def _collect(self) -> None:
    with contextlib.suppress(BlockingIOError):  # nothing new
      for number in os.read(self._reader, 1 << 16):
        self._stopping = self._stopping or number in STOPPING
        if number in STOPPING or number in REMARKS:
          self._events.append(('signal', number))
    while self._ended:
      self._events.append(('exit', self._ended.popleft()))


def command(module: str) -> list[str]:
  """What runs a module: the .venv of this checkout, where there is one."""
  python = ROOT / '.venv' / 'bin' / 'python'
  # -P: the folder that this was called from is not searched for modules.
  return [str(python) if python.exists() else sys.executable, '-P', '-m', module]


def environment(**variables: str) -> dict[str, str]:
  """The environment of a child: ours, this checkout's modules, and `variables` on top."""
  path = os.pathsep.join(part for part in (str(ROOT), os.environ.get('PYTHONPATH')) if part)
  return {**os.environ, 'PYTHONPATH': path, **variables}


def reserve_ports(count: int, port: int = 0) -> list[socket.socket]:
  """Bound sockets on free ports. They never listen, and are kept to the end.

  With SO_REUSEPORT a worker of ours can still listen on its port, and nobody else is ever given it: no race between
  finding a port and using it. The workers' side of it is TF_GRPC_REUSE_PORT.

  Args:
    count: how many.
    port: the one to take; 0: any that is free.
  """
  sockets = []
  for _ in range(count):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(('127.0.0.1', port))
    sockets.append(sock)
  return sockets


def worker_environment(addresses: list[str], index: int, gpus: str | None = None) -> dict[str, str]:
  """That of worker `index` of those at some addresses, on ports of `reserve_ports`.

  Args:
    addresses: 'host:port' of each.
    index: which of them.
    gpus: its CUDA_VISIBLE_DEVICES; None: as it is.
  """
  cluster = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
  variables = {'TF_CONFIG': json.dumps(cluster), 'TF_GRPC_REUSE_PORT': 'true', 'PYTHONUNBUFFERED': '1'}
  return environment(**variables, **({} if gpus is None else {'CUDA_VISIBLE_DEVICES': gpus}))


def start(
  argv: list[str], env: dict[str, str], output: int | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
  """Starts a child in a session of its own, so that a terminal's Ctrl-C reaches it through us alone, and once.

  It dies when we do, even by SIGKILL (on Linux). To be called in the main thread, for it is the death of the thread
  that started a child which counts.

  Args:
    argv: the command.
    env: the whole environment.
    output: where stdout and stderr go, e.g. subprocess.PIPE; None: where ours go.
    stdin: where stdin comes from.
  """
  parent = os.getpid()

  def prepare() -> None:
    # A child that does not listen to these yet would die of them: asked to save, when there is nothing to save yet.
    for number in REMARKS:
      signal.signal(number, signal.SIG_IGN)
    if _libc is not None:
      _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
      if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)

  return subprocess.Popen(
    argv,
    env=env,
    stdin=stdin,
    stdout=output,
    stderr=output,
    start_new_session=True,
    preexec_fn=prepare,
  )


def kill(child: subprocess.Popen[bytes]) -> None:
  """SIGKILL to a child's session: to it and to what it has started."""
  with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
    os.killpg(child.pid, signal.SIGKILL)
