"""What a start at a far step costs: as much as at a near one in memory, at most a window of records per lane."""

from __future__ import annotations

import statistics
import time

import pytest
import tensorflow as tf

from tests.data import small
from trainer.data import lanes, memory, order, records
from trainer.data.source import open_dataset

STEPS = [0, 10, 999_983, 1_000_000, 10**9]


@pytest.mark.parametrize('start', STEPS)
def test_memory_makes_no_batch_before_the_first(start, monkeypatch):
  """Counts the positions that are looked up until the first batch is there."""
  asked = tf.Variable(0, dtype=tf.int64)
  original = order.memory_order

  def counted(seed, positions, size):
    with tf.control_dependencies([asked.assign_add(tf.size(positions, tf.int64))]):
      return original(seed, tf.identity(positions), size)

  monkeypatch.setattr(memory.order, 'memory_order', counted)
  share = memory.Share(batch=8, host=0, hosts=1, replicas=1)
  block = memory.block_batches(8 * 4)
  rows = {'inputs': tf.range(50)}
  dataset = memory.train(rows, 50, share, 0, start, block, lambda batch, epoch: batch)
  next(iter(dataset.take(1)))
  # The block that holds the batch, and those that are made ahead meanwhile.
  assert 8 * block <= asked.numpy() <= 8 * block * 4


def _count_reads(monkeypatch) -> tf.Variable:
  read = tf.Variable(0, dtype=tf.int64)
  original = records.read

  def counted(table, piece):
    def count(serialized):
      with tf.control_dependencies([read.assign_add(1)]):
        return tf.identity(serialized)

    return original(table, piece).map(count)

  monkeypatch.setattr(lanes.records, 'read', counted)
  return read


@pytest.mark.parametrize('start', STEPS)
@pytest.mark.parametrize(('chunk', 'window'), [(64, 256), (4, 8), (1, 1), (16, 5)])
def test_lane_reads_at_most_a_window(data_dir, monkeypatch, start, chunk, window):
  read = _count_reads(monkeypatch)
  files = open_dataset(small.config(data_dir)).train.files
  spec = lanes.LanesOrder(seed=1, lanes=3, batch=9, chunk_records=chunk, window_records=window)
  table = records.tensors(files.cut(*order.lane_bounds(1, 3, files.size), spec.chunk))
  chunks = tf.constant(0, tf.int64), tf.size(table['first'], tf.int64)
  (epoch, index, _), *_ = lanes._lane(table, chunks, spec, tf.constant(1, tf.int64), start).take(1)
  assert 1 <= read.numpy() <= window
  expected = order.lane_order(1, 1, start * spec.block, table['first'], table['count'], spec.group)
  assert (int(epoch[0]), int(index[0])) == tuple(map(int, expected))


@pytest.mark.parametrize('start', [0, 1_000_000])
def test_tiny_lanes_read_little(data_dir, monkeypatch, start):
  """Five records per lane: the first batch costs a few epochs of each lane at most, however far the step."""
  read = _count_reads(monkeypatch)
  files = open_dataset(small.config(data_dir, train_split='train[:20]')).train.files
  spec = lanes.LanesOrder(seed=1, lanes=4, batch=8, chunk_records=2, window_records=4)
  list(lanes.stream(files, spec, 0, 1, start).take(8))
  # Lanes read ahead while others are waited for; what matters is that it does not grow with the step.
  assert 8 <= read.numpy() <= 4 * 64


def test_only_own_files_are_scanned(tmp_path):
  small.shard(tmp_path, 4)
  small.data_files(tmp_path)[3].write_bytes(b'')  # the last of the four hosts' files
  files = open_dataset(small.config(tmp_path)).train.files
  spec = lanes.LanesOrder(seed=1, lanes=4, batch=8, chunk_records=64, window_records=64)
  assert len(list(lanes.stream(files, spec, 0, 4, 7).take(2))) == 2
  with pytest.raises(ValueError, match=str(small.data_files(tmp_path)[3])):
    lanes.stream(files, spec, 3, 4, 7)


@pytest.mark.slow
def test_memory_seek_time(data_dir):
  """The first batch at step 1,000,000 takes at most 1.05 times as long as at step 10."""
  made = small.pipeline(small.config(data_dir, source='memory', batch=64))
  strategy = tf.distribute.get_strategy()

  def seconds(start: int) -> float:
    begin = time.perf_counter()
    iterator = iter(made.train(strategy, start))
    next(iterator)
    return time.perf_counter() - begin

  seconds(0)
  # Other load on the machine only ever adds time, so of several tries one fair one is enough.
  ratios = []
  for _ in range(4):
    near, far = zip(*((seconds(10), seconds(1_000_000)) for _ in range(15)), strict=True)
    ratios.append(statistics.median(far) / statistics.median(near))
    if ratios[-1] <= 1.05:
      return
  pytest.fail(f'ratios of the medians: {ratios}')
