"""The distributed input of a run: the order, the records and the task's preparation, put together in tf.data.

Which examples form global batch k is decided in trainer/data/order.py and depends on neither hosts nor replicas. Each
host builds its own share with graph ops only, since a remote TPU host runs no Python.

Legend: B global batch, N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer import config as config_lib
from trainer.data import draws, examples, memory, stream, synthetic, untuned
from trainer.data.source import Dataset, open_dataset
from trainer.errors import ConfigError

DATA_ERRORS = examples.DATA_ERRORS
# Training has no end, but tf.data cannot see that. Where it is not told, workers ask each other before each step who
# has a batch left, by a collective of its own.
_ENDLESS = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)


class Pipeline:
  """What a run reads, for any strategy.

  A batch is a dict: 'inputs' and 'targets' [B, ...] as the task makes them, 'weight' float32 [B], 1 or 0 for padding,
  and 'index' int64 [B], the row of the example in its split, -1 for padding. In a mixture the rows of a training split
  are counted behind those of the sets before it.

  Attributes:
    source: 'memory', 'lanes' or 'synthetic': where training batches come from; of a mixture all, joined by '+'.
    eval_examples: examples that an evaluation covers.
    eval_steps: global batches that it takes.
  """

  def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, task: Any, *, replicas: int, workers: int):
    """Decides where batches come from; reads no record yet.

    Args:
      config: checked config.
      dataset: from `open_dataset`; what `data.mixture` names besides is opened here.
      task: has `example`, `draws` and `augment` (trainer/tasks/base.py).
      replicas: replicas of the whole run.
      workers: worker processes of the whole run.

    Raises:
      ConfigError: the task's examples have no fixed shape; the lanes cannot be shared among the workers, or are more
        than the examples; a set of the mixture cannot be had, or has other examples.
    """
    self._config, self._dataset, self._task, self._replicas = config, dataset, task, replicas
    self._batch, self._eval_batch = config.train.global_batch_size, config_lib.eval_batch_size(config)
    self.eval_examples = dataset.evaluation.num_examples
    self.eval_steps = -(-self.eval_examples // self._eval_batch)
    self._streams: list[stream.Stream] = []
    if dataset.synthetic:
      self._synthetic = synthetic.examples(dataset.features, task, config.seed)
      self._spec = examples.check_spec(dataset.name, tf.nest.map_structure(lambda tensor: tensor[0], self._synthetic))
    else:
      self._open_streams()
      self._spec = self._streams[0].examples.spec
      for each in self._streams:
        each.check_hosts(workers)
    self.source = '+'.join(dict.fromkeys(each.source for each in self._streams)) or 'synthetic'
    self.batch_spec = self._batch_spec()

  def train(self, strategy: tf.distribute.Strategy, start_step: int, *, repeat: bool = False) -> Any:
    """The endless distributed dataset whose k-th element is global batch `start_step` + k, in parts per replica.

    Args:
      strategy: the strategy of the run, or the default one.
      start_step: steps already done; costs the same wherever it is.
      repeat: gives batch `start_step` again and again, kept as it is when it is made, so that the input costs nothing.

    Raises:
      ConfigError: a data file is damaged; or the hosts cannot share the lanes.
    """

    def build(share: memory.Share) -> tf.data.Dataset:
      batches = self._train_share(share, start_step)
      return (_repeated(batches, share) if repeat else batches).apply(_ENDLESS)

    return self._distribute(strategy, self._batch, build)

  def empty(self, strategy: tf.distribute.Strategy) -> Any:
    """A distributed dataset of the type that `train` gives, from which no batch can be taken.

    It reads nothing, so a step can be traced with it while the examples are read.
    """

    def zeros(_: tf.Tensor) -> dict[str, Any]:
      return tf.nest.map_structure(lambda part: tf.zeros(part.shape, part.dtype), self.batch_spec)

    def build(share: memory.Share) -> tf.data.Dataset:
      del share
      return tf.data.Dataset.range(0).map(zeros).apply(_ENDLESS)

    return self._distribute(strategy, self._batch, build)

  def read_ahead(self, host: int) -> None:
    """Begins to read what training keeps in memory, for this host, so that the model can be built meanwhile."""
    for each in self._streams:
      if each.source == 'memory':
        each.examples.keep_ahead(each.dataset.train, host)

  def evaluate(self, strategy: tf.distribute.Strategy) -> tuple[Any, int]:
    """The evaluation split once, in row order, the last batch filled up with padding of weight 0 and index -1.

    Returns:
      (distributed dataset, number of global batches, the same on each host).

    Raises:
      ConfigError: a data file is damaged.
    """

    return self._distribute(strategy, self._eval_batch, self._eval_share), self.eval_steps

  def examples_of(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which examples global batch `step` holds, replica by replica, wherever those are; makes that batch here.

    Returns:
      (rows in the training split int64 [b], whether an input or a target of it is not finite bool [b]) per replica.
    """
    return [(batch['index'].numpy(), _not_finite(batch)) for batch in self._parts(step)]

  def batch(self, step: int) -> dict[str, Any]:
    """Global batch `step` as training would see it, made here: a nest of np.ndarray [B, ...]."""
    parts = [tf.nest.map_structure(lambda tensor: tensor.numpy(), part) for part in self._parts(step)]
    return tf.nest.map_structure(lambda *pieces: np.concatenate(pieces), *parts)

  def raw(self, index: int) -> dict[str, Any]:
    """The raw features of a training example by its number in a batch, as np.ndarray."""
    for each in self._streams:
      size = each.dataset.train.num_examples
      if index < size:
        rows = each.examples.in_order(each.dataset.train, [(index, index + 1)])
        _, serialized = next(iter(rows))
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), each.dataset.decode(serialized))
      index -= size
    raise IndexError(index)

  def _parts(self, step: int) -> list[dict[str, Any]]:
    everything = memory.Share(self._batch, 0, 1, self._replicas)
    with tf.device('CPU:0'):
      return list(_built(self._train_share, everything, step).take(self._replicas))

  def stages(self) -> dict[str, tf.data.Dataset]:
    """What one process feeds, up to each stage of it, in batches of one replica; empty where nothing is read.

    Of a mixture those of `data.dataset`, as a share of each batch.
    """
    if not self._streams:
      return {}
    first = self._streams[0]
    share = memory.Share(first.batch, 0, 1, self._replicas)
    with tf.device('CPU:0'):
      found = _built(first.stages, share, self._finish if self._task.draws else None)
    return {name: dataset.with_options(_options()) for name, dataset in found.items()}

  def corrupt(self, error: tf.errors.OpError) -> Exception:
    """What to raise where a step or an evaluation met one of DATA_ERRORS: the file it is in, or the error itself."""
    splits = (*(each.dataset.train for each in self._streams), self._dataset.evaluation)
    found = (examples.corrupt(split, error) for split in splits)
    return next((fault for fault in found if fault is not error), error)

  @property
  def fingerprint(self) -> str:
    """What the order of the training examples depends on, beside the seed and the global batch size."""
    if not self._streams:
      return f'{self._dataset.fingerprint(self._dataset.train)} synthetic'
    if len(self._streams) == 1:
      return self._streams[0].fingerprint
    return ' + '.join(f'{each.batch} of {each.fingerprint}' for each in self._streams)

  def epochs(self, steps: int) -> float:
    """How often so many steps go through the training split of `data.dataset`."""
    rows = self._streams[0].batch if self._streams else self._batch
    return steps * rows / max(1, self._dataset.train.num_examples)

  def describe(self) -> list[str]:
    """Lines for the banner: the data, where they come from and why, and what becomes of the rest of an epoch."""
    data = self._dataset
    if not self._streams:
      mixture = '; data.mixture is not read' if self._config.data.mixture else ''
      return [
        f'data: {data.name}:{data.version}, {data.train.num_examples} training examples ({data.train.name})',
        'source: synthetic, because the config says so',
        f'one batch of {self._batch} made-up examples is repeated; a loss means nothing{mixture}',
      ]
    lines = [line for each in self._streams for line in each.describe()]
    padding = self.eval_steps * self._eval_batch - self.eval_examples
    kept = 'in memory' if self._evaluates_from_memory() else 'streamed'
    lines.append(
      f'evaluation: {self.eval_examples} examples of {data.name} ({data.evaluation.name}), '
      f'{self.eval_steps} batches of {self._eval_batch}, {padding} rows of padding, {kept}'
    )
    return lines

  def _open_streams(self) -> None:
    """Opens what training reads: `data.dataset`, and the other sets of the mixture."""
    config, first = self._config, self._dataset
    left = config.data.memory_budget_bytes
    sets = [first, *(open_dataset(config, name) for name, _ in config.data.mixture)]
    for dataset, rows in zip(sets, config_lib.mixture_rows(config), strict=True):
      opened = stream.Stream(config, dataset, self._task, batch=rows, budget=left)
      if self._streams and (difference := _difference(self._streams[0], opened)):
        raise ConfigError(f'data.mixture: {dataset.name} has {difference} than {first.name}: mix sets of one kind')
      left -= opened.kept_bytes
      self._streams.append(opened)

  def _evaluates_from_memory(self) -> bool:
    """Whether the evaluation split is kept too: if it fits into the budget beside what training keeps there."""
    train, evaluation, first = self._dataset.train, self._dataset.evaluation, self._streams[0]
    if first.source == 'memory' and evaluation.name == train.name:
      return True
    used = sum(each.kept_bytes for each in self._streams)
    return used + first.split_bytes(evaluation) <= self._config.data.memory_budget_bytes

  def _distribute(
    self, strategy: tf.distribute.Strategy, batch: int, build: Callable[[memory.Share], tf.data.Dataset]
  ) -> Any:
    """Builds each host's share of the batches on the CPU of that host."""

    def host_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
      hosts = context.num_input_pipelines
      share = memory.Share(batch, context.input_pipeline_id, hosts, self._replicas // hosts)
      with tf.device('CPU:0'):
        return _built(build, share).with_options(_options())

    untuned.install()
    return strategy.distribute_datasets_from_function(host_dataset)

  def _train_share(self, share: memory.Share, start_step: int) -> tf.data.Dataset:
    if not self._streams:
      made = memory.train(self._synthetic, synthetic.EXAMPLES, share, self._config.seed, 0, 1, self._finish)
      return _repeated(made, share)
    parts = [
      each.share(dataclasses.replace(share, batch=each.batch), start_step, self._finish) for each in self._streams
    ]
    if len(parts) == 1:
      return parts[0]
    sizes = [each.dataset.train.num_examples for each in self._streams]
    return stream.mixed(parts, [each.batch for each in self._streams], self._replicas, sizes)

  def _eval_share(self, share: memory.Share) -> tf.data.Dataset:
    split, steps = self._dataset.evaluation, self.eval_steps
    if not self._streams:
      return memory.evaluate(self._synthetic, split.num_examples, share, steps)
    if self._evaluates_from_memory():
      return memory.evaluate(self._streams[0].examples.kept(split, share.host), split.num_examples, share, steps)
    begins = [step * share.batch + share.first_row for step in range(steps)]
    ranges = [(min(begin, split.num_examples), min(begin + share.rows, split.num_examples)) for begin in begins]
    padding = steps * share.rows - sum(end - begin for begin, end in ranges)
    prepared = self._streams[0].examples
    rows = prepared.in_order(split, ranges, padding)
    batches = prepared.batches(rows, share.replica_rows).map(
      lambda index, batch: {**batch, 'weight': tf.cast(index >= 0, tf.float32), 'index': index}
    )
    return batches.prefetch(stream.AHEAD * share.replicas)

  def _batch_spec(self) -> dict[str, Any]:
    """The nest of tf.TensorSpec of one replica's training batch, augmentation included; traces, computes nothing."""
    rows = self._batch // self._replicas
    batch = tf.nest.map_structure(lambda part: tf.TensorSpec([rows, *part.shape], part.dtype), self._spec)
    batch |= {'weight': tf.TensorSpec([rows], tf.float32), 'index': tf.TensorSpec([rows], tf.int64)}
    finished = (
      tf.function(self._finish, autograph=False)
      .get_concrete_function(batch, tf.TensorSpec([rows], tf.int64))
      .structured_outputs
    )
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), finished)

  def _finish(self, batch: dict[str, Any], epoch: tf.Tensor, cropped: bool = False) -> dict[str, Any]:
    """Augments training examples by random numbers that depend on (seed, epoch, example) alone."""
    if not self._task.draws:
      return batch
    augment = self._task.augment_cropped if cropped else self._task.augment
    return augment(batch, draws.uniform(self._config.seed, epoch, batch['index'], self._task.draws))


def _options() -> tf.data.Options:
  """Of every input."""
  options = tf.data.Options()
  options.deterministic = True
  # What the tuner would set is set here; its model of many nested lanes costs more CPU than it saves.
  options.autotune.enabled = False
  return options


def _repeated(batches: tf.data.Dataset, share: memory.Share) -> tf.data.Dataset:
  """The first batch of each replica, made once and given for ever."""
  return batches.take(share.replicas).cache().repeat()


@tf.autograph.experimental.do_not_convert
def _built(build: Callable[..., tf.data.Dataset], *args: Any) -> tf.data.Dataset:
  """Builds a tf.data input whose functions are traced as they stand.

  They have no Python control flow on tensors, and a task must have none; looking for it, AutoGraph would take more than
  half of the time until the first batch, at each start.
  """
  return build(*args)


def _not_finite(batch: dict[str, Any]) -> np.ndarray:
  """bool [b]: the examples with a number among inputs or targets that is not finite."""
  parts = [part for part in tf.nest.flatten([batch['inputs'], batch['targets']]) if part.dtype.is_floating]
  bad = [tf.reduce_any(~tf.math.is_finite(tf.reshape(part, [part.shape[0], -1])), 1).numpy() for part in parts]
  return np.any(bad, 0) if bad else np.zeros(len(batch['index']), bool)


def _difference(first: stream.Stream, other: stream.Stream) -> str:
  """In what the examples of a set are not those of the first, in words; '' if they are of one kind."""
  if first.examples.spec != other.examples.spec:
    return 'examples of another shape'
  if first.dataset.labels != other.dataset.labels:
    return 'other classes'
  vocabularies = [_vocabulary(each.dataset.features) for each in (first, other)]
  if vocabularies[0] != vocabularies[1]:
    return "other tokens (take data.pack_tokenizer='bytes', or one tokenizer.json for both)"
  return ''


def _vocabulary(features: Any) -> Any:
  """Of packed tokens; None where there are none."""
  found = [feature.vocabulary.state() for feature in features.values() if hasattr(feature, 'vocabulary')]
  return found[0] if found else None
