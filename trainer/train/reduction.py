"""What travels between the replicas in a step: the gradients, and beside them all that they must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.optim.sharding import Collectives, Sharding


class Packing:
  """Float tensors of known shapes as one float32 vector, so that a step costs one all-reduce.

  With one replica there is nothing to reduce, and the tensors pass as they are.
  """

  def __init__(self, shapes: Sequence[tuple[int, ...]], replicas: int):
    self.shapes, self.replicas = shapes, replicas
    self.sizes = [int(np.prod(shape)) for shape in shapes]

  def pack(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """One vector, or the tensors themselves with one replica. In graph, inside XLA or not."""
    if self.replicas == 1:
      return tensors
    return [tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], 0)]

  def reduce(self, packed: list[tf.Tensor], collectives: Collectives) -> list[tf.Tensor]:
    """The sum over all replicas. Outside of what XLA compiles by itself."""
    if self.replicas == 1:
      return packed
    return [collectives.sum(packed[0])]

  def unpack(self, packed: list[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `pack`, each tensor in its shape."""
    if self.replicas == 1:
      return packed
    parts = tf.split(packed[0], self.sizes)
    return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


class WholeGradients:
  """Each replica gets the whole sum of the gradients; they travel with all the rest in one collective."""

  def __init__(self, gradients: list[tf.Tensor], rest: list[tf.Tensor], replicas: int):
    self._count = len(gradients)
    self._packing = Packing([tuple(tensor.shape) for tensor in (*gradients, *rest)], replicas)

  def pack(self, gradients: list[tf.Tensor], rest: list[tf.Tensor]) -> list[tf.Tensor]:
    """What `reduce` takes. Inside XLA or not, as `unpack`."""
    return self._packing.pack([*gradients, *rest])

  def reduce(self, packed: list[tf.Tensor], collectives: Collectives) -> list[tf.Tensor]:
    """Sums over the replicas. Outside of what XLA compiles by itself, as `deliver`."""
    return self._packing.reduce(packed, collectives)

  def unpack(self, reduced: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
    """(gradients of what this replica updates; half the squared norm of the whole of each, [P]; the rest)."""
    tensors = self._packing.unpack(reduced)
    gradients = tensors[: self._count]
    return gradients, tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients]), tensors[self._count :]

  def parcels(self, masters: Sequence[keras.Variable]) -> list[tf.Tensor]:
    """What `deliver` takes, of what was updated: nothing, as each replica has updated all."""
    del masters
    return []

  def deliver(self, parcels: list[tf.Tensor], collectives: Collectives) -> None:
    """Puts into the weights what other replicas have updated."""


class SlicedGradients:
  """Each replica gets its slices of the sum, and the slices of the weights that the others have updated with theirs."""

  def __init__(self, sharding: Sharding, rest: list[tf.Tensor]):
    self._sharding = sharding
    self._packing = Packing([tuple(tensor.shape) for tensor in rest], sharding.replicas)

  def pack(self, gradients: list[tf.Tensor], rest: list[tf.Tensor]) -> list[tf.Tensor]:
    """As WholeGradients, like the others."""
    return [*self._sharding.packed(gradients), *self._packing.pack(rest)]

  def reduce(self, packed: list[tf.Tensor], collectives: Collectives) -> list[tf.Tensor]:
    count = len(self._sharding.buckets)
    # TensorFlow's strategies have no reduce-scatter: the sum of a bucket is there whole for a moment.
    sums = [collectives.sum(bucket)[collectives.replica] for bucket in packed[:count]]
    squares = [tf.nn.l2_loss(part) for part in self._sharding.slices(sums)]
    return [*sums, collectives.sum(tf.stack(squares)), *self._packing.reduce(packed[count:], collectives)]

  def unpack(self, reduced: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
    count = len(self._sharding.buckets)
    return self._sharding.slices(reduced[:count]), reduced[count], self._packing.unpack(reduced[count + 1 :])

  def parcels(self, masters: Sequence[keras.Variable]) -> list[tf.Tensor]:
    return self._sharding.joined(masters)

  def deliver(self, parcels: list[tf.Tensor], collectives: Collectives) -> None:
    self._sharding.spread([collectives.gather(parcel) for parcel in parcels])


Exchange = WholeGradients | SlicedGradients


def exchange(sharding: Sharding | None, gradients: list[Any], rest: list[Any], replicas: int) -> Exchange:
  """The way in which tensors like these travel."""
  return SlicedGradients(sharding, rest) if sharding else WholeGradients(gradients, rest, replicas)
