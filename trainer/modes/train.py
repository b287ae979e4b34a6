"""Mode train: from wherever the work directory stands to the last step."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from absl import logging

from trainer.checkpoint import Checkpoints, DamagedCheckpoint
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import EXIT_RUN_AGAIN, ConfigError, RunAgain
from trainer.report import words
from trainer.report.banner import banner
from trainer.report.profiles import Profiler
from trainer.report.reporter import METRICS, TENSORBOARD, Reporter
from trainer.runtime import agreement, cluster
from trainer.runtime.notices import STOP_FILE, Notices
from trainer.runtime.watchdog import Watchdog
from trainer.storage.steps import CHECKPOINTS
from trainer.train import session as session_lib
from trainer.train.guard import BAD_STEPS, Guard
from trainer.train.loop import Loop
from trainer.train.workdir import Workdir

# What a collective raises on the others when a worker has died, left or hung.
_PEER_ERRORS = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
)


def run(command: Any) -> None:
  """Trains, or says that there is nothing left to do.

  Args:
    command: what the command line says (trainer/main.py). Training resumes from the newest checkpoint that is intact.

  Raises:
    ConfigError: a mistake of the user's.
    DivergedError: training diverged.
    RunAgain: all workers stopped before the end, with the state saved; or one was lost, and nothing is saved of the
      step that it may have left half applied.
  """
  config = command.config
  if command.checkpoint != 'latest':
    logging.warning(
      '--checkpoint=%s is for mode eval; training resumes from the newest intact checkpoint', command.checkpoint
    )
  where = cluster.discover(config)
  directory = Workdir(command.workdir, config.storage)
  if directory.is_remote and config.optimizer.shard_state and where.num_workers > 1:
    raise ConfigError(
      'optimizer.shard_state has each worker write a part of a checkpoint into one folder, which a bucket is not: '
      'name a --workdir on a file system that all workers share, or set optimizer.shard_state=False'
    )
  command.closing.callback(directory.close)
  if where.is_chief:
    directory.claim(on_lost=lambda owner: _leave(command, owner))
  else:
    directory.follow(where.worker_index)
  earlier = Checkpoints(directory.file(CHECKPOINTS), remote=directory.steps)
  changed = directory.adopt(config, trained=bool(earlier.steps()), write=where.is_chief)
  before = _newest_host(earlier)
  if before and _is_complete(before['progress'], config.train.steps):
    print(_already_complete(before['progress'], directory))
    return
  if os.path.exists(directory.file(STOP_FILE)):
    raise RunAgain(f'the stop file {directory.shown(STOP_FILE)} is there: remove it to go on')
  notices = Notices(
    command.stop,
    workdir=directory.path,
    faults=config.faults,
    started=command.phases.began,
    is_chief=where.is_chief,
    has_accelerator=where.device_kind != 'cpu',
    stop_file_name=directory.shown(STOP_FILE),
  )
  watchdog = Watchdog(command.phases, config.faults, worker=where.worker_index)
  watchdog.workdir, watchdog.others = directory.path, command.ledger.others
  command.stop.before_exit = watchdog.before_exit = lambda: command.ledger.close(EXIT_RUN_AGAIN)
  if where.is_chief:
    command.ledger.open(directory.path, 0)
  notices.start()
  watchdog.start()
  try:
    _train(command, where, directory, changed, before, notices, watchdog)
  except _PEER_ERRORS as error:
    if where.num_workers == 1:
      raise
    raise RunAgain(
      f'a worker was lost near step {command.phases.current.last}; start all again to go on from the newest checkpoint '
      f'({error.message.splitlines()[0][:120]})'
    ) from error
  finally:
    watchdog.close()
    notices.close()


def _train(
  command: Any, where: cluster.Cluster, directory: Workdir, changed: list[str], before: dict | None, notices: Notices,
  watchdog: Watchdog,
) -> None:  # fmt: skip
  """From the first device to the last step; `before` is what the newest checkpoint holds beside its arrays."""
  config, phases, ledger = command.config, command.phases, command.ledger
  session = session_lib.build(
    config,
    where,
    before['task'] if before else None,
    on_strategy=command.stop.reinstall,
    kept=before.get('precision', {}) if before else None,
    trains=True,
  )
  if not where.is_chief:
    ledger.open(directory.path, where.worker_index)  # the chief has claimed the directory before the workers met
  checkpoints = session.checkpoints(
    directory.file(CHECKPOINTS),
    keep=config.checkpoint.keep,
    keep_best=config.checkpoint.keep_best,
    remote=directory.steps,
  )
  phases.enter('restore')
  if where.is_chief:
    checkpoints.clean()
  restored = session.restore_newest(checkpoints)
  if restored < 0 and (damaged := checkpoints.damaged()):
    raise ConfigError(
      f'no checkpoint is intact; the damaged ones are in {damaged}. To begin again at step 0, choose another --workdir'
    )
  if restored > config.train.steps:
    raise ConfigError(f'train.steps={config.train.steps} is less than the {restored} steps already done: raise it')
  first_weights = session.warm_start() if restored < 0 and config.init_from.path else None
  restored = max(restored, 0)
  ledger.resumed(restored)
  phases.enter('build', restored)
  reporter = Reporter(
    directory, session, ledger, restored=restored, changed=changed, started=phases.began, first_weights=first_weights
  )
  watchdog.saving = lambda: checkpoints.saving_for() is not None
  notices.save_seconds = lambda: checkpoints.save_seconds or 0.0
  guard = Guard(session, directory.file(BAD_STEPS))
  profiler = Profiler(
    directory.file(TENSORBOARD), config.profile, phases, workdir=directory.path if where.is_chief else '',
    asked=command.stop.take_profile_request,
  )  # fmt: skip
  try:
    _to_the_end(Loop(session, checkpoints, reporter, guard, command.stop, phases, watchdog, profiler), phases)
  except _PEER_ERRORS:
    checkpoints.give_up()
    raise
  except DATA_ERRORS as error:
    fault = session.pipeline.corrupt(error)
    if fault is error and where.num_workers > 1:  # a collective hands on what another worker met
      raise RunAgain(f'another worker met an error: {str(error).splitlines()[0][:120]}') from error
    raise fault from error
  finally:
    phases.enter('save_block')
    checkpoints.close()
    phases.enter('other')
    profiler.close()
    reporter.close()


def _leave(command: Any, owner: str) -> None:
  """Ends the process: another has taken over the run, and nothing of ours counts any more."""
  logging.error('%s has taken over --workdir=%s: this process ends', owner, command.workdir)
  command.ledger.close(EXIT_RUN_AGAIN)
  os._exit(EXIT_RUN_AGAIN)


def _to_the_end(loop: Loop, phases: Any) -> None:
  """Runs the loop; nobody leaves before the chief has saved, or a launcher would take it for a failure."""
  stopped: RunAgain | None = None
  try:
    loop.run()
  except RunAgain as error:
    stopped = error
  phases.enter('barrier')
  try:
    agreement.all_true(loop.session.strategy, loop.session.cluster, True)
  except _PEER_ERRORS:
    if stopped is None:
      raise
  if stopped is not None:
    raise stopped


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
      ('metrics', directory.shown(METRICS)),
      ('checkpoints', directory.shown(CHECKPOINTS)),
      ('tensorboard', directory.shown(TENSORBOARD)),
    ],
    title='Training is complete; there is nothing left to do.',
  )
