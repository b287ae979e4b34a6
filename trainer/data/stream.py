"""The training examples of one split, endless, in their order; and several such streams mixed into one.

In a mixture each source gives the same number of rows to every global batch, and goes through its own order as it would
alone with batches of that size. So what a batch holds depends on the seed and its number, wherever it is made, and a
run goes on at any step. The rows of a batch are groups, in each of which every source has the same share; replicas take
whole groups, so a batch is the same for any number of them.

Legend: B_s rows of source s in a global batch, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import tensorflow as tf

from trainer import config as config_lib
from trainer.data import draws, examples, lanes, memory
from trainer.data.source import Dataset
from trainer.errors import ConfigError

# Batches of one replica that wait, made, for the step.
AHEAD = 2


class Stream:
  """Where the training examples of a dataset come from, and in which order.

  Attributes:
    dataset: whose training split it is.
    examples: its prepared examples.
    batch: B_s.
    source: 'memory' or 'lanes'.
    reason: why, in words.
    kept_bytes: what it keeps in memory.
  """

  def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, task: Any, *, batch: int, budget: int):
    """Args:
    config: checked config.
    dataset: from `open_dataset`, not synthetic.
    task: has `example`, `crops` and `cropped` (trainer/tasks/base.py).
    batch: B_s.
    budget: bytes that it may keep in memory.

    Raises:
      ConfigError: the task's examples have no fixed shape; the lanes are more than the examples, or do not fit.
    """
    self.dataset, self.batch, self._seed, self._task = dataset, batch, config.seed, task
    self.examples = examples.Examples(dataset, task)
    self.source, self.reason = self._choose(config.data, budget)
    self.kept_bytes = self.split_bytes(dataset.train) if self.source == 'memory' else 0
    self.order = lanes.LanesOrder(
      seed=config.seed,
      lanes=config_lib.lanes(config, batch),
      batch=batch,
      chunk_records=config.data.chunk_records,
      window_records=config.data.window_records,
    )
    if self.source == 'lanes':
      self.order.check(dataset.train.num_examples)

  def split_bytes(self, split: Any) -> int:
    """Of a split, prepared."""
    return split.num_examples * self.examples.bytes_each

  def check_hosts(self, hosts: int) -> None:
    """Raises a ConfigError where so many hosts cannot share the lanes."""
    if self.source == 'lanes' and self.order.lanes % hosts:
      raise ConfigError(
        f'{self.order.lanes} lanes cannot be shared by {hosts} hosts: set data.lanes to a multiple of {hosts} that '
        f'divides the {self.batch} examples of {self.dataset.name} in a batch'
      )

  @property
  def _crops(self) -> bool:
    """Whether parts of images are cut out as they are decoded."""
    return self.source == 'lanes' and bool(self._task.crops)

  def share(self, share: memory.Share, start_step: int, finish: Callable[..., dict[str, Any]]) -> tf.data.Dataset:
    """Batches of one replica, replica 0, 1, ... of batch `start_step`, then of the next; endless.

    Args:
      share: what this host feeds of a batch; its size is B_s.
      start_step: first global batch.
      finish: (batch with 'inputs', 'targets', 'weight', 'index'; epoch int64 [n]; whether its images are cropped
        already, False if not given) -> batch.

    Raises:
      ConfigError: a data file is damaged; or the hosts cannot share the lanes.
    """
    split = self.dataset.train
    if self.source == 'memory':
      block = memory.block_batches(self.batch * self.examples.bytes_each)
      rows = self.examples.kept(split, share.host)
      return memory.train(rows, split.num_examples, share, self._seed, start_step, block, finish)
    self.check_hosts(share.hosts)
    records = lanes.stream(split.files, self.order, share.host, share.hosts, start_step)
    batches = self.examples.batches(records, share.replica_rows, self._uniform if self._crops else None).map(
      lambda epoch, index, rows: finish(
        {**rows, 'weight': tf.ones_like(index, tf.float32), 'index': index}, epoch, self._crops
      ),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
    return batches.prefetch(AHEAD * share.replicas)

  def stages(self, share: memory.Share, finish: Callable[..., dict[str, Any]] | None) -> dict[str, tf.data.Dataset]:
    """The input up to each of its stages, from the first batch on: what `share` gives is the last of them.

    Args:
      share: as for `share`.
      finish: as for `share`; None: nothing is augmented.
    """

    def plain(batch: dict[str, Any], *_: Any) -> dict[str, Any]:
      return batch

    stages: dict[str, tf.data.Dataset] = {}
    if self.source == 'memory':
      stages['gather'] = self.share(share, 0, plain)
    else:
      read = lanes.stream(self.dataset.train.files, self.order, share.host, share.hosts, 0)
      stages['read and shuffle'] = read.batch(share.replica_rows)
      stages['decode and prepare'] = self.share(share, 0, plain)
    if finish is not None:
      stages['augment'] = self.share(share, 0, finish)
    return stages

  @property
  def fingerprint(self) -> str:
    """What the order of the examples depends on, beside the seed and B_s."""
    order = self.order
    shape = f' {order.lanes}x{order.chunk}x{order.window_records}' if self.source == 'lanes' else ''
    return f'{self.dataset.fingerprint(self.dataset.train)} {self.source}{shape}'

  def describe(self) -> list[str]:
    """Lines for the banner: the data, where they come from and why, and what becomes of the rest of an epoch."""
    data, size = self.dataset, self.dataset.train.num_examples
    lines = [
      f'data: {data.name}:{data.version}, {size} training examples ({data.train.name})',
      f'source: {self.source}, because {self.reason}',
    ]
    left = size % self.batch
    carry = f'; the {left} left over go into the order of the next epoch' if left else ''
    lines.append(f'epoch: {size / self.batch:.4g} batches of {self.batch}{carry}; no example is dropped')
    if self.source == 'lanes':
      order = self.order
      window = min(order.chunk * order.group, -(-size // order.lanes))
      lines.append(
        f'lanes: {order.lanes} lanes of about {size / order.lanes:.4g} examples, {order.block} of each in a batch, '
        f'chunks of {min(order.chunk, window)} shuffled in windows of {window}: '
        f'up to {window * order.lanes} undecoded records in memory'
      )
    if self._crops:
      lines.append('crops: cut out of the images at their own size, as they are decoded')
    return lines

  def _uniform(self, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The random numbers of some examples, those of their augmentation."""
    return draws.uniform(self._seed, epoch, index, self._task.draws)

  def _choose(self, data: ml_collections.ConfigDict, budget: int) -> tuple[str, str]:
    if data.source != 'auto':
      return data.source, 'the config says so'
    needed = self.split_bytes(self.dataset.train)
    relation = 'within' if needed <= budget else 'more than'
    left = 'what is left of ' if budget < data.memory_budget_bytes else ''
    how = (
      f'the prepared split takes {_megabytes(needed)}, {relation} {left}data.memory_budget_bytes ({_megabytes(budget)})'
    )
    return ('memory' if needed <= budget else 'lanes'), how


def mixed(streams: Sequence[tf.data.Dataset], rows: Sequence[int], replicas: int, sizes: Sequence[int]) -> Any:
  """Batches of one replica out of those of each source; the index of an example counts those of the sources before.

  Args:
    streams: batches of one replica, of `rows[s]` / `replicas` examples.
    rows: B_s.
    replicas: of the whole run; divides each of them.
    sizes: examples in the training split of each source.
  """
  groups = math.gcd(*rows) // replicas
  before = [sum(sizes[:place]) for place in range(len(sizes))]

  def join(*parts: tf.Tensor) -> tf.Tensor:
    """[G * n_s, ...] of each source -> [G * sum of n_s, ...]"""
    grouped = [tf.reshape(part, [groups, part.shape[0] // groups, *part.shape[1:]]) for part in parts]
    whole = tf.concat(grouped, 1)
    return tf.reshape(whole, [groups * whole.shape[1], *whole.shape[2:]])

  def merge(*batches: dict[str, Any]) -> dict[str, Any]:
    placed = [{**batch, 'index': batch['index'] + first} for batch, first in zip(batches, before, strict=True)]
    return tf.nest.map_structure(join, *placed)

  together = tf.data.Dataset.zip(tuple(streams))
  return together.map(merge, num_parallel_calls=1, deterministic=True).prefetch(AHEAD)


def _megabytes(count: int) -> str:
  return f'{count / 1e6:.1f} MB'
