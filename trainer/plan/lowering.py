"""The training step of one replica as XLA is given it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import gen_stateless_random_ops_v2

from trainer.errors import ConfigError
from trainer.train.step import TrainStep


class Lowered:
  """One step, lowered; nothing of it is run.

  Attributes:
    replicas: how many take part.
  """

  def __init__(self, step: TrainStep, batch_spec: Mapping[str, Any], device: str):
    """Args:
    step: made for so many replicas.
    batch_spec: nest of tf.TensorSpec, the part of a batch that one of them has.
    device: 'cpu', 'gpu' or 'tpu', which it is lowered for.
    """
    self.replicas = step.replicas
    flat = tf.nest.flatten(batch_spec)

    @tf.function(jit_compile=True, autograph=False)
    def replica_step(*arguments: tf.Tensor) -> tf.Tensor:
      *parts, number, control = arguments
      batch = tf.nest.pack_sequence_as(batch_spec, parts)
      return step.alone(batch, number, control, _InOneProgram(self.replicas))

    with _own_generator() if device == 'tpu' else contextlib.nullcontext():
      self._ir = replica_step.experimental_get_compiler_ir(*flat, tf.TensorSpec((), tf.int64), tf.TensorSpec((3,)))

  def text(self) -> str:
    """As text.

    Raises:
      ConfigError: there is something in the step that XLA does not know.
    """
    return self._stage('hlo')

  def serialized(self) -> bytes:
    """As a serialized HloModuleProto; raises as `text`."""
    return self._stage('hlo_serialized')

  def _stage(self, name: str) -> Any:
    try:
      return self._ir(stage=name)
    except ValueError as error:  # which is all that TensorFlow says here
      why = str(error).partition(': ')[2].splitlines()[0].strip("'")
      raise ConfigError(
        f'XLA cannot compile the step, so that no TPU could run it; take other layers: {why}'
      ) from error


@contextlib.contextmanager
def _own_generator() -> Any:
  """Has random numbers of a step that is traced here made as TensorFlow has a TPU make them: by its own generator.

  For other devices TensorFlow spells them out, as Philox. Normal numbers, which only layers from outside draw, stay so.
  """
  module = gen_stateless_random_ops_v2
  with (
    mock.patch.object(module, 'stateless_random_uniform_v2', _uniform),
    mock.patch.object(module, 'stateless_random_uniform_full_int_v2', _whole),
  ):
    yield


def _uniform(shape: Any, key: tf.Tensor, counter: tf.Tensor, dtype: Any, alg: Any, name: Any = None) -> tf.Tensor:
  """Floats from 0 to 1: 23 bits of them, as XLA makes them."""
  bits = tf.bitwise.right_shift(_whole(shape, key, counter, tf.uint32, alg), tf.constant(9, tf.uint32))
  return tf.cast(tf.cast(bits, tf.float32) * 2.0**-23, dtype, name=name)


def _whole(shape: Any, key: tf.Tensor, counter: tf.Tensor, dtype: Any, alg: Any, name: Any = None) -> tf.Tensor:
  """Integers of any value; of which kind of generator is for the compiler to say (trainer/plan/compiler.py)."""
  del alg
  state = tf.concat([key, counter[:1]], 0)
  unsigned = tf.uint32 if tf.as_dtype(dtype).size == 4 else tf.uint64
  drawn = gen_xla_ops.xla_rng_bit_generator(tf.random.Algorithm.THREEFRY.value, state, shape, unsigned)
  return tf.bitcast(drawn.output, dtype, name=name)


class _InOneProgram:
  """`Collectives` (trainer/optim/sharding.py) as operations of the program that XLA compiles."""

  def __init__(self, replicas: int):
    self._replicas = replicas
    number = gen_xla_ops.xla_replica_id() if replicas > 1 else tf.constant(0)
    self.replica = tf.cast(number, tf.int32)

  def sum(self, value: tf.Tensor) -> tf.Tensor:
    if self._replicas == 1:
      return value
    group = tf.range(self._replicas)[tf.newaxis]
    return gen_xla_ops.xla_all_reduce(value, group, reduce_op='Add', mode='CrossReplica')

  def gather(self, value: tf.Tensor) -> tf.Tensor:
    # As TPUStrategy does it: XLA has no operation for it that TensorFlow could name.
    own = tf.one_hot(self.replica, self._replicas, dtype=value.dtype)
    return self.sum(own[:, tf.newaxis] * value)
