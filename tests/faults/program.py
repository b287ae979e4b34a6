"""One attempt of the real trainer, as a process that hurts itself, or a peer, at moments that are named.

Importing TensorFlow takes seconds of CPU, so processes.py forks each attempt from a server that has imported this
module, and with it everything that the trainer needs. Nothing here runs an op at import, so a fork is a process as good
as a fresh one: no thread, no device, no signal handler and no open connection is inherited.

What happens is written to the file `trail`, a line at a time, so that a SIGKILL loses nothing of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request
from multiprocessing import forkserver
from typing import Any, NoReturn

import keras  # noqa: F401  (imported for the forks, as the next two)
import orbax.checkpoint  # noqa: F401
import tensorflow_datasets  # noqa: F401

from tests.faults import tampering
from trainer import main
from trainer.checkpoint import checkpoints
from trainer.modes import train  # noqa: F401  (imported for the forks)
from trainer.runtime import notices, phases, strategy
from trainer.runtime.preemption import Stop

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXIT_NEVER_HEARD = 99
_LONG = 60.0  # seconds to wait for what comes at once
_PR_SET_PDEATHSIG = 1

# What asks a run to stop; the process waits until it has heard, so that it does no step more than it must.
NOTICES = ('SIGTERM', 'SIGINT', 'metadata notice', 'stop file', 'deadline')
# Moments that are the begin of a phase, in the main thread; and those that are a stage of a save, in the save's own.
PHASES = ('restore', 'trace', 'seek', 'compile', 'eval', 'save_block', 'barrier', 'other')
STAGES = {'save, before': 'begun', 'save, after': 'before_marker'}


@dataclasses.dataclass(frozen=True)
class Hit:
  """One fault at one moment.

  Attributes:
    fault: one of those of `Process._do`.
    moment: 'start' (the strategy is about to be made), 'step' (that many have been done), or one of PHASES and STAGES.
    step: at which step; -1: whenever the moment first comes.
    at: the worker whose moment it is.
    to: the worker that the fault is done to; None: the same.
  """

  fault: str
  moment: str
  step: int = -1
  at: int = 0
  to: int | None = None

  @property
  def victim(self) -> int:
    return self.at if self.to is None else self.to

  @property
  def is_early(self) -> bool:
    """Whether the first block of steps has not ended, so that there is nothing new to save."""
    return self.step < 0 and self.moment in ('start', 'restore', 'trace', 'seek', 'compile')


@dataclasses.dataclass(frozen=True)
class Program:
  """What a process is to be.

  Attributes:
    argv: arguments of the trainer.
    env: its whole environment.
    folder: of the attempt, shared by its workers; stdout, stderr, trail and pid of each lie there.
    workdir: of the run.
    data_file: that can be damaged.
    worker: its number.
    hits: those that are at this worker.
    poison: puts what is not finite into a step.
    record: whether to write down which examples each step is trained on.
    static: whether to fail where the shape of a tensor is not known before it is computed.
  """

  argv: tuple[str, ...]
  env: dict[str, str]
  folder: str
  workdir: str
  data_file: str = ''
  worker: int = 0
  hits: tuple[Hit, ...] = ()
  poison: tampering.Poison | None = None
  record: bool = False
  static: bool = False

  def file(self, name: str, worker: int | None = None) -> str:
    return os.path.join(self.folder, f'{name}.{self.worker if worker is None else worker}')


class Process:
  """The hooks of this process. `run` does not return."""

  def __init__(self, program: Program):
    self.program, self.todo = program, list(program.hits)
    self.trail = os.open(program.file('trail'), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    self.heard = threading.Event()
    self.leaving = threading.Event()  # the main thread has left the loop
    self.free = threading.Event()  # cleared: the main thread waits at its next moment
    self.free.set()
    self.notices: Any = None

  def run(self) -> NoReturn:
    program = self.program
    phases.on_phase, checkpoints.on_stage = self._on_phase, self._on_stage
    main.Stop = self._wrap_stop()
    self._wrap_notices()
    create = strategy.create
    strategy.create = lambda *args: (self._reached('start', 0), create(*args))[1]
    if program.poison:
      tampering.poison(program.poison)
    if program.record:
      tampering.record(program.file('examples'))
    if program.static:
      tampering.require_static_shapes()
    with open(program.file('pid'), 'w') as file:
      file.write(str(os.getpid()))
    self._note('process', 'begun', 0)
    sys.argv = ['trainer', *program.argv]
    main.entry()
    raise AssertionError('entry() does not return')

  # -- moments -------------------------------------------------------------------------------------------------------

  def _on_phase(self, name: str, step: int) -> None:
    """In the main thread."""
    self.free.wait()
    self._note('phase', name, step)
    if name == 'save_block' and sys.exception():
      self.leaving.set()
    elif name == 'save_block' and any(
      hit.moment in STAGES and hit.step == step and hit.fault != 'hang' for hit in self.todo
    ):
      # A step takes less time here than a save, as in no real run: how many are done in the meantime is to be known.
      self.free.clear()
    if name in (*PHASES, 'step'):
      self._reached(name, step)

  def _on_stage(self, stage: str) -> None:
    """In the thread of a save, which is named after its step."""
    step = int(threading.current_thread().name.removeprefix('checkpoint-'))
    self._note('stage', stage, step)
    for moment, name in STAGES.items():
      if name == stage:
        self._reached(moment, step)

  def _reached(self, moment: str, step: int) -> None:
    for hit in [hit for hit in self.todo if hit.moment == moment and hit.step in (-1, step)]:
      self.todo.remove(hit)
      self._note('hit', f'{hit.fault} at {hit.moment}', step)
      self._do(hit)

  # -- faults --------------------------------------------------------------------------------------------------------

  def _do(self, hit: Hit) -> None:
    fault = hit.fault
    if threading.current_thread() is threading.main_thread():
      let_saves_end()  # the moments in a save are others
    match fault:
      case 'SIGKILL' | 'SIGTERM' | 'SIGINT' | 'SIGSTOP' | 'SIGUSR1':
        with open(self.program.file('pid', hit.victim)) as file:
          os.kill(int(file.read()), getattr(signal, fault))
        if hit.victim != self.program.worker:
          # In a save: it is held under way until the loss of the peer is known here.
          self.free.set()
          assert self.leaving.wait(_LONG), 'the loss of the peer was never noticed'
      case 'exit':
        os._exit(1)
      case 'stop file':
        pathlib.Path(notices.stop_file(self.program.workdir)).touch()
      case 'metadata notice':
        urllib.request.urlopen(f'http://{os.environ["GCE_METADATA_HOST"]}/preempt', timeout=_LONG).close()
      case 'deadline':
        self._let_time_pass()
      case 'hang':
        threading.Event().wait()
      case 'second SIGINT':
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(_LONG)
      case 'disk full' | 'disk full for good' | 'disk nearly full':
        fill(self.program.workdir, leave=20_000 if fault == 'disk nearly full' else 0)
      case 'disk freed':
        os.unlink(filler(self.program.workdir))
      case 'corrupted TFRecord':
        corrupt(self.program.data_file)
      case 'vanished data file':
        os.rename(self.program.data_file, f'{self.program.data_file}.gone')
      case _:
        raise ValueError(fault)
    if fault in NOTICES and not self.heard.wait(_LONG):
      os._exit(EXIT_NEVER_HEARD)
    self.free.set()

  def _let_time_pass(self) -> None:
    """Moves the start of this process back, so that `faults.max_runtime_seconds` are over but for what is kept."""
    kept = max(self.notices._faults.grace_seconds, 10.0)
    self.notices._started = time.monotonic() - self.notices._faults.max_runtime_seconds + kept

  def _wrap_stop(self) -> type[Stop]:
    heard = self.heard

    class Heard(Stop):
      def request(self, reason: str, *, grace_seconds: float | None = None) -> None:
        super().request(reason, grace_seconds=grace_seconds)
        heard.set()

    return Heard

  def _wrap_notices(self) -> None:
    notices.Notices.FILE_SECONDS = notices.Notices.DEADLINE_SECONDS = 0.02
    begin = notices.Notices.start

    def start(own: Any) -> None:
      self.notices = own
      begin(own)

    notices.Notices.start = start

  def _note(self, kind: str, name: str, step: int) -> None:
    line = {'at': time.monotonic(), 'kind': kind, 'name': name, 'step': step}
    os.write(self.trail, json.dumps(line).encode() + b'\n')


def filler(workdir: str) -> str:
  """The file that fills the disk: beside the work directory, which is to hold nothing foreign."""
  return f'{workdir}.filler'


def fill(workdir: str, leave: int = 0) -> None:
  """Fills the disk that a work directory lies on, but for some bytes."""
  with open(filler(workdir), 'wb', buffering=0) as file, contextlib.suppress(OSError):
    # Writes come back short, and then not at all, when the last page is taken.
    while file.write(bytes(2**16)):
      pass
  if leave:
    os.truncate(filler(workdir), os.path.getsize(filler(workdir)) - leave)


def corrupt(path: str) -> None:
  """Flips a bit in each 100 bytes of a file, so that no record of it is read any more; it stays the same file."""
  with open(path, 'r+b') as file:
    contents = bytearray(file.read())
    contents[50::100] = bytes(byte ^ 1 for byte in contents[50::100])
    file.seek(0)
    file.write(contents)


def let_saves_end() -> None:
  for thread in threading.enumerate():
    if thread.name.startswith('checkpoint-'):
      thread.join(_LONG)


def run(program: Program) -> NoReturn:
  """The body of the forked process: takes on the shape of one that was started by itself."""
  os.close(forkserver._forkserver._forkserver_alive_fd)  # the server ends with the tests, whatever lives on here
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  os.setsid()
  os.chdir(ROOT)
  for number, name in ((0, os.devnull), (1, program.file('stdout')), (2, program.file('stderr'))):
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, number)
    os.close(handle)
  os.environ.clear()
  os.environ.update(program.env)
  Process(program).run()
