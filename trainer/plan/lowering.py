"""The training step of one replica as XLA is given it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from trainer.train.step import TrainStep


class Lowered:
  """One step, lowered; nothing of it is run.

  Attributes:
    replicas: how many take part.
  """

  def __init__(self, step: TrainStep, batch_spec: Mapping[str, Any]):
    """Args:
    step: made for so many replicas.
    batch_spec: nest of tf.TensorSpec, the part of a batch that one of them has.
    """
    self.replicas = step.replicas
    flat = tf.nest.flatten(batch_spec)

    def reduced(packed: tf.Tensor) -> tf.Tensor:
      group = tf.range(self.replicas)[tf.newaxis]
      return gen_xla_ops.xla_all_reduce(packed, group, reduce_op='Add', mode='CrossReplica')

    @tf.function(jit_compile=True, autograph=False)
    def replica_step(*arguments: tf.Tensor) -> tf.Tensor:
      *parts, number, control = arguments
      batch = tf.nest.pack_sequence_as(batch_spec, parts)
      replica = gen_xla_ops.xla_replica_id() if self.replicas > 1 else tf.constant(0)
      return step.alone(batch, number, tf.cast(replica, tf.int32), control, reduced)

    self._ir = replica_step.experimental_get_compiler_ir(*flat, tf.TensorSpec((), tf.int64), tf.TensorSpec((3,)))

  def text(self) -> str:
    """As text."""
    return self._ir(stage='hlo')

  def serialized(self) -> bytes:
    """As a serialized HloModuleProto."""
    return self._ir(stage='hlo_serialized')
