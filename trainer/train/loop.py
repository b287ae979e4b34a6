"""The order of events of a training run. Do not change the order: resuming bit-exactly rests on it.

  restore -> [ evaluate if due -> save if due -> stop if agreed -> run the next block of steps -> log ]

A block ends at the next multiple of any `every_steps`, so its length never changes what is computed. All processes go
through the same events at the same steps: whatever one of them alone knows (a signal, the clock) travels in the row
of a step, which is reduced over the replicas (trainer/train/step.py). A stop that is agreed skips the evaluation that
is due; the resumed run does it first.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer.checkpoint import CheckpointError, Checkpoints
from trainer.errors import ConfigError, RunAgain
from trainer.report import words
from trainer.report.profiles import Profiler
from trainer.report.reporter import Reporter
from trainer.runtime.phases import Phases
from trainer.runtime.preemption import Stop
from trainer.runtime.watchdog import Watchdog
from trainer.train.guard import Guard
from trainer.train.session import Session
from trainer.train.state import Progress
from trainer.train.statistics import Statistics
from trainer.train.step import FACTS, FIXED_SUMS, Rows

# A block aims at this length, so that the host costs little and a notice to stop is heard soon.
_BLOCK_SECONDS = 0.5
_LONGEST_BLOCK = 2000


class Loop:
  """One process's share of a run, from the restored step to the last."""

  def __init__(
    self,
    session: Session,
    checkpoints: Checkpoints,
    reporter: Reporter,
    guard: Guard,
    stop: Stop,
    phases: Phases,
    watchdog: Watchdog,
    profiler: Profiler,
  ):
    self.session, self.config, self.checkpoints, self.reporter = session, session.config, checkpoints, reporter
    self.guard, self.stop, self.phases, self.watchdog, self.profiler = guard, stop, phases, watchdog, profiler
    self.step = session.train_step()
    self.evaluator = session.evaluator()
    self.statistics = Statistics(session, self.evaluator) if self.config.eval.statistics else None
    self.rows: Rows | None = None  # of the last block
    self.total = session.config.train.steps
    self.metric: float | None = None  # of the evaluation at the current step, if there was one
    self.saved_step, self.saved_at = self.progress.step, time.monotonic()
    # A run that may have to go back needs a checkpoint of its start. All processes must want it, or none.
    self.save_asked = self.guard.rolls_back and self.progress.step == 0
    if self.save_asked:
      self.saved_step = -1
    self.stopping = False
    self.iterator: Any = None
    self.compiled = False
    # The first block is one step: it holds the compilation, and is not measured.
    self.block_steps, self.step_seconds = 1, 0.0
    self.blocks_began = (time.monotonic(), time.monotonic())  # the block before, and the one under way

  @property
  def progress(self) -> Progress:
    """Of the state as it is now; restoring a checkpoint replaces it."""
    return self.session.state.progress

  def run(self) -> None:
    """Trains to the last step.

    Raises:
      DivergedError: a step was not finite or a spike, and the config says to end the run then.
      RunAgain: all processes agreed to stop; the state is saved as far as it could be.
      CheckpointError: saves keep failing, or the last one failed.
    """
    while True:
      if self._evaluation_is_due():
        self.phases.enter('eval')
        self._evaluate()
      if self._save_is_due():
        self.phases.enter('save_block')
        self._save()
      if self.stopping:
        self.phases.enter('save_block')
        self._leave()
      if self.progress.step == self.total:
        self.phases.enter('save_block')
        self.checkpoints.wait()
        return
      if self._is_at_pause():
        self.phases.enter('save_block')
        self.checkpoints.wait()
        pause, step = self.config.train.pause_at_step, self.progress.step
        raise RunAgain(f'train.pause_at_step={pause} is reached; step {step} is saved; leave it out to go on')
      if self.iterator is None:
        if not self.compiled:
          self.phases.enter('trace')
          self.step.trace(iter(self.session.pipeline.empty(self.session.strategy)))
        self.phases.enter('seek')
        first_batch = self.progress.step + self.progress.skipped_batches
        self.iterator = iter(self.session.pipeline.train(self.session.strategy, first_batch))
      self._run_block()
      self._log_if_due()

  # -- evaluate ------------------------------------------------------------------------------------------------------

  def _evaluation_is_due(self) -> bool:
    step, every = self.progress.step, self.config.eval.every_steps
    due = step == self.total or bool(every and step and step % every == 0)
    return due and not self.stopping and self.progress.evaluated_step != step

  def _evaluate(self) -> None:
    step, name = self.progress.step, self.session.best_metric
    results = self.evaluator.evaluate()
    self.reporter.evaluated(step, results)
    if self.statistics:
      self.reporter.statistics(step, self.statistics.take(self.rows))
    if count := self.config.eval.pictures:
      self.reporter.drawn(step, self.evaluator.pictures(count))
    self.progress.evaluated_step = step
    if name:
      self.metric = results[name]
      if self.progress.best_step < 0 or self._better(self.metric, self.progress.best_value):
        self.progress.best_step, self.progress.best_value = step, self.metric
    if step == self.saved_step:
      self.saved_step = -1  # it was saved at a stop, before it was evaluated: save it again, with what is new

  def _better(self, value: float, best: float) -> bool:
    return value > best if self.session.best_mode == 'max' else value < best

  # -- save ----------------------------------------------------------------------------------------------------------

  def _save_is_due(self) -> bool:
    step, every = self.progress.step, self.config.checkpoint.every_steps
    asked = self.stopping or self.save_asked or step == self.total or self._is_at_pause()
    asked = asked or (step > 0 and self.progress.best_step == step)
    return step != self.saved_step and (asked or bool(every and step and step % every == 0))

  def _save(self) -> None:
    token = self._begin() if self.session.cluster.is_chief else 0
    self.session.save(self.checkpoints, token, self.metric)
    self.saved_step, self.saved_at, self.save_asked = self.progress.step, time.monotonic(), False

  def _is_at_pause(self) -> bool:
    return 0 < self.config.train.pause_at_step <= self.progress.step < self.total

  def _begin(self) -> int:
    """The chief's word on a save that is due: its token, or 0 for none."""
    if self.stopping and not self._fits_before_the_end():
      return 0
    try:
      self.reporter.sync()
      return self.checkpoints.begin(self.progress.step, self.session.state.sizes, metric=self.metric)
    except ConfigError as error:  # a checkpoint must not be newer than the rows of metrics before it
      self.checkpoints.refused(self.progress.step, error)
    except CheckpointError:
      if not self.stopping:
        raise
    return 0  # where it stops, `_leave` says what is saved, and what is not

  def _fits_before_the_end(self) -> bool:
    """Whether to begin a save though this machine will be taken away soon.

    A save that is cut short costs nothing: what was complete stays so. But one that is under way already must not be
    given up for a newer one that cannot be completed.
    """
    typical, running = self.checkpoints.save_seconds, self.checkpoints.saving_for()
    if typical is None:
      return True
    left = self.stop.grace_left(self.config.faults.grace_seconds)
    if left is None:
      # A notice to another worker: it came before the block that carried it here, and after the one before that.
      left = self.config.faults.grace_seconds - (time.monotonic() - self.blocks_began[0])
    needed = typical + (0.0 if running is None else max(0.0, typical - running))
    if needed <= left:
      return True
    logging.warning(
      'a save takes %s, %s of grace are left%s (faults.grace_seconds, checkpoint.every_seconds)',
      *(words.duration(typical), words.duration(max(0.0, left))),
      ': it is tried' if running is None else ', and one is under way: only that one is completed',
    )
    return running is None

  def _leave(self) -> None:
    """Ends the attempt, once the save under way has ended."""
    reason, step = self.stop.reason or 'another worker was told to stop', self.progress.step
    if not self.session.cluster.is_chief:
      raise RunAgain(f'{reason}; step {step} is for the chief to save')
    try:
      self.checkpoints.wait()
    except CheckpointError as error:
      logging.error('%s', error)
    newest = max(self.checkpoints.steps(), default=0)
    saved = f'step {step} is saved' if newest == step else f'step {step} is not saved, step {newest} is'
    raise RunAgain(f'{reason}; {saved}')

  # -- run -----------------------------------------------------------------------------------------------------------

  def _run_block(self) -> None:
    steps = min(self.block_steps, self._steps_to_next_event())
    every_seconds = self.config.checkpoint.every_seconds
    chief = self.session.cluster.is_chief
    save = chief and every_seconds > 0 and time.monotonic() - self.saved_at > every_seconds
    save = self.stop.take_save_request() or save
    control = [self.stop.requested, save, self._wanted_block_steps() if chief else 0]
    self.phases.enter('step' if self.compiled else 'compile')
    self.watchdog.block(steps)
    traced = self.profiler.before(self.progress.step, steps)
    started = time.monotonic()
    self.blocks_began = self.blocks_began[1], started
    first = tf.constant(self.progress.step, tf.int64)
    rows, waited = self.step.run(self.iterator, first, tf.constant(steps), tf.constant(control, tf.float32))
    self.rows = rows = self.step.split(rows.numpy())
    seconds = time.monotonic() - started
    self.compiled, self.stop.at_once = True, False  # from now on there is something to save
    rollback = self._take(rows)
    self.phases.progress(self.progress.step, seconds, float(waited.numpy()))
    counts = self.reporter.block(self.progress.step, steps, seconds, traced=traced)
    self.profiler.after(self.progress.step, steps, seconds, counts)
    if counts:
      self.step_seconds = seconds / steps
      self.watchdog.measured(self.step_seconds)
    if rollback is not None:
      self._roll_back(rollback)

  def _steps_to_next_event(self) -> int:
    config, step = self.config, self.progress.step
    everies = (config.train.log_every_steps, config.eval.every_steps, config.checkpoint.every_steps)
    pause = config.train.pause_at_step
    ends = [self.total, *([pause] if pause > step else [])]
    return min([*(end - step for end in ends), *(every - step % every for every in everies if every)])

  def _wanted_block_steps(self) -> int:
    """What this process would make the length of the next block; the chief's wish is everybody's."""
    if self.config.train.steps_per_loop:
      return self.config.train.steps_per_loop
    if not self.step_seconds:
      return 1
    return max(1, min(int(_BLOCK_SECONDS / self.step_seconds), 4 * self.block_steps, _LONGEST_BLOCK))

  def _take(self, rows: Rows) -> int | None:
    """Takes the rows of a block into the progress; returns the step for which to roll back, or None."""
    progress, first = self.progress, self.progress.step + 1
    progress.step += len(rows.main)
    self.metric = None
    stop, save, block_steps = (rows.sum(name)[-1] for name in ('stop', 'save', 'block_steps'))
    self.stopping, self.save_asked = bool(stop > 0), bool(save > 0)
    self.block_steps = int(block_steps) // self.session.cluster.local_devices  # each of the chief's replicas says it
    applied, rollback = self.guard.judge(rows, first)
    main = rows.main.astype(np.float64)[applied]
    if len(main):
      # Added one after another, so that the sum does not depend on where the blocks end.
      window = np.asarray(progress.window or np.zeros(main.shape[1]))
      progress.window = np.add.accumulate(np.concatenate([window[None], main]))[-1].tolist()
    progress.window_steps += len(main)
    return rollback

  def _roll_back(self, bad: int) -> None:
    """Restores the last checkpoint, and leaves out the batches from there to that of the bad step."""
    self.phases.enter('restore')
    before = self.progress
    restored = self.session.restore_newest(self.checkpoints)
    if restored < 0:
      raise CheckpointError(f'step {bad} is to be rolled back, but there is no checkpoint that is intact')
    self.progress.rollbacks = before.rollbacks + 1
    self.progress.skipped_batches = before.skipped_batches + bad - restored
    self.phases.enter('restore', restored)
    self.reporter.rewind(restored)
    # Saved again, so that a kill does not make it forget the rollback; of the same rank as before.
    self.metric, self.saved_step, self.save_asked = self.checkpoints.metric(restored), -1, True
    self.iterator = None

  # -- log -----------------------------------------------------------------------------------------------------------

  def _log_if_due(self) -> None:
    progress = self.progress
    if progress.step % self.config.train.log_every_steps and progress.step != self.total:
      return
    if progress.window_steps:
      self.reporter.trained(progress.step, self._window_values())
    progress.window, progress.window_steps = [], 0

  def _window_values(self) -> dict[str, float]:
    """Means over the steps since the last row; a learning rate and a loss scale are means too."""
    window, progress = np.asarray(self.progress.window), self.progress
    sums = dict(zip(FIXED_SUMS, window, strict=False))
    facts = dict(zip(FACTS, window[-len(FACTS) :] / progress.window_steps, strict=True))
    values = {'loss': sums['loss'] / sums['weight'] if sums['weight'] else math.nan}
    if sums['regularization']:
      values['regularization'] = sums['regularization'] / sums['weight']
    values |= self.session.task.metric_results(window[len(FIXED_SUMS) : -len(FACTS)])
    values |= {'gradient_norm': facts['gradient_norm'], 'learning_rate': facts['learning_rate']}
    if self.step.scaled:
      values['loss_scale'] = facts['loss_scale']
    for name in ('overflowed_steps', 'skipped_steps', 'rollbacks'):
      if getattr(progress, name):
        values[name] = getattr(progress, name)
    return {name: float(value) for name, value in values.items()}
