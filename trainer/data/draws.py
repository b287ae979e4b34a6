"""Counter-based random numbers in TensorFlow integer ops: a number is a function of a key and a counter, with no state.

Knows no dataset. Runs on the CPU, eagerly or in a tf.data graph, where a position must name its random numbers by
itself so that any host can compute any part of the stream.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
figures 15 to 17, with the finalizer of variant 13 of Stafford's mixers): the state grows by an odd constant per
number, hence the number at a counter costs one multiplication and one finalizer.

Legend: B batch, K numbers per example.
"""

from __future__ import annotations

import tensorflow as tf

# What a key is for; the first word folded into the seed, so that no two uses share their numbers.
MEMORY_ORDER, CHUNK_ORDER, WINDOW_ORDER, AUGMENTATION = range(1, 5)

_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def splitmix64(key: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
  """The number at `counter` of the SplitMix64 sequence that starts at `key`.

  Args:
    key: uint64, any shape.
    counter: uint64, broadcastable against `key`; 0 is the first number.

  Returns:
    uint64 in the broadcast shape, uniform over all 64-bit values.
  """
  bits = key + (counter + tf.constant(1, tf.uint64)) * tf.constant(_GAMMA, tf.uint64)
  bits = (bits ^ _shift_right(bits, 30)) * tf.constant(_MULTIPLIERS[0], tf.uint64)
  bits = (bits ^ _shift_right(bits, 27)) * tf.constant(_MULTIPLIERS[1], tf.uint64)
  return bits ^ _shift_right(bits, 31)


def key(seed: int | tf.Tensor, *words: int | tf.Tensor) -> tf.Tensor:
  """A key that names a stream: `words` folded into `seed` one after the other.

  Args:
    seed: integer, any shape.
    *words: integers of any shape, broadcastable against each other; values from 0 to 2**63 - 1.

  Returns:
    uint64 in the broadcast shape.
  """
  folded = _uint64(seed)
  for word in words:
    folded = splitmix64(folded, _uint64(word))
  return folded


def uniform(seed: int | tf.Tensor, epoch: tf.Tensor, index: tf.Tensor, count: int) -> tf.Tensor:
  """The random numbers that the augmentation of an example may use, a function of (seed, epoch, example, k) alone.

  Args:
    seed: integer scalar, the seed of the run.
    epoch: int64 [B], how often the example has been seen before.
    index: int64 [B], the row of the example in its split.
    count: K, numbers wanted per example.

  Returns:
    float32 [B, K], uniform in [0, 1) in steps of 2**-24.
  """
  stream = key(seed, AUGMENTATION, epoch, index)
  bits = splitmix64(stream[:, tf.newaxis], tf.cast(tf.range(count), tf.uint64)[tf.newaxis, :])
  # 24 bits are what a float32 holds without rounding, and rounding could reach 1.
  return tf.cast(_shift_right(bits, 40), tf.float32) * tf.constant(2.0**-24)


def _uint64(value: int | tf.Tensor) -> tf.Tensor:
  return tf.constant(value, tf.uint64) if isinstance(value, int) else tf.cast(value, tf.uint64)


def _shift_right(bits: tf.Tensor, count: int) -> tf.Tensor:
  return tf.bitwise.right_shift(bits, tf.constant(count, tf.uint64))
