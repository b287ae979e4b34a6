"""What a mode works with, put together in the one order that works: devices, strategy, data, task, model, state."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from trainer import config as config_lib
from trainer import models, tasks
from trainer.checkpoint import Checkpoints, Restored, check_compatible, warm_start
from trainer.data.pipeline import Pipeline
from trainer.data.source import Dataset, open_dataset
from trainer.errors import ConfigError
from trainer.fields import nearest
from trainer.models import parts
from trainer.optim import optimizers, sharding
from trainer.runtime import agreement, cluster, measured, precision, strategy
from trainer.storage.steps import Steps
from trainer.train.evaluate import Evaluator
from trainer.train.state import TrainState
from trainer.train.step import FIRST_LOSS_SCALE, TrainStep, has_synchronized_statistics

_NAMED = 3  # layers listed in a warning


@dataclasses.dataclass
class Session:
  """The parts of one process's share in a run.

  Attributes:
    precision: how it is computed here.
    kept_precision: what the run keeps of that, per device kind, so that another attempt computes alike.
    best_metric: '' where no best is kept.
  """

  config: Any
  cluster: cluster.Cluster
  strategy: tf.distribute.Strategy
  precision: precision.Precision
  kept_precision: dict[str, Any]
  dataset: Dataset
  task: Any
  pipeline: Pipeline
  state: TrainState
  best_metric: str
  best_mode: str

  @property
  def model(self) -> keras.Model:
    return self.state.model

  def train_step(self, replicas: int | None = None) -> TrainStep:
    """`replicas`: see TrainStep."""
    return TrainStep(self.config, self.strategy, self.state, self.task, self.precision, replicas)

  def evaluator(self) -> Evaluator:
    return Evaluator(self.strategy, self.state, self.task, self.pipeline, self.precision)

  def host(self) -> dict[str, Any]:
    """What a checkpoint holds beside the variables."""
    return {
      'progress': self.state.host(),
      'data': self.pipeline.fingerprint,
      'task': self.task.state(),
      'precision': self.kept_precision,
    }

  @property
  def writers(self) -> int:
    """Processes that write a checkpoint together: one, as long as each has all that is in it.

    The chief alone can complete a save after a worker was lost. Where the state is in slices, no process needs to have
    all of it at once.
    """
    return self.cluster.num_workers if self.state.sharding else 1

  def checkpoints(self, folder: str, *, keep: int, keep_best: int, remote: Steps | None = None) -> Checkpoints:
    """Those of a folder, to be saved to by the `writers` of this run."""
    return Checkpoints(
      folder,
      keep=keep,
      keep_best=keep_best,
      best_mode=self.best_mode,
      writer=self.cluster.is_chief,
      member=self.cluster.worker_index if self.writers > 1 else 0,
      members=self.writers,
      remote=remote,
    )

  def save(self, checkpoints: Checkpoints, token: int, metric: float | None = None) -> bool:
    """Begins to save the state in the background; all processes call it together.

    Args:
      checkpoints: made by `checkpoints`.
      token: the chief's, from `begin`; of the others it does not count.
      metric: ranks the step among the best.

    Returns:
      Whether a save has begun.
    """
    together = self.writers > 1
    if together:
      token = agreement.from_chief(self.strategy, self.cluster, token)
    writes = together or self.cluster.is_chief
    if writes and not token:
      return False
    arrays = self.state.snapshot(checkpoints.share(self.state.sizes) if writes else ())
    if writes:
      checkpoints.save(self.state.progress.step, arrays, self.host(), metric=metric, token=token)
    return True

  def restore(self, restored: Restored, *, check_data: bool = True) -> None:
    """Puts a checkpoint in place of the state.

    Args:
      restored: of this run.
      check_data: whether the data must be those that it was trained on.

    Raises:
      ConfigError: it is of another model, or of other data.
    """
    check_compatible(restored.arrays, self.state.expected())
    if check_data and restored.host['data'] != self.pipeline.fingerprint:
      raise ConfigError(
        f'the data is not what checkpoint {restored.step} was trained on: it was {restored.host["data"]}, '
        f'and is now {self.pipeline.fingerprint}'
      )
    self.state.restore(restored.arrays)
    self.state.restore_host(restored.host['progress'])

  def warm_start(self) -> dict[str, Any]:
    """Sets the weights, and their average, to those that `init_from` names. Returns a record of what was set.

    Raises:
      ConfigError: the file cannot be read, or is of another model.
    """
    start = warm_start.read(self.config.init_from, {v.path: tuple(v.shape) for v in self.model.weights})
    for path, array in start.arrays.items():
      for name in (f'model/{path}', f'ema/{path}'):
        if name in self.state.variables:
          self.state.assign(name, array)
    self.state.publish(self.state.masters)
    return start.record(self.config.init_from.path)

  def restore_newest(self, checkpoints: Checkpoints) -> int:
    """Restores the newest intact checkpoint on all processes; the chief chooses. Returns its step, -1 if there is none.

    Raises:
      ConfigError: as `restore`; or a process cannot read what the chief can.
    """
    found = checkpoints.newest_intact() if self.cluster.is_chief else None
    step = agreement.from_chief(self.strategy, self.cluster, found.step if found else -1)
    problem = ''
    if step >= 0 and not found:
      try:
        found = checkpoints.restore(step)
      except Exception as error:  # noqa: BLE001  (whatever it is, the others must hear of it)
        problem = str(error)
    if not agreement.all_true(self.strategy, self.cluster, not problem):
      raise ConfigError(
        f'checkpoint {step} can be read by the chief but not by every worker'
        f'{": " + problem if problem else ""}. Is --workdir on a file system that all workers share?'
      )
    if found:
      self.restore(found)
    return step


def build(
  config,
  where: cluster.Cluster,
  task_state: dict[str, Any] | None = None,
  on_strategy: Callable[[], None] = lambda: None,
  replicas: int | None = None,
  kept: Mapping[str, Any] | None = None,
) -> Session:
  """Builds everything up to the first weights.

  Args:
    config: checked.
    where: the cluster that was discovered.
    task_state: what the task learnt from the training split in an earlier attempt, out of a checkpoint.
    on_strategy: called when the strategy is there, which has put its own handler in the place of SIGTERM's.
    replicas: how many share the state, where the run is only planned here; None: those of `where`.
    kept: `kept_precision` of an earlier attempt, out of a checkpoint; {} has `auto` choose without what was measured on
      this machine, as for a plan, or a run that did not keep it; None where the run begins.

  Raises:
    ConfigError: the machine, the data, the task or the model cannot serve the config.
  """
  config_lib.check_topology(config, where.replicas, where.num_workers)
  usual = precision.choose(config, where)
  found = measured.find(config, where) if kept is None or (kept and where.device_kind not in kept) else None
  how = precision.choose(config, where, kept, found)
  distribution = strategy.create(where, config)
  on_strategy()
  digest = _digest(config, usual)
  if not agreement.all_true(distribution, where, agreement.from_chief(distribution, where, digest) == digest):
    raise ConfigError(
      'the workers have different configs, or devices that want different precision: start all with the same '
      'flags, and set precision.policy and precision.xla where the devices differ'
    )
  if where.num_workers > 1:  # what was measured lies on each machine, or on the chief's alone
    how = precision.of_code(agreement.from_chief(distribution, where, how.code), how)
  to_keep = {**(kept or {}), where.device_kind: how.record()}
  dataset = open_dataset(config)
  examples = None if dataset.synthetic else lambda: dataset.examples(dataset.train)
  task = tasks.create(config, dataset.features, examples, task_state)
  pipeline = Pipeline(config, dataset, task, replicas=where.replicas, workers=where.num_workers)
  precision.apply(how)
  # The same weights in each process and at each start, whatever was built before.
  keras.utils.set_random_seed(config.seed)
  with distribution.scope():
    model = models.build(config, task.input_spec, task.units, task.activation)
    _warn_of_batch_statistics(model, where)
    how = _without_xla_where_it_cannot(config, model, how, where)
    parts.compiled(model, how.xla or where.device_kind == 'tpu')
    state = _state(config, model, how, replicas or where.replicas, where.worker_index * where.local_devices)
  metric, mode = _best(config, task)
  return Session(config, where, distribution, how, to_keep, dataset, task, pipeline, state, metric, mode)


def _state(config, model: keras.Model, how: precision.Precision, replicas: int, first: int) -> TrainState:
  """All that is trained; `first` is the number of this process' first replica."""
  variables, split = list(model.trainable_variables), None
  if config.optimizer.shard_state:
    sharding.check(config.optimizer.name, variables)
    split = sharding.Sharding(model, replicas=replicas, first=first)
  masters = split.masters if split else None
  optimizer = optimizers.create(config.optimizer, config.train.steps, variables, masters)
  loss_scale = FIRST_LOSS_SCALE if how.policy == 'mixed_float16' else 1.0
  return TrainState(
    model,
    optimizer,
    ema=config.optimizer.ema_decay > 0,
    loss_scale=loss_scale,
    ema_dtype=config.optimizer.ema_dtype,
    sharding=split,
  )


def _digest(config, how: precision.Precision) -> int:
  """A number that differs where two workers would not compute the same."""
  return zlib.crc32(f'{config_lib.to_json(config)} {how.policy} {how.xla}'.encode())


def _warn_of_batch_statistics(model: keras.Model, where: cluster.Cluster) -> None:
  """Names the layers whose result depends on the number of replicas."""
  layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
  names = [layer.name for layer in layers if not layer.synchronized]
  if names and where.replicas > 1 and where.is_chief:
    logging.warning(
      'batch statistics are those of each replica alone (1/%d of the batch) in %s; synchronized=True, or a '
      'normalisation that does not look at other examples, makes the result independent of their number',
      where.replicas, ', '.join(names[:_NAMED]) + (f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''),
    )  # fmt: skip


def _without_xla_where_it_cannot(config, model, how: precision.Precision, where) -> precision.Precision:
  """Statistics synchronized over replicas are a collective in the forward pass: no XLA, no loop of micro-batches."""
  if where.replicas == 1 or not has_synchronized_statistics(model):
    return how
  if config.train.micro_batches > 1:
    raise ConfigError('synchronized batch statistics need train.micro_batches=1; or choose model.norm=group')
  if config.precision.xla == 'on':
    raise ConfigError(
      "synchronized batch statistics cannot be compiled by XLA: set precision.xla='off', or model.norm=group"
    )
  return dataclasses.replace(how, xla=False, xla_reason='batch statistics are synchronized over the replicas')


def _best(config, task) -> tuple[str, str]:
  """The metric that names the best checkpoint, '' for none; and 'max' or 'min'."""
  name = task.best[0] if config.eval.best_metric == 'auto' else config.eval.best_metric
  known = ('loss', *task.metric_names)
  if name and name not in known:
    raise ConfigError(f'eval.best_metric={name!r} is not measured{nearest(name, known)} Measured: {", ".join(known)}')
  mode = task.mode(name) if config.eval.best_mode == 'auto' else config.eval.best_mode
  if name and not mode:
    raise ConfigError(f"eval.best_mode='auto' is not known for {name!r}: set it to 'max' or 'min'")
  return name, mode or 'max'
