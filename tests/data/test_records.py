"""TFRecord files: offsets by a scan, pieces of them, reading from an offset, and what damage does."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import records
from trainer.errors import ConfigError


def _write(path: pathlib.Path, sizes: list[int], compression: str = '') -> list[bytes]:
  contents = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
  with tf.io.TFRecordWriter(str(path), options=compression) as writer:
    for content in contents:
      writer.write(content)
  return contents


def _read(pieces: records.Pieces) -> list[bytes]:
  table = records.tensors(pieces)
  dataset = tf.data.Dataset.range(len(pieces.first)).flat_map(lambda piece: records.read(table, piece))
  return list(dataset.as_numpy_iterator())


@pytest.fixture
def split(tmp_path):
  """(files, contents of the rows): three files, of which the second is used in part and the third is empty."""
  first, second, empty = (tmp_path / name for name in ('first', 'second', 'empty'))
  rows = _write(first, [0, 5, 1000, 3, 70_000])
  rows += _write(second, list(range(1, 31)))[10:25]
  _write(empty, [])
  ranges = [(first, 0, 5, 5), (second, 10, 15, 30), (empty, 0, 0, 0)]
  return records.RecordFiles([records.FileRange(str(path), *numbers) for path, *numbers in ranges]), rows


@pytest.mark.parametrize('prefix', ['', 'file://'])
def test_offsets_are_where_the_records_begin(tmp_path, prefix):
  path = tmp_path / 'data'
  sizes = [0, 1, 7, 65_536, 200_000, 3]
  _write(path, sizes)
  offsets = records.scan(f'{prefix}{path}')
  np.testing.assert_array_equal(offsets, np.cumsum([0, *(size + 16 for size in sizes)]))
  assert offsets[-1] == path.stat().st_size


@pytest.mark.parametrize('largest', [1, 2, 4, 100])
def test_pieces_hold_the_rows_in_order(split, largest):
  files, rows = split
  pieces = files.cut(0, files.size, largest)
  assert files.size == len(rows) == pieces.records
  assert _read(pieces) == rows
  assert pieces.count.max() <= largest
  np.testing.assert_array_equal(pieces.first, np.cumsum([0, *pieces.count[:-1]]))
  # A piece lies within one file.
  assert all((first < 5) == (first + count <= 5) for first, count in zip(pieces.first, pieces.count, strict=True))


def test_pieces_of_a_part(split):
  files, rows = split
  for begin, end in [(0, 0), (0, 1), (3, 8), (5, 20), (19, 20)]:
    assert _read(files.cut(begin, end, 3)) == rows[begin:end]


def test_pieces_of_several_parts_do_not_join(split):
  files, rows = split
  pieces = files.cut_each([(6, 8), (8, 12), (1, 2)], 100)
  assert pieces.count.tolist() == [2, 4, 1]
  assert _read(pieces) == rows[6:12] + rows[1:2]


def test_rows_of_pieces(split):
  files, _ = split
  table = records.tensors(files.cut(2, 15, 4))  # rows 2 to 4 end the first file; then 5 to 8, 9 to 12, 13 and 14
  np.testing.assert_array_equal(records.rows(table, tf.constant([2, 0], tf.int64)), [9, 10, 11, 12, 2, 3, 4])


def test_only_the_files_asked_for_are_scanned(split, tmp_path):
  files, rows = split
  (tmp_path / 'second').unlink()
  assert _read(files.cut(0, 5, 2)) == rows[:5]
  with pytest.raises(ConfigError, match='second'):
    files.cut(4, 6, 2)


@pytest.mark.parametrize('cut', [1, 4, 15, 16, 17, 30])
def test_truncated_file_is_named(tmp_path, cut):
  path = tmp_path / 'short'
  _write(path, [100, 20])
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(ConfigError, match=r'short is truncated'):
    records.scan(str(path))


@pytest.mark.parametrize('byte', [0, 6, 9, 116, 126])
def test_damaged_header_is_named(tmp_path, byte):
  path = tmp_path / 'flipped'
  _write(path, [100, 20])
  content = bytearray(path.read_bytes())
  content[byte] ^= 1
  path.write_bytes(content)
  with pytest.raises(ConfigError, match=r'flipped is (corrupt|truncated)'):
    records.scan(str(path))


def test_other_files_are_refused(tmp_path):
  text, packed = tmp_path / 'text', tmp_path / 'packed'
  text.write_text('label,value\n' * 100)
  _write(packed, [1000] * 10, compression='GZIP')
  for path in (text, packed):
    with pytest.raises(ConfigError, match=str(path)):
      records.scan(str(path))
  with pytest.raises(ConfigError, match='nowhere'):
    records.scan(str(tmp_path / 'nowhere'))


def test_missing_records_are_reported(tmp_path):
  path = tmp_path / 'data'
  _write(path, [5] * 437)
  files = records.RecordFiles([records.FileRange(str(path), 0, 1437, 1437)])
  with pytest.raises(ConfigError, match=r'data holds 437 records.*1437'):
    files.cut(0, 1, 1)


def test_damaged_record_is_found(tmp_path):
  good, bad = tmp_path / 'good', tmp_path / 'bad'
  for path in (good, bad):
    _write(path, [100, 20])
  content = bytearray(bad.read_bytes())
  content[50] ^= 1  # inside the first record, which only its own checksum covers
  bad.write_bytes(content)
  ranges = [records.FileRange(str(path), 0, 2, 2) for path in (good, bad)]
  assert records.RecordFiles(ranges).cut(0, 4, 4).records == 4
  assert records.damaged_file(ranges) == str(bad)
  assert records.damaged_file(ranges[:1]) is None
