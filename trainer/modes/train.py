"""Mode train: from wherever the work directory stands to the last step."""

from __future__ import annotations

import time

import tensorflow as tf
from absl import logging

from trainer.checkpoint import Checkpoints, DamagedCheckpoint
from trainer.errors import ConfigError, RunAgain
from trainer.report import words
from trainer.report.banner import banner
from trainer.report.reporter import CHECKPOINTS, METRICS, TENSORBOARD, Reporter
from trainer.runtime import agreement, cluster
from trainer.runtime.preemption import Stop
from trainer.train import session as session_lib
from trainer.train.loop import Loop
from trainer.train.workdir import Workdir

# What a collective raises on the others when a worker has died, left or hung.
_PEER_ERRORS = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
)


def run(config, workdir: str, checkpoint: str) -> None:
  """Trains, or says that there is nothing left to do.

  Args:
    config: checked.
    workdir: the directory of the run, created if need be.
    checkpoint: of other modes; training resumes from the newest one that is intact.

  Raises:
    ConfigError: a mistake of the user's.
    DivergedError: training diverged.
    RunAgain: all workers stopped before the end, with the state saved; or one was lost, and nothing is saved of the
      step that it may have left half applied.
  """
  if checkpoint != 'latest':
    logging.warning('--checkpoint=%s is for mode eval; training resumes from the newest intact checkpoint', checkpoint)
  started = time.monotonic()
  where = cluster.discover(config)
  directory = Workdir(workdir)
  if where.is_chief:
    directory.claim()
  earlier = Checkpoints(directory.file(CHECKPOINTS), keep=1, keep_best=0, best_mode='max', writer=False)
  steps = earlier.steps()
  changed = directory.adopt(config, trained=bool(steps), write=where.is_chief)
  before = _newest_host(earlier)
  if before and _is_complete(before['progress'], config.train.steps):
    print(_already_complete(before['progress'], directory))
    return
  session = session_lib.build(config, where, before['task'] if before else None)
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
  if not restored and (damaged := checkpoints.damaged()):
    raise ConfigError(
      f'no checkpoint is intact; the damaged ones are in {damaged}. To begin again at step 0, choose another --workdir'
    )
  if restored > config.train.steps:
    raise ConfigError(f'train.steps={config.train.steps} is less than the {restored} steps already done: raise it')
  reporter = Reporter(directory, session, restored=restored, changed=changed, started=started)
  stop = Stop()
  stop.install()
  try:
    Loop(session, checkpoints, reporter, stop).run()
    agreement.all_true(session.strategy, where, True)  # nobody leaves before the chief has saved
  except tf.errors.DataLossError as error:
    raise session.pipeline.corrupt(error) from error
  except _PEER_ERRORS as error:
    if where.num_workers == 1:
      raise
    raise RunAgain(
      f'a worker was lost near step {session.state.progress.step}; start all again to go on from the newest checkpoint '
      f'({error.message.splitlines()[0][:120]})'
    ) from error
  finally:
    checkpoints.close()
    reporter.close()


def _newest_host(checkpoints: Checkpoints) -> dict | None:
  """What the newest step whose manifest can be read was saved with, beside its arrays; they are verified later."""
  for step in reversed(checkpoints.steps()):
    try:
      return checkpoints.host(step)
    except DamagedCheckpoint:
      continue
  return None


def _is_complete(progress: dict, total: int) -> bool:
  return progress['step'] >= total and progress['evaluated_step'] == progress['step']


def _already_complete(progress: dict, directory: Workdir) -> str:
  best = (
    f'{words.value(progress["best_value"])} at step {progress["best_step"]:,}' if progress['best_step'] >= 0 else ''
  )
  return banner(
    [
      ('steps', f'{progress["step"]:,}; for more, raise train.steps'),
      ('best', best),
      ('metrics', directory.file(METRICS)),
      ('checkpoints', directory.file(CHECKPOINTS)),
      ('tensorboard', directory.file(TENSORBOARD)),
    ],
    title='Training is complete; there is nothing left to do.',
  )
