"""TFRecord files as records that can be found: where each one lies, runs of them, and reading a run in graph ops.

Knows the TFRecord format and no dataset. A record is a 12-byte header (its length as uint64, little endian, and a
masked CRC-32C of that), its bytes and a 4-byte CRC of them (tensorflow/core/lib/io/record_writer.h). One pass over
the headers gives every offset. Files are uncompressed, as TFDS writes them, on any file system that tf.io.gfile
reads.

Legend: F files, P pieces.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError

_HEADER_BYTES = 12
_FRAME_BYTES = 16
# A piece is fetched with reads of this size at most: a few round trips on a remote file system, bounded memory per
# reader.
_READ_BYTES = 8 * 1024**2
# A scan of a remote file fetches so much at a time: many small records, or one header of a large one.
_SCAN_BYTES = 64 * 1024
# Header scans wait for the disk or the network more than for the CPU.
_SCAN_THREADS = 16


@dataclasses.dataclass(frozen=True)
class FileRange:
  """The records [skip, skip + take) of one file that holds `records` of them."""

  path: str
  skip: int
  take: int
  records: int


@dataclasses.dataclass(frozen=True)
class Pieces:
  """Runs of records, each inside one file; P runs.

  Attributes:
    paths: the F files that the runs lie in.
    file: int64 [P], which of the paths.
    offset: int64 [P], byte at which the first record begins.
    size: int64 [P], bytes from there to the end of the last record.
    count: int64 [P], records in the run.
    first: int64 [P], row in the split of the first record.
  """

  paths: tuple[str, ...]
  file: np.ndarray
  offset: np.ndarray
  size: np.ndarray
  count: np.ndarray
  first: np.ndarray

  @property
  def records(self) -> int:
    return int(self.count.sum())


class RecordFiles:
  """The records of a split: row r is the r-th record of these ranges of files. A file is scanned when first asked."""

  def __init__(self, files: Sequence[FileRange]):
    self.files = tuple(files)
    self._starts = np.concatenate([[0], np.cumsum([file.take for file in files])]).astype(np.int64)
    self._offsets: dict[str, np.ndarray] = {}

  @property
  def size(self) -> int:
    return int(self._starts[-1])

  def cut(self, begin: int, end: int, largest: int) -> Pieces:
    """The rows [begin, end) as pieces of at most `largest` records, in order; a piece ends where its file ends.

    Raises:
      ConfigError: a file is truncated, is not a TFRecord file, or does not hold what it should; the message names it.
    """
    return self.cut_each([(begin, end)], largest)

  def cut_each(self, ranges: Sequence[tuple[int, int]], largest: int) -> Pieces:
    """As `cut`, for several row ranges one after the other; no piece crosses from one range to the next."""
    parts: list[tuple[int, int, int, int]] = []  # file, first row, begin and end among the file's records
    for begin, end in ranges:
      file = int(np.searchsorted(self._starts, begin, side='right')) - 1
      while begin < end:
        stop = min(end, int(self._starts[file + 1]))
        shift = self.files[file].skip - int(self._starts[file])
        if stop > begin:
          parts.append((file, begin, begin + shift, stop + shift))
        begin, file = max(begin, stop), file + 1
    self._scan({self.files[file] for file, *_ in parts})
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for file, row, begin, end in parts:
      offsets = self._offsets[self.files[file].path]
      starts = np.arange(begin, end, largest, dtype=np.int64)
      ends = np.minimum(starts + largest, end)
      values = (
        np.full_like(starts, file),
        offsets[starts],
        offsets[ends] - offsets[starts],
        ends - starts,
        row + starts - begin,
      )
      for column, value in zip(columns, values, strict=True):
        column.append(value)
    joined = [np.concatenate(column) if column else np.zeros([0], np.int64) for column in columns]
    return Pieces(tuple(file.path for file in self.files), *joined)

  def _scan(self, files: set[FileRange]) -> None:
    missing = {file.path: file for file in files if file.path not in self._offsets}
    if not missing:
      return
    with concurrent.futures.ThreadPoolExecutor(min(_SCAN_THREADS, len(missing))) as pool:
      for path, offsets in zip(missing, pool.map(scan, missing), strict=True):
        if len(offsets) - 1 != missing[path].records:
          raise ConfigError(
            f'data file {path} holds {len(offsets) - 1} records, its dataset_info.json says {missing[path].records}: '
            'prepare the dataset again'
          )
        self._offsets[path] = offsets


def scan(path: str) -> np.ndarray:
  """The byte offsets of the records of a TFRecord file.

  Returns:
    int64 [records + 1]; the last one is the end of the file.

  Raises:
    ConfigError: the file cannot be read, is truncated, or is not an uncompressed TFRecord file.
  """
  try:
    with _opened(path) as (read, size):
      offsets, headers, position = [0], [], 0
      while position < size:
        header = read(position)
        if len(header) < _HEADER_BYTES:
          raise ConfigError(f'data file {path} is truncated at byte {size}: prepare the dataset again')
        headers.append(header)
        position += _FRAME_BYTES + struct.unpack_from('<Q', header)[0]
        offsets.append(position)
  except (OSError, tf.errors.OpError) as error:
    raise ConfigError(f'data file {path} cannot be read: {_first_line(error)}') from error
  # A flipped bit in a length leads astray; the first header whose checksum fails is where.
  table = np.frombuffer(b''.join(headers), np.uint8).reshape(-1, _HEADER_BYTES)
  broken = np.flatnonzero(_masked_crc32c(table[:, :8]) != table[:, 8:].copy().view('<u4')[:, 0])
  if broken.size:
    raise ConfigError(
      f'data file {path} is corrupt at byte {offsets[broken[0]]}, or is no uncompressed TFRecord file: '
      'prepare the dataset again'
    )
  if position > size:
    raise ConfigError(
      f'data file {path} is truncated: it ends at byte {size}, its last record at {position}; prepare it again'
    )
  return np.asarray(offsets, np.int64)


def check_readable(path: str) -> None:
  """Raises ConfigError, naming the file, where it is missing or may not be read."""
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      file.read(1)
  except (OSError, tf.errors.OpError) as error:
    raise ConfigError(f'data file {path} cannot be read: {_first_line(error)}') from error


def tensors(pieces: Pieces) -> dict[str, tf.Tensor]:
  """The pieces as tensors for `read`: 'paths' string [F], and int64 [P] 'file', 'offset', 'size', 'count', 'first'."""
  columns = {field: tf.constant(getattr(pieces, field)) for field in ('file', 'offset', 'size', 'count', 'first')}
  return {'paths': tf.constant(pieces.paths, tf.string), **columns}


def read(table: dict[str, tf.Tensor], piece: tf.Tensor) -> tf.data.Dataset:
  """The records of one piece, serialized, in graph ops only; to be called in the function of a flat_map or interleave,
  because tf.data cannot rebuild the raw op where it stands at the top of a graph (TensorFlow 2.21).

  Args:
    table: what `tensors` gave.
    piece: int64 scalar, row of the table.

  Returns:
    Dataset of string scalars.
  """
  variant = tf.raw_ops.TFRecordDatasetV2(
    filenames=tf.gather(table['paths'], table['file'][piece])[tf.newaxis],
    compression_type='',
    buffer_size=tf.minimum(table['size'][piece], _READ_BYTES),
    byte_offsets=table['offset'][piece][tf.newaxis],
  )
  return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(table['count'][piece])


def rows(table: dict[str, tf.Tensor], pieces: tf.Tensor) -> tf.Tensor:
  """The rows in the split, int64 [n], of the records that `read` gives for these pieces, int64 [P]."""
  first, count = tf.gather(table['first'], pieces), tf.gather(table['count'], pieces)
  return tf.ragged.range(first, first + count).flat_values


def damaged_file(files: Sequence[FileRange]) -> str | None:
  """The first file with a record whose bytes do not fit its checksum, found by reading all; None when there is none."""
  for file in files:
    try:
      tf.data.TFRecordDataset(file.path).reduce(np.int64(0), lambda count, _: count + 1)
    except tf.errors.OpError:
      return file.path
  return None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Callable[[int], bytes], int]]:
  """(a function that reads the header at a byte, the size in bytes) of a file."""
  if '://' in path:
    with tf.io.gfile.GFile(path, 'rb') as file:
      begin, window = 0, b''

      def from_window(position: int) -> bytes:
        nonlocal begin, window
        if not begin <= position <= begin + len(window) - _HEADER_BYTES:
          file.seek(position)
          begin, window = position, file.read(_SCAN_BYTES)
        return window[position - begin : position - begin + _HEADER_BYTES]

      yield from_window, file.size()
    return
  with open(path, 'rb') as file:
    size = file.seek(0, 2)
    if not size:
      yield lambda position: b'', 0
      return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
      yield lambda position: view[position : position + _HEADER_BYTES], size


def _crc32c_table() -> np.ndarray:
  """uint32 [256]: the remainders of CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), one per byte."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
  return table


def _masked_crc32c(rows: np.ndarray) -> np.ndarray:
  """The checksum that TFRecord stores, of each row of a uint8 [n, bytes] table, as uint32 [n]."""
  table = _crc32c_table()
  crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
  for column in rows.T:
    crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
  crc = ~crc
  return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def _first_line(error: BaseException) -> str:
  return str(error).splitlines()[0] if str(error) else type(error).__name__
