"""The workers of one attempt, wherever they run: what scripts/launch_local, launch_ssh and slurm_job have in common."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import BinaryIO

import children
import restarts

# Of what workers end with, these say most, in this order: a mistake of the user's, diverged, run me again.
PRECEDENCE = (2, 3, 75)
# How scripts/ssh_worker tells scripts/launch_ssh which port it keeps for its worker.
PORT = 'launch_ssh keeps port '


class Worker:
  """A worker that is a child of ours.

  Attributes:
    name: as its lines begin, and as it is spoken of.
    process: the child.
  """

  def __init__(self, name: str, process: subprocess.Popen[bytes]):
    self.name, self.process = name, process

  def signal(self, number: int) -> None:
    """Hands a signal on; a worker that has ended is left alone."""
    self.process.send_signal(number)

  def kill(self) -> None:
    children.kill(self.process)


def attend(name: str, workers: list[Worker], events: children.Events, grace_seconds: float) -> int:
  """Sees workers, just started with pipes for their output, to their end. Returns the attempt's code, -N for signal N.

  Args:
    name: of the script, for what it says.
    workers: all of them.
    events: of this process.
    grace_seconds: for the others to end by themselves when one has failed.
  """
  readers = [
    threading.Thread(target=copy, args=(f'[{worker.name}] '.encode(), source, sink), daemon=True)
    for worker in workers
    for source, sink in (
      (worker.process.stdout, sys.stdout.buffer),
      (worker.process.stderr, sys.stderr.buffer),
    )
  ]
  for thread in readers:
    thread.start()
  for worker in workers:
    events.watch(worker.process)
  killed = supervise(name, workers, events, grace_seconds)
  for thread in readers:
    thread.join(timeout=5)  # a child of a worker that lives on may hold its output open
  return outcome([worker.process.returncode for index, worker in enumerate(workers) if index not in killed])


def copy(prefix: bytes, source: BinaryIO, sink: BinaryIO) -> None:
  """Copies lines as they come, each in one write."""
  for line in source:
    sink.write(prefix + line.rstrip(b'\r\n') + b'\n')
    sink.flush()


def supervise(name: str, workers: list[Worker], events: children.Events, grace_seconds: float) -> set[int]:
  """Waits until all workers have ended, handing signals on. Returns those that had to be killed."""
  running = set(range(len(workers)))
  killed: set[int] = set()
  deadline = None
  while running:
    try:
      kind, value = events.next(deadline)
    except TimeoutError:
      left = ', '.join(workers[index].name for index in sorted(running))
      print(f'{name}: killing {left}, {grace_seconds:g} s after the first failure', file=sys.stderr)
      killed, deadline = set(running), None
      for index in running:
        workers[index].kill()
      continue
    if kind == 'signal':
      for index in running:
        workers[index].signal(value)
      continue
    index = next(index for index, worker in enumerate(workers) if worker.process is value)
    running.discard(index)
    if value.returncode and running and deadline is None and not killed:
      print(f'{name}: {workers[index].name} ended with {restarts.describe(value.returncode)}', file=sys.stderr)
      deadline = time.monotonic() + grace_seconds
  return killed


def outcome(codes: list[int]) -> int:
  """The code that says most of those that the workers ended with, -N for signal N."""
  return next((code for code in PRECEDENCE if code in codes), max(codes, key=restarts.exit_code))
