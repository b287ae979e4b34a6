"""The counter-based random numbers: exact, uniform, and independent of how they are asked for."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import draws

_MASK = 2**64 - 1


def _splitmix64(key: int, counter: int) -> int:
  """The reference of Steele, Lea and Flood in plain integers."""
  bits = (key + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
  bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
  bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
  return bits ^ (bits >> 31)


def _uniform(seed: int, epoch: int, index: int, k: int) -> float:
  key = seed
  for word in (draws.AUGMENTATION, epoch, index):
    key = _splitmix64(key, word)
  return (_splitmix64(key, k) >> 40) * 2.0**-24


def test_published_sequence():
  numbers = draws.splitmix64(tf.constant(1234567, tf.uint64), tf.cast(tf.range(5), tf.uint64))
  assert numbers.numpy().tolist() == [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
  ]


@settings(max_examples=50, deadline=None)
@given(
  seed=st.integers(0, 2**62),
  rows=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=5),
  count=st.integers(1, 4),
)
def test_equals_reference(seed, rows, count):
  epoch, index = (tf.constant(column, tf.int64) for column in zip(*rows, strict=True))
  ours = draws.uniform(seed, epoch, index, count).numpy()
  assert ours.dtype == np.float32
  expected = [[_uniform(seed, e, i, k) for k in range(count)] for e, i in rows]
  np.testing.assert_array_equal(ours, np.array(expected, np.float32))


def test_graph_equals_eager():
  epoch, index = tf.constant([0, 5], tf.int64), tf.constant([7, 7], tf.int64)
  in_graph = (
    tf.data.Dataset.from_tensors((epoch, index)).map(lambda e, i: draws.uniform(9, e, i, 4)).get_single_element()
  )
  np.testing.assert_array_equal(in_graph, draws.uniform(9, epoch, index, 4))


def test_moments_and_correlations():
  size = 200_000
  sample = draws.uniform(0, tf.zeros([size], tf.int64), tf.range(size, dtype=tf.int64), 3).numpy().astype(np.float64)
  assert sample.min() >= 0 and sample.max() < 1
  tolerance = 5 / np.sqrt(size)
  np.testing.assert_allclose(sample.mean(axis=0), 0.5, atol=tolerance * np.sqrt(1 / 12))
  np.testing.assert_allclose(sample.var(axis=0), 1 / 12, atol=tolerance * np.sqrt(1 / 180))
  next_epoch = draws.uniform(0, tf.ones([size], tf.int64), tf.range(size, dtype=tf.int64), 1).numpy()[:, 0]
  next_seed = draws.uniform(1, tf.zeros([size], tf.int64), tf.range(size, dtype=tf.int64), 1).numpy()[:, 0]
  pairs = {
    'between the numbers of an example': (sample[:, 0], sample[:, 1]),
    'between neighbours': (sample[:-1, 0], sample[1:, 0]),
    'between epochs': (sample[:, 0], next_epoch),
    'between seeds': (sample[:, 0], next_seed),
  }
  for name, (left, right) in pairs.items():
    assert abs(np.corrcoef(left, right)[0, 1]) < tolerance, name


def test_every_value_is_equally_likely():
  size, bins = 2**18, 256
  sample = draws.uniform(4, tf.zeros([size], tf.int64), tf.range(size, dtype=tf.int64), 1).numpy()[:, 0]
  counts = np.bincount((sample * bins).astype(int), minlength=bins)
  chi_square = ((counts - size / bins) ** 2 / (size / bins)).sum()
  assert abs(chi_square - (bins - 1)) < 5 * np.sqrt(2 * (bins - 1))
