"""Attempts at a run: its command, where it is made, and by how many processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import threading
from typing import Any

from tests.faults import processes
from tests.faults.processes import Ended
from tests.faults.program import Hit, Program
from tests.faults.tampering import Poison
from tests.runtime.programs.metadata_server import PREEMPTED, Metadata
from trainer.checkpoint import Checkpoints
from trainer.report.metrics import TIMES

STEPS, SAVES, EVALS = 60, 10, 20
RUN = (
  '--config=configs/digits_mlp.py', '--config.model.hidden=(16,)', '--config.precision.policy=float32',
  '--config.optimizer.warmup_steps=10', f'--config.train.steps={STEPS}', '--config.train.log_every_steps=5',
  '--config.train.steps_per_loop=1', f'--config.eval.every_steps={EVALS}',
  f'--config.checkpoint.every_steps={SAVES}', '--config.checkpoint.every_seconds=0', '--config.faults.metadata_host=',
  '--config.faults.max_runtime_seconds=3600',
)  # fmt: skip

# Topology -> (number of processes, arguments).
TOPOLOGIES: dict[str, tuple[int, tuple[str, ...]]] = {
  'one device': (1, ()),
  'two devices': (1, ('--config.cluster.cpu_devices=2',)),
  'four devices': (1, ('--config.cluster.cpu_devices=4',)),
  'two workers': (2, ('--config.faults.heartbeat_timeout_seconds=5',)),
}
# A worker that is silent for this long counts as lost, and what the others need after that to be gone.
HEARTBEAT_SECONDS, LEAVE_SECONDS = 5.0, 6.0
# Where the others may have to wait for one who never comes.
START_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Link:
  """One attempt of a chain.

  Attributes:
    hits: what happens in it, in this order; the last one may end it.
    code: exit code of the worker that it ends, or of all.
    before: what happens to the files before it: one of BEFORE in chains.py, or ''.
    says: regular expression for what must be on stderr of a worker.
    args: arguments of the trainer for this attempt only.
    also: further cells (fault, moment) of the matrix that this attempt is, beside its hits.
    poison: of this attempt.
  """

  hits: tuple[Hit, ...] = ()
  code: int = 0
  before: str = ''
  says: str = ''
  args: tuple[str, ...] = ()
  also: tuple[tuple[str, str], ...] = ()
  poison: Poison | None = None

  @property
  def cells(self) -> list[tuple[str, str]]:
    """(fault, moment) of each cell of the matrix that this attempt is."""
    hits = self.hits[-1:] if self.code else self.hits
    found = [(hit.fault, hit.moment) for hit in hits if hit.fault != 'disk freed']
    return [*found, *self.also]


class Machine(Metadata):
  """A metadata server that is told by the machine itself when it is to be preempted."""

  def answer(self, request):
    if request.path == 'preempt':
      self.set(PREEMPTED, 'TRUE')
      return 200, '', ''
    return super().answer(request)

  @classmethod
  @contextlib.contextmanager
  def running(cls):
    machine = cls()
    thread = threading.Thread(target=machine.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
      yield machine
    finally:
      machine.end()
      thread.join()


class Site:
  """Where attempts of one topology are made.

  Attributes:
    workdir: of the run.
  """

  def __init__(
    self, topology: str, folder: pathlib.Path, data_dir: str, *args: str, workdir: pathlib.Path | None = None,
    run: tuple[str, ...] = RUN, data_file: str = '', record: bool = False,
    static: bool = False,
  ):  # fmt: skip
    """Args:
    topology: one of TOPOLOGIES.
    folder: for what the attempts leave beside the work directory.
    data_dir: of TFDS.
    *args: further arguments of the trainer.
    workdir: of the run; None: one in `folder`.
    run: the first arguments of the trainer.
    data_file: one of the data, which can be damaged.
    record: whether to write down which examples each step is trained on.
    static: whether to fail where the shape of a tensor is not known before it is computed.
    """
    self.topology, self.folder, self.data_dir, self.args = topology, folder, data_dir, (*run, *args)
    self.workers, self._shape = TOPOLOGIES[topology]
    self.workdir = workdir or folder / 'run'
    self.data_file, self.record, self.static = data_file, record, static
    self._attempts = 0

  def attempt(self, link: Link | None = None) -> list[Ended]:
    """Makes one attempt; returns what is left of its workers."""
    link = link or Link()
    self._attempts += 1
    folder = self.folder / f'attempt{self._attempts}'
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
      machines = {}
      if any(hit.fault == 'metadata notice' for hit in link.hits):
        machines = {worker: stack.enter_context(Machine.running()) for worker in range(self.workers)}
      ports = stack.enter_context(processes.reserved_ports(self.workers))
      argv = (*self.args, f'--config.data.data_dir={self.data_dir}', *self._shape, *link.args)
      if machines:
        argv = (*argv, '--config.faults.metadata_host=auto')
      programs = []
      for worker in range(self.workers):
        env = {**os.environ, **processes.cluster(ports, worker)}
        if machines:
          env['GCE_METADATA_HOST'] = machines[worker].host
        programs.append(
          Program(
            (*argv, f'--workdir={self.workdir}'),
            env,
            folder=str(folder),
            workdir=str(self.workdir),
            data_file=self.data_file,
            worker=worker,
            hits=tuple(hit for hit in link.hits if hit.at == worker),
            poison=link.poison,
            record=self.record,
            static=self.static,
          )
        )
      return processes.run(programs)

  def checkpoints(self) -> Checkpoints:
    return Checkpoints(str(self.workdir / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=False)

  def newest(self) -> int:
    """The newest complete step; 0 if there is none."""
    return max(self.checkpoints().steps(), default=0)

  def rows(self) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the moment."""
    rows = [json.loads(line) for line in (self.workdir / 'metrics.jsonl').read_text().splitlines()]
    assert len({(row['split'], row['step']) for row in rows}) == len(rows), 'two rows for one split and step'
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
