"""The tokens of a split's texts, made by several processes and kept in files until all are there.

A split is cut into ranges of consecutive examples, the same ones however many processes there are. The tokens of each
lie in a file of their own, a piece, which is whole as soon as it has its name; so who was killed goes on with those
that are there. The name of the folder says what the pieces are made of, hence those of other texts or of another
tokenizer are never taken. This process reads the records, and others (cutter.py) cut them.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import cutter, records
from trainer.data.tokenizers import Tokenizer

# Records of a piece have about so many bytes: little to lose, and far more work than a file costs.
_PIECE_BYTES = 8 * 1024**2
# Progress is said each time so many bytes of records are done.
_SAID_BYTES = 64 * 1024**2
# Texts that leave TensorFlow together.
_TEXTS = 256

_Range = tuple[int, int, int]


class Pieces:
  """The pieces of one split."""

  def __init__(self, files: Sequence[records.FileRange], text: Callable[[tf.Tensor], tf.Tensor], tokenizer: Tokenizer):
    """Scans the headers of the files.

    Args:
      files: where the split's records lie, in their order.
      text: the text of a serialized example, string scalar to string scalar; graph ops.
      tokenizer: cuts the texts; has learnt.

    Raises:
      ConfigError: a file is damaged.
    """
    self._files, self._text, self._tokenizer = records.RecordFiles(files), text, tokenizer
    each = self._files.cut(0, self._files.size, 1)
    self._ranges = ranges(each.size, _PIECE_BYTES)
    self._table = records.tensors(self._files.cut_each([(begin, end) for begin, end, _ in self._ranges], 2**62))

  def prepare(self, folder: str, processes: int, say: Callable[[str], None]) -> None:
    """Writes those pieces that are not in the folder yet.

    Args:
      folder: theirs alone; made if it is not there.
      processes: that cut at the same time, at most.
      say: takes a line of progress now and then.

    Raises:
      ConfigError: the texts are not for this tokenizer, or a data file is damaged.
      OSError: the folder cannot be written to.
    """
    os.makedirs(folder, exist_ok=True)
    missing = [k for k in range(len(self._ranges)) if not os.path.exists(_path(folder, k))]
    progress = _Progress(sum(size for *_, size in self._ranges), say)
    progress.add(sum(self._ranges[k][2] for k in set(range(len(self._ranges))) - set(missing)))
    if len(missing) <= 1:
      # Not worth a process.
      for k in missing:
        cutter.write(self._tokenizer, _path(folder, k), self._texts(k))
      return
    turn, failed = iter(missing), threading.Event()
    lock = threading.Lock()

    def serve() -> None:
      with _Cutter(self._tokenizer) as other:
        while not failed.is_set():
          with lock:
            k = next(turn, None)
          if k is None:
            return
          other.write(_path(folder, k), self._texts(k))
          with lock:
            progress.add(self._ranges[k][2])

    count = min(processes, len(missing))
    with futures.ThreadPoolExecutor(count) as pool:
      served = [pool.submit(serve) for _ in range(count)]
      try:
        for one in futures.as_completed(served):
          one.result()
      finally:
        failed.set()

  def row(self, folder: str) -> Row:
    """The tokens of all texts, whose pieces are there, in their order, each text with its end."""
    return Row([_path(folder, k) for k in range(len(self._ranges))], cutter.kind(self._tokenizer))

  def _texts(self, k: int) -> list[bytes]:
    """The texts of a range."""
    begin, end, _ = self._ranges[k]
    with tf.device('CPU:0'):
      first = self._table['first'].numpy()
      parts = range(*np.searchsorted(first, [begin, end]))
      read = tf.data.Dataset.from_tensor_slices(tf.constant(parts, tf.int64)).flat_map(
        lambda piece: records.read(self._table, piece)
      )
      batches = read.map(self._text, num_parallel_calls=1, deterministic=True).batch(_TEXTS)
      return [text for batch in batches.as_numpy_iterator() for text in batch]


class Row:
  """Tokens that lie in several files, one behind the other (shards.Row)."""

  def __init__(self, paths: Sequence[str], kind: np.dtype):
    self._paths, self._kind = paths, kind
    self._ends = np.cumsum([0, *(os.path.getsize(path) // kind.itemsize for path in paths)]).tolist()
    self.size: int = self._ends[-1]

  def read(self, begin: int, end: int) -> np.ndarray:
    """int32 [end - begin]."""
    parts = [np.zeros([0], np.int32)]
    k = bisect.bisect_right(self._ends, begin) - 1
    while begin < end:
      first, behind = self._ends[k : k + 2]
      offset = (begin - first) * self._kind.itemsize
      parts.append(np.fromfile(self._paths[k], self._kind, min(end, behind) - begin, offset=offset).astype(np.int32))
      begin, k = behind, k + 1
    return np.concatenate(parts)


class _Cutter:
  """A process of cutter.py."""

  def __init__(self, tokenizer: Tokenizer):
    # The package that cuts has threads of its own, which would fight for the cores of the other processes.
    environment = {
      **os.environ,
      'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
      'TOKENIZERS_PARALLELISM': 'false',
    }
    command = [sys.executable, '-m', cutter.__name__]
    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert self._process.stdin and self._process.stdout
    self._ask, self._answers = self._process.stdin, self._process.stdout
    self._first: list[Any] = [tokenizer]

  def __enter__(self) -> _Cutter:
    return self

  def __exit__(self, *_: object) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._ask.close()
    self._answers.close()
    self._process.wait()

  def write(self, path: str, texts: list[bytes]) -> None:
    """As cutter.write, there."""
    try:
      for each in [*self._first, (path, texts)]:
        pickle.dump(each, self._ask, pickle.HIGHEST_PROTOCOL)
      self._first = []
      self._ask.flush()
      answer = pickle.load(self._answers)
    except (EOFError, BrokenPipeError) as error:
      raise RuntimeError(f'a process that cuts texts has ended with status {self._process.wait()}') from error
    if answer is not None:
      raise answer


class _Progress:
  """Says how far it is, not too often."""

  def __init__(self, whole: int, say: Callable[[str], None]):
    self._whole, self._say, self._done, self._said = whole, say, 0, 0

  def add(self, size: int) -> None:
    self._done += size
    if self._done // _SAID_BYTES > self._said:
      self._said = self._done // _SAID_BYTES
      self._say(f'{self._done / 1e6:.0f} of {self._whole / 1e6:.0f} MB are cut into tokens')


def ranges(sizes: np.ndarray, least: int) -> list[_Range]:
  """Consecutive rows in ranges of at least so many bytes, but for the last.

  Args:
    sizes: int64 [N], bytes of each row.
    least: bytes, at least 1.

  Returns:
    (first row, row behind the last, bytes), in order.
  """
  found, begin, total = [], 0, 0
  for row, size in enumerate(sizes.tolist()):
    total += size
    if total >= least:
      found.append((begin, row + 1, total))
      begin, total = row + 1, 0
  if begin < len(sizes):
    found.append((begin, len(sizes), total))
  return found


def fingerprint(files: Sequence[records.FileRange], feature: str, tokenizer: Tokenizer) -> str:
  """What the pieces of some files depend on, as hex digits: the files as they are now, the text, and the tokenizer."""
  stats = [tf.io.gfile.stat(file.path) for file in files]
  made_of = (
    [(file.path, file.skip, file.take, stat.length, stat.mtime_nsec) for file, stat in zip(files, stats, strict=True)],
    (feature, tokenizer.name, tokenizer.vocabulary.digest, _PIECE_BYTES),
  )
  return hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]


def _path(folder: str, k: int) -> str:
  return os.path.join(folder, f'{k:06d}.tokens')
