"""Four loops that train the same model on the same batches: ours, and what people would use instead.

Each is made of a session and a number of steps, and gives a function that trains so many steps, going on where it was,
and returns when they are done. All have the config's optimizer with its clipping and averaging, the task's loss and
metrics, and its precision. Where the config has XLA, each has as much of it as it takes: on one device the whole step,
but in `fit` what Keras makes of `jit_compile`; under a strategy the forward and backward pass.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer import models
from trainer.models import parts
from trainer.optim import optimizers, schedules
from trainer.train.session import Session

Loop = Callable[[], None]
_PATIENCE_SECONDS = 600.0  # for a block of Keras' `fit`


def ours(session: Session, steps: int) -> Loop:
  """trainer/train/step.py, as the training loop calls it between two events."""
  step = session.train_step()
  batches = iter(session.pipeline.train(session.strategy, 0))
  first, count, control = tf.constant(0, tf.int64), tf.constant(steps), tf.constant([0.0, 0.0, 0.0])
  return lambda: step.run(batches, first, count, control)[0].numpy()


def bare(session: Session, steps: int) -> Loop:
  """What a careful user writes by hand: a loop of steps in a `tf.function`. It checks no number, and cannot resume."""
  strategy = session.strategy
  batches = iter(session.pipeline.train(strategy, 0))
  with strategy.scope():
    step = _step(session)

  @tf.function
  def train(batches: Iterator[Any], count: tf.Tensor) -> tf.Tensor:
    loss = tf.constant(0.0)
    for _ in tf.range(count):
      loss = strategy.reduce('SUM', strategy.run(step, args=(next(batches),)), axis=None)
    return loss

  count = tf.constant(steps)
  return lambda: train(batches, count).numpy()


def orbit(session: Session, steps: int) -> Loop:
  """Orbit's trainer and controller (Model Garden), with the step of the bare loop in them."""
  import orbit as library

  strategy = session.strategy
  with strategy.scope():
    step = _step(session)

  class Trainer(library.StandardTrainer):
    def __init__(self) -> None:
      super().__init__(session.pipeline.train(strategy, 0))
      self.global_step = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.loss = tf.Variable(0.0, trainable=False)

    def train_step(self, batches: Iterator[Any]) -> None:
      losses = strategy.run(step, args=(next(batches),))
      self.loss.assign(strategy.reduce('SUM', losses, axis=None))
      self.global_step.assign_add(1)

    def train_loop_end(self) -> dict[str, tf.Tensor]:
      return {'loss': self.loss.read_value()}

  with strategy.scope():
    trainer = Trainer()
  controller = library.Controller(
    strategy=strategy, trainer=trainer, global_step=trainer.global_step, steps_per_loop=steps
  )

  def run() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
      controller.train(int(trainer.global_step.numpy()) + steps, checkpoint_at_completion=False)

  return run


def fit(session: Session, steps: int) -> Loop:
  """Keras' `fit`: one long call, an epoch of which is so many steps, in one execution on one device.

  On several each step is an execution of its own: there Keras' loop over the steps of one (keras-team/keras#20396)
  takes the first batch for the end of the data, and makes no step; told that there is no end, it fails in the second.
  """
  task, strategy, replicas = session.task, session.strategy, session.cluster.replicas
  # Keras shares a batch out among the replicas itself; what is made for each is put together again.
  data = session.pipeline.train(tf.distribute.get_strategy(), 0)
  if replicas > 1:
    data = data.batch(replicas, drop_remainder=True).map(_joined)
  data = data.map(lambda batch: (batch['inputs'], {name: batch[name] for name in batch if name != 'inputs'}))

  class Trained(keras.Model):
    """Takes all of a batch but its inputs for targets, as losses with weights need."""

    def __init__(self, inner: keras.Model):
      super().__init__()
      self.inner = inner

    def call(self, inputs: Any, training: bool | None = None) -> Any:
      return self.inner(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
      loss = tf.reduce_mean(task.losses(y_pred, {'inputs': x, **y}))
      return loss + (tf.add_n(self.losses) if self.losses else 0.0)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
      self.sums.assign_add(task.metric_values(y_pred, {'inputs': x, **y}))
      return {'loss': self._loss_tracker.result()}

  with strategy.scope():
    model = Trained(_model(session))
    model.sums = _sums(session)
    execution = steps if replicas == 1 else 1
    model.compile(_optimizer(session, model), steps_per_execution=execution, jit_compile=session.precision.xla)
  turns = _Turns()

  def endless() -> None:
    model.fit(data, steps_per_epoch=steps, epochs=10**6, verbose=0, callbacks=[turns])

  threading.Thread(target=turns.run, args=(endless,), daemon=True).start()

  def run() -> None:
    before = int(model.optimizer.iterations.numpy())
    turns.take()
    done = int(model.optimizer.iterations.numpy()) - before
    if done != steps:
      raise RuntimeError(f'fit did {done} of {steps} steps')

  return run


class _Turns(keras.callbacks.Callback):
  """Lets `fit` do an epoch when it is asked to: a call of `fit` for each would begin with a new iterator each time."""

  def __init__(self) -> None:
    super().__init__()
    self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
    self._error: BaseException | None = None

  def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
    self._go.acquire()

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    self._done.release()

  def run(self, fit_: Callable[[], Any]) -> None:
    try:
      fit_()
    except BaseException as error:  # noqa: BLE001  (raised again where somebody waits)
      self._error = error
      self._done.release()

  def take(self) -> None:
    self._go.release()
    if not self._done.acquire(timeout=_PATIENCE_SECONDS):
      raise TimeoutError(f'fit took more than {_PATIENCE_SECONDS} s')
    if self._error:
      raise self._error


def _model(session: Session) -> keras.Model:
  keras.utils.set_random_seed(session.config.seed)
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(session.precision.policy)
  model = models.build(session.config, session.task.input_spec, session.task.units, session.task.activation)
  keras.config.set_dtype_policy(before)
  parts.compiled(model, session.precision.xla or session.cluster.device_kind == 'tpu')
  for layer in model._flatten_layers():
    if hasattr(layer, 'fused'):
      layer.fused = False  # Keras' own
  return model


def _optimizer(session: Session, model: keras.Model) -> keras.optimizers.Optimizer:
  settings = session.config.optimizer
  optimizer = optimizers.table()[settings.name](
    schedules.create(settings, session.config.train.steps),
    weight_decay=settings.weight_decay,
    global_clipnorm=settings.clip_norm or None,
    use_ema=settings.ema_decay > 0,
    ema_momentum=settings.ema_decay or 0.99,
    **optimizers.arguments(settings),
  )
  optimizer.build(model.trainable_variables)
  return optimizer


def _sums(session: Session) -> tf.Variable:
  """Of the task's metrics, on each replica its own."""
  return tf.Variable(
    tf.zeros([session.task.metrics.size]), trainable=False, synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=tf.VariableAggregation.SUM,
  )  # fmt: skip


def _step(session: Session) -> Callable[[Any], tf.Tensor]:
  """A step on one replica, which returns its part of the mean loss."""
  model = _model(session)
  optimizer, sums = _optimizer(session, model), _sums(session)
  task, replicas, xla = session.task, session.cluster.replicas, session.precision.xla or None

  def gradients(batch: Any) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    with tf.GradientTape() as tape:
      outputs = model(batch['inputs'], training=True)
      loss = tf.reduce_mean(task.losses(outputs, batch)) / replicas
      if model.losses:
        loss += tf.add_n(model.losses) / replicas
    return loss, tape.gradient(loss, model.trainable_variables), task.metric_values(outputs, batch)

  def step(batch: Any) -> tf.Tensor:
    loss, found, metrics = within(batch)
    optimizer.apply(found, model.trainable_variables)
    sums.assign_add(metrics)
    return loss

  if replicas == 1:
    within = gradients
    return tf.function(step, jit_compile=xla)
  # The optimizer leaves the replica to add up the gradients, which XLA cannot.
  within = tf.function(gradients, jit_compile=xla)
  return step


def _joined(batches: Any) -> Any:
  """[R, b, ...] -> [R * b, ...]"""
  return tf.nest.map_structure(lambda part: tf.reshape(part, [-1, *part.shape[2:]]), batches)
