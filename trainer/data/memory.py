"""Batches of a split that is kept in memory, for one host: a gather of rows per block of batches.

Knows the order (trainer/data/order.py) and tensors [N, ...], not where they come from. Graph ops only.

Legend: N examples, B global batch, H hosts, R replicas of this host, M batches in a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.data import order

# A tf.data element costs some 0.1 ms of CPU for its ops, whatever its size; small batches share that price.
_BLOCK_BYTES = 1024**2
_BLOCK_BATCHES = 16
# Blocks in the making at once, where blocks are small.
_SMALL_BLOCKS_AHEAD = 2
_ENDLESS = 2**62


@dataclasses.dataclass(frozen=True)
class Share:
  """What one host feeds of each global batch.

  Attributes:
    batch: B.
    host: which of the hosts this is; it takes the rows [host * B / H, (host + 1) * B / H) of each batch.
    hosts: H.
    replicas: R.
  """

  batch: int
  host: int
  hosts: int
  replicas: int

  @property
  def rows(self) -> int:
    """Rows of a global batch on this host."""
    return self.batch // self.hosts

  @property
  def replica_rows(self) -> int:
    return self.rows // self.replicas

  @property
  def first_row(self) -> int:
    return self.host * self.rows

  def parts(self, count: int) -> int:
    """Batches of one replica in so many global batches."""
    return count * self.replicas

  def to_replicas(self, batches: Any, count: int) -> Any:
    """Tensors [count * rows, ...] -> [parts, B / (H R), ...], replica by replica, batch by batch; one part as it is."""
    if self.parts(count) == 1:
      return batches
    shape = [self.parts(count), self.replica_rows]
    return tf.nest.map_structure(lambda tensor: tf.reshape(tensor, [*shape, *tensor.shape[1:]]), batches)


def block_batches(batch_bytes: int) -> int:
  """M: how many global batches of this size are made at once. A function of the batch alone, see `train`."""
  return max(1, min(_BLOCK_BATCHES, _BLOCK_BYTES // max(1, batch_bytes)))


def train(
  examples: Any,
  size: int,
  share: Share,
  seed: int,
  start_step: int,
  block: int,
  finish: Callable[[Any, tf.Tensor], Any],
) -> tf.data.Dataset:
  """Endless training batches from `start_step` on.

  Blocks begin at multiples of M steps wherever one starts: the last bits of a vectorised augmentation may depend on
  where an example stands in the block, and a resumed run has to repeat them.

  Args:
    examples: nest of tensors [N, ...].
    size: N.
    share: what this host feeds.
    seed: seed of the run.
    start_step: first global batch.
    block: M, from `block_batches`.
    finish: (batch with 'inputs', 'targets', 'weight', 'index'; epoch int64 [n]) -> batch.

  Returns:
    Dataset of batches of one replica: replica 0, 1, ... of batch k, then of batch k + 1.
  """
  steps, rows = tf.range(block, dtype=tf.int64), tf.range(share.rows, dtype=tf.int64)
  within = tf.reshape(steps[:, tf.newaxis] * share.batch + share.first_row + rows, [block * share.rows])

  def make(number: tf.Tensor) -> Any:
    epoch, index = order.memory_order(seed, number * (block * share.batch) + within, size)
    return share.to_replicas(finish(_gather(examples, index, tf.ones([block * share.rows])), epoch), block)

  blocks = tf.data.Dataset.range(start_step // block, _ENDLESS)
  ahead = tf.data.AUTOTUNE if block == 1 else _SMALL_BLOCKS_AHEAD
  batches = blocks.map(make, num_parallel_calls=ahead, deterministic=True)
  if block == 1:
    batches = batches.prefetch(_SMALL_BLOCKS_AHEAD)
  if share.parts(block) > 1:
    batches = batches.unbatch()
  return batches.skip(share.parts(start_step % block))


def evaluate(examples: Any, size: int, share: Share, steps: int) -> tf.data.Dataset:
  """All rows of a split once, in order, in `steps` batches; rows beyond it copy its last one: weight 0, index -1.

  Args:
    examples: nest of tensors [N, ...]; fewer than `size` examples are repeated.
    size: rows of the split.
    share: what this host feeds.
    steps: number of batches.

  Returns:
    Dataset of batches of one replica, in the order of `train`.
  """
  rows = share.first_row + tf.range(share.rows, dtype=tf.int64)
  kept = tf.nest.flatten(examples)[0].shape[0]

  def make(step: tf.Tensor) -> Any:
    row = step * share.batch + rows
    batch = _gather(examples, tf.minimum(row, size - 1) % kept, tf.cast(row < size, tf.float32))
    return share.to_replicas({**batch, 'index': tf.where(row < size, row, -1)}, 1)

  batches = tf.data.Dataset.range(steps).map(make, num_parallel_calls=_SMALL_BLOCKS_AHEAD, deterministic=True)
  return batches.unbatch() if share.parts(1) > 1 else batches


def _gather(examples: Any, index: tf.Tensor, weight: tf.Tensor) -> dict[str, Any]:
  rows = tf.nest.map_structure(lambda tensor: tf.gather(tensor, index), examples)
  return {**rows, 'weight': weight, 'index': index}
