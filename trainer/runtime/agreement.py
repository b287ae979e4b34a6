"""What all processes of a run agree on: the chief's word, and whether a thing holds for everybody.

Both calls are collectives over all replicas, by the same code under every strategy. So every process has to make the
same calls in the same order, from its main thread, and none returns before all have made it: each is a barrier too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.runtime.cluster import Cluster
from trainer.runtime.strategy import first

# float32 is the one dtype that every collective takes (GPUs reduce int32 on the host, TPUs no int64). It holds whole
# numbers to 2**24, so a 64-bit number travels as four digits of 16 bits.
_DIGITS, _BITS = 4, 16


def from_chief(strategy: tf.distribute.Strategy, cluster: Cluster, value: int) -> int:
  """The chief's `value`, on every process.

  Args:
    strategy: the strategy of `create`.
    cluster: the cluster that it serves.
    value: any 64-bit signed integer; only the chief's counts.

  Raises:
    OverflowError: the value does not fit.
    tf.errors.OpError: a peer was lost.
  """
  word = int(value).to_bytes(_DIGITS * _BITS // 8, 'little', signed=True)
  digits = np.frombuffer(word, '<u2') if cluster.is_chief else np.zeros(_DIGITS, '<u2')
  total = first(strategy, _adder(strategy, cluster.local_devices)(tf.constant(digits, tf.float32))).numpy()
  return int.from_bytes(total.astype('<u2').tobytes(), 'little', signed=True)


def all_true(strategy: tf.distribute.Strategy, cluster: Cluster, flag: bool) -> bool:
  """Whether `flag` is true on every process.

  Raises:
    tf.errors.OpError: a peer was lost.
  """
  objections = np.zeros(_DIGITS, np.float32)
  objections[0] = not flag
  return bool(first(strategy, _adder(strategy, cluster.local_devices)(tf.constant(objections))).numpy()[0] == 0)


@functools.cache
def _adder(strategy: tf.distribute.Strategy, per_process: int) -> Callable[[tf.Tensor], tf.Tensor]:
  """A function that sums a float32 [_DIGITS] over the processes; what it returns is per replica."""

  def on_replica(vector: tf.Tensor) -> tf.Tensor:
    replica = tf.distribute.get_replica_context()
    number = replica.replica_id_in_sync_group
    # The replicas of a process hold the same vector; the first one speaks for all of them.
    speaks = tf.cast(tf.equal(tf.math.floormod(number, per_process), 0), vector.dtype)
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, vector * speaks)

  return tf.function(lambda vector: strategy.run(on_replica, args=(vector,)), autograph=False, jit_compile=False)
