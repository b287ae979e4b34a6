"""Variables that are kept in bfloat16 and computed with in float32, rounded up or down at random when they are written.

A change below half of the last digit would be lost by rounding to the nearest, and with it most of what a slow average
gathers; rounded up with the probability that the remainder says, the mean is right (Gupta et al., Deep Learning with
Limited Numerical Precision, 2015, section 3.1).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

DTYPES = ('float32', 'bfloat16')

# Of the bits of a float32, those that a bfloat16 has not.
_LOST = 0xFFFF


class Rounded(keras.Variable):
  """A variable that Keras takes for one of float32."""

  def __init__(self, *args: Any, clock: keras.Variable, number: int, **kwargs: Any):
    """Args:
    *args: of keras.Variable.
    clock: integer, counts the updates; the rounding is a function of it and of `number`, the same on every replica.
    number: tells variables apart.
    **kwargs: of keras.Variable.
    """
    self._clock, self._number = clock, number
    super().__init__(*args, dtype='float32', trainable=False, **kwargs)

  def _initialize(self, value: Any) -> None:
    self._value = tf.Variable(
      lambda: tf.cast(value() if callable(value) else value, tf.bfloat16),
      dtype=tf.bfloat16,
      trainable=False,
      name=self.name,
      aggregation=self._map_aggregation(self.aggregation),
      synchronization=self._map_synchronization(self.synchronization),
    )

  @property
  def value(self) -> tf.Tensor:
    """float32."""
    return tf.cast(self._value, tf.float32)

  def _direct_assign(self, value: tf.Tensor) -> None:
    seed = tf.stack([self._number, tf.cast(self._clock.value, tf.int32)])
    self._value.assign(rounded(value, seed))


def rounded(values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """float32 -> bfloat16, one of the two neighbours; the nearer one more often, so that the mean is the value itself.

  Args:
    values: of any shape. What a bfloat16 can hold stays as it is, infinities too.
    seed: int32 [2]; the same seed rounds alike.
  """
  noise = tf.random.stateless_uniform(tf.shape(values), seed, None, None, tf.uint32)
  bits = tf.bitcast(values, tf.uint32) + tf.bitwise.bitwise_and(noise, tf.constant(_LOST, tf.uint32))
  kept = tf.bitwise.bitwise_and(bits, tf.constant(0xFFFFFFFF ^ _LOST, tf.uint32))
  return tf.cast(tf.bitcast(kept, tf.float32), tf.bfloat16)


def stored(variable: keras.Variable) -> tf.Variable:
  """What holds the value, in the dtype in which it is kept."""
  return variable._value
