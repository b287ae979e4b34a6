"""The order of the examples: permutations, far steps, lanes and windows; no data involved."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import order

_SEEDS = st.integers(0, 2**62)


def _memory(seed: int, positions, size: int) -> tuple[np.ndarray, np.ndarray]:
  epoch, index = order.memory_order(seed, tf.constant(positions, tf.int64), size)
  return epoch.numpy(), index.numpy()


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 150), batch=st.integers(1, 70), seed=_SEEDS, first_epoch=st.integers(0, 2**40))
def test_each_epoch_is_a_permutation(size, batch, seed, first_epoch):
  """Of any size, for any batch, whole epochs after each other; what a batch leaves over is carried."""
  begin = first_epoch * size
  batches = [np.arange(p, min(p + batch, begin + 2 * size)) for p in range(begin, begin + 2 * size, batch)]
  read = [_memory(seed, positions, size) for positions in batches]
  epochs, ids = (np.concatenate(column) for column in zip(*read, strict=True))
  np.testing.assert_array_equal(epochs, np.repeat([first_epoch, first_epoch + 1], size))
  for ids_of_epoch in np.split(ids, 2):
    np.testing.assert_array_equal(np.sort(ids_of_epoch), np.arange(size))


@pytest.mark.parametrize('size', [4096, 4097, 70_001])
def test_each_epoch_is_a_permutation_where_the_method_changes(size):
  epochs, ids = _memory(5, np.arange(3 * size), size)
  for epoch in range(3):
    np.testing.assert_array_equal(np.sort(ids[epochs == epoch]), np.arange(size))
  assert (ids[:size] != ids[size : 2 * size]).mean() > 0.99


@settings(max_examples=30, deadline=None)
@given(
  size=st.sampled_from([1, 2, 17, 1437, 5000, 10**9]),
  seed=_SEEDS,
  positions=st.lists(st.integers(0, 10**15), min_size=1, max_size=8),
)
def test_a_position_is_the_same_whoever_asks(size, seed, positions):
  together = _memory(seed, positions, size)
  alone = [_memory(seed, [position], size) for position in positions]
  np.testing.assert_array_equal(together[1], np.concatenate([index for _, index in alone]))
  assert together[1].min() >= 0 and together[1].max() < size


def test_far_steps_do_not_overflow():
  size, batch, step = 1_281_167, 4096, 10**9
  epoch, ids = _memory(0, step * batch + np.arange(batch), size)
  assert epoch[0] == step * batch // size
  assert len(set(ids)) == batch


def test_graph_equals_eager():
  positions = tf.range(100, dtype=tf.int64)
  for size in (37, 5000):
    traced = tf.function(lambda p, size=size: order.memory_order(1, p, size))(positions)
    for left, right in zip(traced, order.memory_order(1, positions, size), strict=True):
      np.testing.assert_array_equal(left, right)


def test_seeds_and_epochs_give_different_orders():
  first = _memory(0, np.arange(1000), 500)[1]
  other = _memory(1, np.arange(1000), 500)[1]
  assert (first[:500] != first[500:]).mean() > 0.95
  assert (first != other).mean() > 0.95


@pytest.fixture(scope='module')
def million() -> tuple[np.ndarray, np.ndarray]:
  """Two epochs of the permutation of a million."""
  ids = _memory(7, np.arange(2_000_000), 1_000_000)[1]
  return ids[:1_000_000], ids[1_000_000:]


def test_a_million_is_shuffled_without_serial_correlation(million):
  first, second = million
  limit = 5 / np.sqrt(len(first))
  for lag in (1, 2, 64, 1000):
    assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < limit, lag
  assert abs(np.corrcoef(first, second)[0, 1]) < limit
  assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < limit


def test_a_million_is_shuffled_evenly(million):
  """Chi-square: each part of the split comes equally often in each part of the epoch, and after each other part."""
  first, second = million
  size, bins = len(first), 50
  part = size // bins
  expected, freedom = size / bins**2, (bins - 1) ** 2
  pairs = {
    'position': (np.arange(size), first),
    'neighbour': (first[:-1], first[1:]),
    'next epoch': (first, second),
  }
  for name, (left, right) in pairs.items():
    counts = np.histogram2d(left // part, right // part, bins=bins)[0]
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom), name


def test_small_splits_are_shuffled_evenly():
  """Chi-square over epochs: each example is equally likely to be at each place."""
  size, epochs = 20, 4000
  ids = _memory(3, np.arange(size * epochs), size)[1].reshape(epochs, size)
  counts = np.array([np.bincount(column, minlength=size) for column in ids.T])
  chi_square = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
  freedom = (size - 1) ** 2
  assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@given(lanes=st.integers(1, 64), extra=st.integers(0, 10**6))
def test_lanes_cover_the_split_evenly(lanes, extra):
  size = lanes + extra
  bounds = [order.lane_bounds(lane, lanes, size) for lane in range(lanes)]
  assert bounds[0][0] == 0 and bounds[-1][1] == size
  assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))
  sizes = [end - begin for begin, end in bounds]
  assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


@given(hosts=st.sampled_from([1, 2, 4, 8]), share=st.integers(1, 8))
def test_hosts_share_all_lanes(hosts, share):
  lanes = hosts * share
  shared = [lane for host in range(hosts) for lane in range(*order.host_lanes(host, hosts, lanes))]
  assert shared == list(range(lanes))


@settings(max_examples=20, deadline=None)
@given(
  counts=st.lists(st.integers(1, 5), min_size=1, max_size=9),
  group=st.integers(1, 5),
  seed=_SEEDS,
  lane=st.integers(0, 63),
  epoch=st.integers(0, 2**30),
)
def test_a_lane_epoch_is_a_permutation(counts, group, seed, lane, epoch):
  """Whatever the chunks; and no record leaves its window."""
  size = sum(counts)
  first = tf.constant(np.cumsum([0, *counts[:-1]]) + 1000, tf.int64)
  table = first, tf.constant(counts, tf.int64), group
  read = [order.lane_order(seed, lane, epoch * size + entry, *table) for entry in range(size)]
  assert {int(e) for e, _ in read} == {epoch}
  ids = np.array([int(index) for _, index in read])
  np.testing.assert_array_equal(np.sort(ids), np.arange(1000, 1000 + size))
  chunk_of = np.repeat(np.arange(len(counts)), counts)
  chunks = order.chunk_order(seed, tf.constant(lane, tf.int64), tf.constant(epoch, tf.int64), len(counts)).numpy()
  begin = 0
  for window in (chunks[at : at + group] for at in range(0, len(counts), group)):
    end = begin + sum(counts[chunk] for chunk in window)
    assert set(chunk_of[ids[begin:end] - 1000]) == set(window)
    begin = end


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=9), group=st.integers(1, 6))
def test_windows_hold_every_position_once(counts, group):
  bounds = order.window_bounds(tf.constant(counts, tf.int64), group)
  assert bounds.numpy()[0] == 0 and bounds.numpy()[-1] == sum(counts)
  for position in range(sum(counts)):
    window, before = (int(x) for x in order.window_at(bounds, tf.constant(position, tf.int64)))
    assert bounds[window] <= position < bounds[window + 1]
    assert before == position - bounds[window]


def test_chunks_per_window():
  assert order.chunks_per_window(64, 256) == 4
  assert order.chunks_per_window(64, 100) == 1
  assert order.chunks_per_window(64, 10) == 1
