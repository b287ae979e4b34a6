"""How the replicas talk: within a step, and between steps about what each has only a slice of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.optim.rounding import stored
from trainer.optim.sharding import Sharding


class Replicas:
  """`Collectives` (trainer/optim/sharding.py) of the strategy, to be made and used in replica context."""

  def __init__(self):
    self._context = tf.distribute.get_replica_context()
    self.replica = tf.cast(tf.convert_to_tensor(self._context.replica_id_in_sync_group), tf.int32)

  def sum(self, value: tf.Tensor) -> tf.Tensor:
    if self._context.num_replicas_in_sync == 1:
      return value
    return self._context.all_reduce(tf.distribute.ReduceOp.SUM, value)

  def gather(self, value: tf.Tensor) -> tf.Tensor:
    if self._context.num_replicas_in_sync == 1:
      return value[tf.newaxis]
    if value.dtype != tf.bfloat16:
      return self._context.all_gather(value[tf.newaxis], axis=0)
    # Collectives take no bfloat16: two of them travel as a whole number.
    size = tf.size(value)
    pairs = tf.bitcast(tf.reshape(tf.pad(value, [[0, size % 2]]), [-1, 2]), tf.int32)
    rows = self._context.all_gather(pairs[tf.newaxis], axis=0)
    together = tf.reshape(tf.bitcast(rows, value.dtype), [self._context.num_replicas_in_sync, -1])
    return together[:, :size]


class Slices:
  """Whole variables out of the slices of all replicas, between steps. All processes of a run call it together."""

  def __init__(self, strategy: tf.distribute.Strategy, sharding: Sharding):
    self._strategy, self._sharding = strategy, sharding
    self._compiled: dict[tuple[object, ...], Any] = {}  # by the variables that are sent

  def publish(self, slices: Sequence[keras.Variable]) -> None:
    """Puts slices of all parameters, masters or their averages, into the model's weights on every replica."""

    def replica() -> None:
      collectives = Replicas()
      self._sharding.spread([collectives.gather(together) for together in self._sharding.joined(slices)])

    self._function(slices, lambda: self._strategy.run(replica))()

  def wholes(self, slices: Sequence[keras.Variable], wanted: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Slices of all parameters -> arrays of the shapes of some of them, in the slices' dtype; a bucket at a time.

    Args:
      slices: in the parameters' order.
      wanted: which of them this process wants -> the name under which it gets the array.
    """
    found: dict[str, np.ndarray] = {}
    for bucket in self._sharding.buckets:
      sent = [slices[index] for index in bucket]

      def replica(sent: list[keras.Variable] = sent) -> tf.Tensor:
        return Replicas().gather(tf.concat([variable.value for variable in sent], 0))

      gathered = self._function(sent, lambda replica=replica: self._strategy.run(replica), 'whole')()
      together = self._strategy.experimental_local_results(gathered)[0]
      if wanted.keys() & set(bucket):
        for index, whole in zip(bucket, self._sharding.cut(together.numpy(), bucket), strict=True):
          if index in wanted:
            found[wanted[index]] = np.array(whole, stored(slices[index]).dtype.as_numpy_dtype)
    return found

  def _function(self, variables: Sequence[keras.Variable], body: Any, what: str = '') -> Any:
    """`body` as a graph, the same for the same variables."""
    key = (what, *map(id, variables))
    if key not in self._compiled:
      self._compiled[key] = tf.function(body, autograph=False)
    return self._compiled[key]
