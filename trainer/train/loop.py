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

import numpy as np
import tensorflow as tf

from trainer.checkpoint import Checkpoints
from trainer.errors import DivergedError, RunAgain
from trainer.report.reporter import Reporter
from trainer.runtime.preemption import Stop
from trainer.train.session import Session
from trainer.train.step import FACTS, FIXED_SUMS

# A block aims at this length, so that the host costs little and a notice to stop is heard soon.
_BLOCK_SECONDS = 0.5
_LONGEST_BLOCK = 2000


class Loop:
  """One process's share of a run, from the restored step to the last."""

  def __init__(self, session: Session, checkpoints: Checkpoints, reporter: Reporter, stop: Stop):
    self.session, self.config, self.progress = session, session.config, session.state.progress
    self.checkpoints, self.reporter, self.stop = checkpoints, reporter, stop
    self.step = session.train_step()
    self.evaluator = session.evaluator()
    self.total = session.config.train.steps
    self.metric: float | None = None  # of the evaluation at the current step, if there was one
    self.saved_step, self.saved_at = self.progress.step, time.monotonic()
    self.stopping = self.save_asked = False
    # The first block is one step: it holds the compilation, and is not measured.
    self.block_steps, self.step_seconds = 1, 0.0

  def run(self) -> None:
    """Trains to the last step.

    Raises:
      DivergedError: a step was not finite, and the config says to end the run then.
      RunAgain: all processes agreed to stop; the state is saved.
      CheckpointError: saves keep failing, or the last one failed.
    """
    iterator = None
    while True:
      if self._evaluation_is_due():
        self._evaluate()
      if self._save_is_due():
        self._save()
      if self.stopping:
        self.checkpoints.wait()
        raise RunAgain(f'{self.stop.reason or "another worker was told to stop"}; step {self.progress.step} is saved')
      if self.progress.step == self.total:
        self.checkpoints.wait()
        return
      if iterator is None:
        iterator = iter(self.session.pipeline.train(self.session.strategy, self.progress.step))
      self._run_block(iterator)
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
    asked = self.stopping or self.save_asked or step == self.total or self.progress.best_step == step
    return step != self.saved_step and (asked or bool(every and step % every == 0))

  def _save(self) -> None:
    if self.session.cluster.is_chief:
      self.reporter.sync()
      self.checkpoints.save(self.progress.step, self.session.state.snapshot(), self.session.host(), metric=self.metric)
    self.saved_step, self.saved_at, self.save_asked = self.progress.step, time.monotonic(), False

  # -- run -----------------------------------------------------------------------------------------------------------

  def _run_block(self, iterator) -> None:
    steps = min(self.block_steps, self._steps_to_next_event())
    every_seconds = self.config.checkpoint.every_seconds
    save = every_seconds > 0 and time.monotonic() - self.saved_at > every_seconds
    chief = self.session.cluster.is_chief
    control = [self.stop.requested, save and chief, self._wanted_block_steps() if chief else 0]
    started = time.monotonic()
    first = tf.constant(self.progress.step, tf.int64)
    rows = self.step.run(iterator, first, tf.constant(steps), tf.constant(control, tf.float32)).numpy()
    seconds = time.monotonic() - started
    self._take(rows)
    if self.reporter.block(self.progress.step, steps, seconds):
      self.step_seconds = seconds / steps

  def _steps_to_next_event(self) -> int:
    config, step = self.config, self.progress.step
    everies = (config.train.log_every_steps, config.eval.every_steps, config.checkpoint.every_steps)
    return min([self.total - step, *(every - step % every for every in everies if every)])

  def _wanted_block_steps(self) -> int:
    """What this process would make the length of the next block; the chief's wish is everybody's."""
    if self.config.train.steps_per_loop:
      return self.config.train.steps_per_loop
    if not self.step_seconds:
      return 1
    return max(1, min(int(_BLOCK_SECONDS / self.step_seconds), 4 * self.block_steps, _LONGEST_BLOCK))

  def _take(self, rows: np.ndarray) -> None:
    """Takes the rows of a block into the progress; float32 [steps, M]."""
    progress, first = self.progress, self.progress.step + 1
    progress.step += len(rows)
    self.metric = None
    stop, save, block_steps = (rows[-1, FIXED_SUMS.index(name)] for name in ('stop', 'save', 'block_steps'))
    self.stopping, self.save_asked = stop > 0, save > 0
    self.block_steps = int(block_steps) // self.session.cluster.local_devices  # each of the chief's replicas says it
    finite = rows[:, FACTS.index('finite') - len(FACTS)] > 0
    if not finite.all():
      self._not_finite(rows, finite, first)
    rows = rows.astype(np.float64)[finite]
    if len(rows):
      # Added one after another, so that the sum does not depend on where the blocks end.
      window = np.asarray(progress.window or np.zeros(rows.shape[1]))
      progress.window = np.add.accumulate(np.concatenate([window[None], rows]))[-1].tolist()
    progress.window_steps += len(rows)

  def _not_finite(self, rows: np.ndarray, finite: np.ndarray, first: int) -> None:
    """Counts the steps that were not applied, or ends the run."""
    bad = int(np.argmin(finite))
    self.progress.skipped_steps += int((~finite).sum())
    loss_scale = rows[bad, FACTS.index('loss_scale') - len(FACTS)]
    if loss_scale > 1 or self.config.train.on_nonfinite == 'skip':
      return  # a loss scale that was too large is halved; that is how it is found
    loss = rows[bad, FIXED_SUMS.index('loss')] / rows[bad, FIXED_SUMS.index('weight')]
    raise DivergedError(
      f'step {first + bad}: the loss ({loss:g}) or its gradient is not finite; step {self.saved_step} is saved. '
      "Lower optimizer.learning_rate, set optimizer.clip_norm, or skip such steps with train.on_nonfinite='skip'"
    )

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
    if progress.skipped_steps:
      values['skipped_steps'] = progress.skipped_steps
    return {name: float(value) for name, value in values.items()}
