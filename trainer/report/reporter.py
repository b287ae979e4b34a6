"""What a training run says as it goes: one object that the loop tells what has happened.

Every process has one; only the chief's prints and writes. Nothing here waits for a device: all that comes in is on the
host already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from trainer.errors import ConfigError, RunAgain
from trainer.report import goodput, run_record, words
from trainer.report.banner import banner, first_weights, summary
from trainer.report.ledger import Ledger
from trainer.report.metrics import MetricsFile
from trainer.report.progress import Progress
from trainer.report.tensorboard import TensorBoard
from trainer.report.throughput import Throughput
from trainer.storage.steps import CHECKPOINTS

METRICS, RUN, TENSORBOARD = 'metrics.jsonl', 'run.json', 'tensorboard'


class Reporter:
  """The reports of one attempt."""

  def __init__(
    self,
    directory: Any,
    session: Any,
    ledger: Ledger,
    *,
    restored: int,
    changed: Sequence[str] = (),
    started: float,
    first_weights: Mapping[str, Any] | None = None,
  ):
    """Takes back the rows of steps that will be done again, records the attempt and prints the banner.

    Args:
      directory: the work directory (trainer/train/workdir.py).
      session: the parts of the run (trainer/train/session.py).
      ledger: where the time goes, open.
      restored: the step that was restored; 0 if none was.
      changed: one line per config field that differs from the attempt before.
      started: `time.monotonic()` at the start of the attempt.
      first_weights: where the run begins with others than random ones, what was set (trainer/checkpoint/warm_start.py).

    Raises:
      ConfigError: a file in the work directory cannot be written to.
    """
    self._directory, self._session, self._ledger = directory, session, ledger
    self._started, self._restored, self._first_weights = started, restored, first_weights
    self._chief = session.cluster.is_chief
    self._throughput = Throughput(session.config.train.global_batch_size)
    self._train: Mapping[str, Any] = {}
    self._evaluation: Mapping[str, Any] = {}
    self._unwritten: list[tuple[int, str, dict[str, Any], float]] = []  # rows that the disk did not take yet
    self._metrics = MetricsFile(directory.file(METRICS), writer=self._chief)
    self._metrics.drop_after(restored)
    self._tensorboard = TensorBoard(directory.file(TENSORBOARD), writer=self._chief, first_step=restored + 1)
    self._progress = Progress(restored, session.config.train.steps)
    if self._chief:
      run_record.append(directory.file(RUN), self._record())
      self._say(banner(self._facts(changed)))

  def block(self, step: int, steps: int, seconds: float, *, traced: bool = False) -> bool:
    """A block of steps has ended; returns whether its duration is a measurement (trainer/report/throughput.py).

    Args:
      step: steps done.
      steps: steps of the block.
      seconds: its duration, devices idle at both ends.
      traced: whether a trace was made of it.
    """
    counts = self._throughput.add(steps, seconds, traced=traced)
    if self._chief:
      self._progress.block(step, self._throughput.window)
    return counts

  def trained(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes a row of split 'train': the values, and the rate since the last row."""
    rate = self._throughput.take_window()
    if not self._chief:
      return
    self._train = values
    speed = {'examples_per_second': rate.examples_per_second, 'step_milliseconds': rate.step_milliseconds}
    self._write(step, 'train', {**values, **speed})
    self._progress.row(step, loss=values.get('loss'), learning_rate=values.get('learning_rate'), rate=rate)

  def evaluated(self, step: int, results: Mapping[str, Any]) -> None:
    """Writes a row of split 'eval' and prints it."""
    if not self._chief:
      return
    self._evaluation = results
    self._write(step, 'eval', results)
    self._progress.print(f'evaluation at step {step:,}: {words.values(results)}')

  def statistics(self, step: int, values: Mapping[str, float]) -> None:
    """Shows numbers of the model's blocks (trainer/train/statistics.py) in TensorBoard."""
    try:
      self._tensorboard.write(step, 'blocks', values)
    except ConfigError as error:
      logging.error('%s; training goes on', error)

  def drawn(self, step: int, examples: Sequence[Any]) -> None:
    """Shows predictions of the evaluation split (trainer/train/evaluate.py, Predicted) in TensorBoard."""
    if not self._chief:
      return
    task = self._session.task
    for each in examples:
      parts = [*task.look(each.example), *task.draw(each.example, each.prediction)]
      try:
        self._tensorboard.show(step, 'eval', f'example {each.index}', parts)
      except ConfigError as error:
        logging.error('%s; training goes on', error)
        return

  def rewind(self, step: int) -> None:
    """Takes back the rows of later steps: the run has gone back to a checkpoint, and does them again."""
    self._ledger.resumed(step)
    self._unwritten = [row for row in self._unwritten if row[0] <= step]
    self._metrics.drop_after(step)
    self._throughput.take_window()
    if self._chief:
      self._progress.rewind(step)

  def sync(self) -> None:
    """Returns when all rows are on the disk: a checkpoint must not be newer than the rows before it.

    Raises:
      ConfigError: they cannot be written.
    """
    self._write_waiting()
    self._metrics.sync()
    self._tensorboard.sync()

  def close(self) -> None:
    """Ends the progress line, closes the files, and prints the summary.

    For a `finally` clause: an exception that ends the attempt, other than RunAgain, is left to speak for itself.
    """
    error = sys.exception()
    self._progress.close()
    for last in (self._write_waiting, self._metrics.close, self._tensorboard.close):
      try:
        last()
      except ConfigError as unwritable:
        logging.error('%s', unwritable)
    if self._chief and (error is None or isinstance(error, RunAgain)):
      self._say(self._summary())

  def _write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
    """Writes a row; one that the disk does not take is reported at once, kept, and tried again with the next.

    A disk that is full is no reason to lose what was trained since the last checkpoint: room may be made.
    """
    failing = bool(self._unwritten)
    self._unwritten.append((step, split, dict(values), time.time()))
    try:
      self._write_waiting()
      self._tensorboard.write(step, split, values)
    except ConfigError as error:
      if not failing:
        logging.error('%s; training goes on, and %d rows wait to be written', error, len(self._unwritten))

  def _write_waiting(self) -> None:
    while self._unwritten:
      step, split, values, when = self._unwritten[0]
      self._metrics.write(step, split, values, time=when)
      del self._unwritten[0]

  def _say(self, text: str) -> None:
    logging.info('%s', text)
    self._progress.print(text)

  def _record(self) -> dict[str, Any]:
    where, how = self._session.cluster, self._session.precision
    return {
      'resumed_from_step': self._restored or None,
      'devices': {'kind': where.device_kind, 'per_worker': where.local_devices, 'workers': where.num_workers},
      'replicas': where.replicas,
      'strategy': {'name': where.strategy, 'reason': where.reason},
      'precision': {'policy': how.policy, 'reason': how.policy_reason},
      'xla': {'on': how.xla, 'reason': how.xla_reason},
      'init_from': self._first_weights,
    }

  def _facts(self, changed: Sequence[str]) -> list[tuple[str, str]]:
    session, config = self._session, self._session.config
    where, how, train = session.cluster, session.precision, config.train
    parameters = session.state.model.count_params()
    shape = f'{where.num_workers} workers x ' if where.num_workers > 1 else ''
    batch = f'{train.global_batch_size:,} examples'
    if where.replicas * train.micro_batches > 1:
      piece = train.global_batch_size // (where.replicas * train.micro_batches)
      batch += f' = {where.replicas} replicas x {train.micro_batches} micro-batches x {piece}'
    epochs, of = session.pipeline.epochs(train.steps), f' of {session.dataset.name}' if config.data.mixture else ''
    resumed = f'going on at step {self._restored:,} of ' if self._restored else ''
    return [
      ('config changed', '\n'.join(changed)),
      ('devices', f'{shape}{where.local_devices} {where.device_kind.upper()}'),
      ('strategy', f'{where.strategy}: {where.reason}'),
      ('precision', f'{how.policy}: {how.policy_reason}'),
      ('XLA', f'{"on" if how.xla else "off"}: {how.xla_reason}'),
      ('model', f'{config.model.name}, {words.count(parameters)} parameters'),
      ('begins with', first_weights(self._first_weights) if self._first_weights else ''),
      ('task', config.task.name),
      *_split_labels(session.pipeline.describe()),
      ('global batch', batch),
      ('steps', f'{resumed}{train.steps:,}, which is {epochs:.3g} epochs{of}'),
      ('replicas', self._what_depends_on_them()),
      *self._places(),
    ]

  def _places(self) -> list[tuple[str, str]]:
    names = {'metrics': METRICS, 'checkpoints': CHECKPOINTS, 'tensorboard': TENSORBOARD}
    return [(what, self._directory.shown(name)) for what, name in names.items()]

  def _what_depends_on_them(self) -> str:
    """What the number of replicas changes in the result, beyond the order of sums; '' on one replica."""
    if self._session.cluster.replicas == 1:
      return ''
    batch_norm = self._session.config.model.get('norm', '') == 'batch'
    what = 'dropout masks and batch statistics depend' if batch_norm else 'dropout masks depend'
    return f'{what} on their number{" (model.norm=sync_batch: statistics do not)" if batch_norm else ""}'

  def _summary(self) -> str:
    session, progress = self._session, self._session.state.progress
    has_best = bool(session.best_metric) and progress.best_step >= 0
    return summary(
      step=progress.step,
      total_steps=session.config.train.steps,
      seconds=time.monotonic() - self._started,
      train=self._train,
      evaluation=self._evaluation,
      best=(session.best_metric, progress.best_value, progress.best_step) if has_best else None,
      rate=self._throughput.total,
      goodput=self._goodput(),
      places=self._places(),
    )

  def _goodput(self) -> str:
    """Of the run up to now, over all attempts; '' where the ledger cannot be read."""
    self._ledger.beat()
    try:
      return goodput.line(goodput.summarize(goodput.read(self._directory.path)))
    except ConfigError as error:
      logging.warning('%s', error)
      return ''


def _split_labels(lines: Sequence[str]) -> list[tuple[str, str]]:
  """'data: fashion_mnist' -> ('data', 'fashion_mnist'); a line without a label keeps its whole text."""
  pairs = [line.partition(': ') for line in lines]
  return [
    (label, text) if text and ' ' not in label else (' ', line)
    for (label, _, text), line in zip(pairs, lines, strict=True)
  ]
