"""The order of the examples: (seed, position) -> which example, as pure functions of TensorFlow ops.

Knows no dataset and no topology; works eagerly and inside tf.data graphs. A position counts examples: row r of global
batch k of B examples has position k * B + r. Two orders:

- *memory*: position p of a split of N examples lies in epoch p // N and is entry p % N of that epoch's permutation.
- *lanes*: the split is cut into V contiguous lanes, each an endless sequence of its own; global batch k holds the B /
  V consecutive entries of each lane from position k * B / V of that lane. In a lane, an epoch is a permutation of its
  chunks (runs of records that lie together in a file); so many consecutive chunks form a window, whose records are
  permuted.

In both, what does not fill a batch at the end of an epoch is carried into the next epoch: nothing is dropped, and
each epoch holds each example exactly once.

Legend: n positions asked for, N examples in the split, C chunks of a lane, G chunks per window, W windows per lane
  epoch.
"""

from __future__ import annotations

import tensorflow as tf

from trainer.data import draws

# RandomIndexShuffle walks in a domain of at least 2**16, so it costs 2**16 / N tries per id: at N = 1,437, 1.3 us per
# id. Up to this size, sorting N random keys is cheaper.
_SORTED_UP_TO = 4096
# With 4 rounds, the default of tf.random.experimental.index_shuffle, ids of neighbours correlate by 0.4 at N = 1e6;
# with 12, not.
_ROUNDS = 12


def memory_order(seed: int | tf.Tensor, positions: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Which examples stand at these positions of the memory order.

  Costs time in proportion to the positions and to the epochs they touch (times at most 4,096), not to their values.

  Args:
    seed: integer scalar, the seed of the run.
    positions: int64 [n], from 0 on.
    size: N, at least 1.

  Returns:
    (epoch, index), both int64 [n]; index lies in [0, N) and is, over each epoch, a permutation.
  """
  epoch, entry = positions // size, positions % size
  if size <= _SORTED_UP_TO:
    epochs, which = tf.unique(epoch, out_idx=tf.int64)
    orders = permutation(draws.key(seed, draws.MEMORY_ORDER, epochs), size)
    return epoch, tf.gather_nd(orders, tf.stack([which, entry], axis=1))
  key = draws.key(seed, draws.MEMORY_ORDER, epoch)
  # The op reads three 32-bit words of key per id.
  low, high = key & tf.constant(2**32 - 1, tf.uint64), tf.bitwise.right_shift(key, tf.constant(32, tf.uint64))
  words = tf.cast(tf.stack([low, high, tf.zeros_like(low)], axis=1), tf.int64)
  last = tf.fill(tf.shape(entry), tf.constant(size - 1, tf.int64))
  return epoch, tf.raw_ops.RandomIndexShuffle(index=entry, seed=words, max_index=last, rounds=_ROUNDS)


def permutation(key: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
  """A whole permutation of range(size) per key: the order in which random 64-bit numbers sort.

  Args:
    key: uint64 [...].
    size: scalar.

  Returns:
    int64 [..., size].
  """
  counter = tf.cast(tf.range(tf.cast(size, tf.int64)), tf.uint64)
  numbers = tf.bitcast(draws.splitmix64(key[..., tf.newaxis], counter), tf.int64)
  # top_k promises the lower index first among equals, so the result is defined even for a tie.
  return tf.cast(tf.math.top_k(numbers, tf.shape(numbers)[-1]).indices, tf.int64)


def lane_bounds(lane: int, lanes: int, size: int) -> tuple[int, int]:
  """The rows [begin, end) of the split that a lane goes through; lanes differ by at most one row."""
  return lane * size // lanes, (lane + 1) * size // lanes


def host_lanes(host: int, hosts: int, lanes: int) -> tuple[int, int]:
  """The lanes [begin, end) that a host reads; `hosts` divides `lanes`."""
  share = lanes // hosts
  return host * share, (host + 1) * share


def chunk_order(seed: int | tf.Tensor, lane: tf.Tensor, epoch: tf.Tensor, chunks: tf.Tensor) -> tf.Tensor:
  """The order, int64 [C], in which a lane goes through its C chunks in an epoch."""
  return permutation(draws.key(seed, draws.CHUNK_ORDER, lane, epoch), chunks)


def window_bounds(counts: tf.Tensor, group: int) -> tf.Tensor:
  """Where the windows of a lane epoch begin and end.

  Args:
    counts: int64 [C], records of each chunk, in the order of the epoch.
    group: G, consecutive chunks that form a window.

  Returns:
    int64 [W + 1], positions within the epoch; window w holds the positions [bounds[w], bounds[w + 1]).
  """
  ends = tf.cumsum(counts)
  chunks = tf.size(counts, tf.int64)
  last = tf.minimum(tf.range(group, chunks + group, group, dtype=tf.int64), chunks) - 1
  return tf.concat([[tf.constant(0, tf.int64)], tf.gather(ends, last)], axis=0)


def window_at(bounds: tf.Tensor, entry: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """(window, records of it that come before) of a position within an epoch, given `window_bounds`; int64 scalars."""
  window = tf.searchsorted(bounds, entry[tf.newaxis], side='right', out_type=tf.int64)[0] - 1
  return window, entry - bounds[window]


def window_order(
  seed: int | tf.Tensor, lane: tf.Tensor, epoch: tf.Tensor, window: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
  """The order, int64 [size], in which the records of a window are taken."""
  return permutation(draws.key(seed, draws.WINDOW_ORDER, lane, epoch, window), size)


def chunks_per_window(chunk_records: int, window_records: int) -> int:
  """G: as many chunks as fit into a window, but at least one."""
  return max(1, window_records // chunk_records)


def lane_order(
  seed: int | tf.Tensor, lane: int, position: int, first: tf.Tensor, counts: tf.Tensor, group: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """Which example stands at a position of a lane; trainer/data/lanes.py goes through the same functions in order.

  Args:
    seed: integer scalar, the seed of the run.
    lane: which of the V lanes.
    position: position in the lane, from 0 on.
    first: int64 [C], row in the split of the first record of each chunk of the lane.
    counts: int64 [C], records of each chunk.
    group: G, chunks per window.

  Returns:
    (epoch of the lane, index in the split), int64 scalars.
  """
  lane, position = tf.constant(lane, tf.int64), tf.constant(position, tf.int64)
  size = tf.reduce_sum(counts)
  epoch, entry = position // size, position % size
  chunks = chunk_order(seed, lane, epoch, tf.size(counts))
  bounds = window_bounds(tf.gather(counts, chunks), group)
  window, skip = window_at(bounds, entry)
  of_window = chunks[window * group : (window + 1) * group]
  rows = tf.ragged.range(tf.gather(first, of_window), tf.gather(first + counts, of_window)).flat_values
  return epoch, rows[window_order(seed, lane, epoch, window, tf.size(rows))[skip]]
