"""One collective per step: everything that the replicas must agree on, packed into one vector and summed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class Packing:
  """Packs float tensors of known shapes into one float32 vector, so that a step costs one all-reduce.

  With one replica there is nothing to reduce, and the tensors pass as they are.
  """

  def __init__(self, shapes: list[tuple[int, ...]], replicas: int):
    self.shapes, self.replicas = shapes, replicas
    self.sizes = [int(np.prod(shape)) for shape in shapes]

  def pack(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """One vector, or the tensors themselves with one replica. In graph, inside XLA or not."""
    if self.replicas == 1:
      return tensors
    return [tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], 0)]

  def reduce(self, packed: list[tf.Tensor]) -> list[tf.Tensor]:
    """The sum over all replicas. Called in replica context, outside XLA."""
    if self.replicas == 1:
      return packed
    return [tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, packed[0])]

  def unpack(self, packed: list[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `pack`, each tensor in its shape."""
    if self.replicas == 1:
      return packed
    parts = tf.split(packed[0], self.sizes)
    return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]
