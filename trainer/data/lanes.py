"""The records of a streamed split in the lanes order, for one host: read in chunks by byte offset, shuffled in windows.

Knows the order (trainer/data/order.py) and where the records lie (trainer/data/records.py), not what they hold:
records stay undecoded here. Graph ops only, so that it runs on hosts without Python.

Legend: V lanes of the split, L of them on this host, P chunks of these, C chunks of a lane, G chunks per window, W
windows per lane epoch, n records.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainer.data import order, records
from trainer.errors import ConfigError

# Far above any step times batch, far below overflow.
_ENDLESS = 2**62


@dataclasses.dataclass(frozen=True)
class LanesOrder:
  """What the lanes order of a run depends on, beside the files.

  Attributes:
    seed: seed of the run.
    lanes: V; divides the batch.
    batch: global batch size.
    chunk_records: largest number of records in a chunk.
    window_records: largest number of records in a window.
  """

  seed: int
  lanes: int
  batch: int
  chunk_records: int
  window_records: int

  @property
  def block(self) -> int:
    """Records of each lane in a batch."""
    return self.batch // self.lanes

  @property
  def chunk(self) -> int:
    """Records in a full chunk; a chunk lies within one window."""
    return min(self.chunk_records, self.window_records)

  @property
  def group(self) -> int:
    """G."""
    return order.chunks_per_window(self.chunk, self.window_records)

  def check(self, size: int) -> None:
    """Raises ConfigError where the split has fewer examples than lanes."""
    if size < self.lanes:
      raise ConfigError(
        f'data.lanes={self.lanes} is more than the {size} examples of data.train_split: lower data.lanes'
      )


def stream(files: records.RecordFiles, spec: LanesOrder, host: int, hosts: int, start_step: int) -> tf.data.Dataset:
  """The records that this host feeds, batch after batch from `start_step` on, lane after lane in each batch; endless.

  Costs at the start: one scan of the headers of the host's files, and in each lane at most one window of records.

  Args:
    files: the split.
    spec: the order.
    host: which of the hosts this is.
    hosts: number of hosts; divides the number of lanes.
    start_step: first global batch.

  Returns:
    Dataset of (epoch of the lane int64, row in the split int64, serialized example string).

  Raises:
    ConfigError: a file is damaged, or there are more lanes than examples.
  """
  spec.check(files.size)
  begin, end = order.host_lanes(host, hosts, spec.lanes)
  bounds = [order.lane_bounds(lane, spec.lanes, files.size) for lane in range(begin, end)]
  pieces = files.cut_each(bounds, spec.chunk)
  # Pieces lie in row order, hence each lane's pieces follow each other.
  starts = np.searchsorted(pieces.first, [bound for bound, _ in bounds])
  lane_starts = tf.constant([*starts, len(pieces.first)], tf.int64)
  table = records.tensors(pieces)

  def lane_records(lane: tf.Tensor) -> tf.data.Dataset:
    chunks = lane_starts[lane - begin], lane_starts[lane - begin + 1]
    return _lane(table, chunks, spec, lane, start_step)

  return tf.data.Dataset.range(begin, end).interleave(
    lambda lane: lane_records(lane).unbatch(),
    cycle_length=end - begin,
    block_length=spec.block,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


def _lane(
  table: dict[str, tf.Tensor], chunks: tuple[tf.Tensor, tf.Tensor], spec: LanesOrder, lane: tf.Tensor, start_step: int
) -> tf.data.Dataset:
  """One lane, endless, from the position on that `start_step` has: (epoch, row, serialized) [n], a window at a time."""
  low, high = chunks
  counts = table['count'][low:high]
  size = tf.reduce_sum(counts)
  start = tf.constant(start_step * spec.block, tf.int64)
  first_epoch, entry = start // size, start % size

  def epoch_windows(epoch: tf.Tensor) -> tf.data.Dataset:
    # Once per epoch, not per window: a lane of a large split has very many chunks.
    chunk_order = order.chunk_order(spec.seed, lane, epoch, high - low)
    bounds = order.window_bounds(tf.gather(counts, chunk_order), spec.group)
    is_first = epoch == first_epoch
    first_window, skip = order.window_at(bounds, tf.where(is_first, entry, 0))

    def window_records(window: tf.Tensor) -> tf.data.Dataset:
      pieces = low + chunk_order[window * spec.group : (window + 1) * spec.group]
      size = bounds[window + 1] - bounds[window]

      def shuffled(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        take = order.window_order(spec.seed, lane, epoch, window, size)
        take = take[tf.where(is_first & (window == first_window), skip, 0) :]
        return tf.fill(tf.shape(take), epoch), tf.gather(records.rows(table, pieces), take), tf.gather(serialized, take)

      read = tf.data.Dataset.from_tensor_slices(pieces).flat_map(lambda piece: records.read(table, piece))
      return read.batch(size).map(shuffled)

    return tf.data.Dataset.range(first_window, tf.size(bounds, tf.int64) - 1).flat_map(window_records)

  return tf.data.Dataset.range(first_epoch, _ENDLESS).flat_map(epoch_windows)
