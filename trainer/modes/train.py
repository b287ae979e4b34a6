"""Mode train: from wherever the work directory stands to the last step."""

from __future__ import annotations

import time

from trainer.checkpoint import Checkpoints
from trainer.report.banner import banner
from trainer.report.reporter import Reporter
from trainer.runtime import agreement, cluster
from trainer.runtime.preemption import Stop
from trainer.train import session as session_lib
from trainer.train.loop import Loop
from trainer.train.workdir import CHECKPOINTS, Workdir


def run(config, workdir: str, checkpoint: str) -> None:
  """Trains, or says that there is nothing left to do.

  Raises:
    ConfigError, DivergedError, RunAgain: as their docstrings say; main turns them into exit codes.
  """
  started = time.monotonic()
  where = cluster.discover(config)
  directory = Workdir(workdir)
  if where.is_chief:
    directory.claim()
  earlier = Checkpoints(directory.file(CHECKPOINTS), keep=1, keep_best=0, best_mode='max', writer=False)
  changed = directory.adopt(config, trained=bool(earlier.steps()), write=where.is_chief)
  if finished := _finished(config, earlier):
    print(finished.format(workdir=directory.path))
    return
  session = session_lib.build(config, where)
  checkpoints = Checkpoints(
    directory.file(CHECKPOINTS),
    keep=config.checkpoint.keep,
    keep_best=config.checkpoint.keep_best,
    best_mode=session.best_mode,
    writer=where.is_chief,
  )
  if where.is_chief:
    checkpoints.clean()
  restored = session.restore_newest(checkpoints)
  reporter = Reporter(directory, session, restored)
