"""Records of one length out of a row of tokens, in files as TFDS writes them, several at a time.

Record k holds the tokens from k * stride on, one more than the model sees. Which records a file has depends on nothing
but how many there are; it is whole as soon as it has its name, so who was killed goes on with those that are there.

Legend: L tokens of a record, n records.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer import durable

# Tokens of the records in a file, about, and of those that are made into bytes together.
_FILE_TOKENS, _BATCH_TOKENS = 32 * 1024**2, 1024**2
# What a record takes in a file beside its own bytes: its length and two checksums.
_FRAME_BYTES = 16


class Row(Protocol):
  """Tokens, of which some are read at a time."""

  size: int

  def read(self, begin: int, end: int) -> np.ndarray:
    """int32 [end - begin]."""


@dataclasses.dataclass(frozen=True)
class Cut:
  """How a row is cut into records.

  Attributes:
    length: tokens that the model sees; a record has one more.
    stride: from the beginning of a record to that of the next, at most `length`.
    end: fills what is behind the last token.
  """

  length: int
  stride: int
  end: int

  def count(self, tokens: int) -> int:
    """Records of a row of so many tokens; what the last is filled up for has one at least that no other has learnt."""
    whole = max(0, tokens - self.length - 1 + self.stride) // self.stride
    # The first token has none before it; what lies in the record before this one has been learnt.
    learnt = self.length + 1 - self.stride if whole else 1
    return whole + (tokens - whole * self.stride > learnt)

  def records(self, row: Row, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Records `begin` to `end`: int32 [n, L], and how many tokens of each have one before them in it, int32 [n]."""
    first, last = begin * self.stride, (end - 1) * self.stride + self.length + 1
    tokens = row.read(first, min(last, row.size))
    tokens = np.pad(tokens, (0, last - first - len(tokens)), constant_values=self.end)
    counts = np.minimum(self.length, row.size - 1 - self.stride * np.arange(begin, end))
    return np.lib.stride_tricks.sliding_window_view(tokens, self.length + 1)[:: self.stride], counts.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records, its number of them, and their bytes."""

  path: str
  records: int
  bytes: int


def write(row: Row, cut: Cut, folder: str, threads: int, say: Callable[[str], None]) -> list[Shard]:
  """Writes those files that are not in the folder yet.

  Args:
    row: all tokens.
    cut: how they become records.
    folder: that is there, with no other files of records in it.
    threads: that write at the same time, at most.
    say: takes a line of progress now and then.

  Returns:
    All files in the order of their records; none where there is no record.

  Raises:
    OSError: the folder cannot be written to.
    tf.errors.OpError: likewise.
  """
  total, each = cut.count(row.size), max(1, _FILE_TOKENS // (cut.length + 1))
  ranges = [(begin, min(total, begin + each)) for begin in range(0, total, each)]
  stop = threading.Event()

  def make(begin: int, end: int) -> Shard:
    path = os.path.join(folder, f'{begin:012d}-{end:012d}.records')
    if not os.path.exists(path) and not stop.is_set():
      _write(path, row, cut, begin, end)
    return Shard(path, end - begin, os.path.getsize(path) - _FRAME_BYTES * (end - begin))

  with futures.ThreadPoolExecutor(max(1, min(threads, len(ranges)))) as pool:
    made = [pool.submit(make, *each) for each in ranges]
    try:
      found = []
      for (_, end), shard in zip(ranges, made, strict=True):
        found.append(shard.result())
        if end < total:
          say(f'{end} of {total} records are written')
      return found
    finally:
      stop.set()


def _write(path: str, row: Row, cut: Cut, begin: int, end: int) -> None:
  own, each = f'{path}.tmp', max(1, _BATCH_TOKENS // (cut.length + 1))
  with tf.device('CPU:0'), tf.io.TFRecordWriter(own) as writer:
    for first in range(begin, end, each):
      for example in serialized(*cut.records(row, first, min(end, first + each))).numpy():
        writer.write(example)
  durable.settle(own, path)


def serialized(tokens: np.ndarray, counts: np.ndarray) -> tf.Tensor:
  """Each record as the tf.train.Example that TFDS makes of one with the features `tokens` and `count`.

  Args:
    tokens: int32 [n, L].
    counts: int32 [n].

  Returns:
    string [n].
  """
  features = tf.stack([_feature('count', counts[:, np.newaxis]), _feature('tokens', tokens)], 1)
  return _message('Example', features=_message('Features', feature=features)[:, tf.newaxis])


def _feature(name: str, numbers: np.ndarray) -> tf.Tensor:
  """[n, ...] -> an entry of a tf.train.Features for each of the n, string [n]."""
  listed = _message('Int64List', value=tf.constant(numbers, tf.int64))
  feature = _message('Feature', int64_list=listed[:, tf.newaxis])
  return _message('Features.FeatureEntry', key=tf.fill([len(numbers), 1], name), value=feature[:, tf.newaxis])


def _message(kind: str, **fields: tf.Tensor) -> tf.Tensor:
  """Messages of TensorFlow's out of their fields, each [n, times that it is there] -> string [n]."""
  values = list(fields.values())
  sizes = tf.constant([[value.shape[1] for value in values]] * values[0].shape[0], tf.int32)
  return tf.io.encode_proto(sizes, values, list(fields), f'tensorflow.{kind}')
