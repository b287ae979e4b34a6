"""Files and lines as the raw features that a model predicts from.

Needs NumPy and TensorFlow alone, and nothing of this package: an export carries a copy of this file.

What is read is told by a description, ready for JSON:

  {"name": feature, "kind": KIND, "dtype": NumPy's name, "shape": [size or null, ...], ...}

  kind     one example is                          shape and what else is told
  image    a PNG, JPEG, BMP or GIF file            [H, W, C]; of another size than H and W it is resized
  sound    a WAV file of PCM                       [samples]; "rate" per second, which the file must have
  text     a text file, or a line of stdin         []
  table    a row of a CSV file with a header       "columns": [{"name", "shape", "dtype", "classes": [str] or null}]
  numbers  a row of a CSV file                     [F]
  series   a CSV file, a row for each step         [T, C]; of more rows the last are taken
"""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
import wave
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

STDIN = '-'


class BadInput(ValueError):
  """What is wrong with one example, in one line that names it."""


def expand(sources: list[str]) -> list[str]:
  """File names, patterns such as 'digits/*.png' and folders as file names, sorted where they are several; '-' stays.

  Raises:
    BadInput: nothing is there.
  """
  found: list[str] = []
  for source in sources:
    pattern = os.path.join(glob.escape(source), '*') if os.path.isdir(source) else source
    names = (
      [source] if source == STDIN or os.path.isfile(source) else sorted(filter(os.path.isfile, glob.glob(pattern)))
    )
    if not names:
      raise BadInput(f'{source}: {"there are no files in it" if os.path.isdir(source) else "no such file"}')
    found += names
  return found


def examples(source: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """The examples of a file.

  Args:
    source: name of a file, or '-' for stdin.
    given: the description of what is read.

  Yields:
    (name, raw feature), or (name, BadInput) for an example that cannot be used: what comes after it still can. The raw
    feature is np.ndarray of the described dtype; bytes for a text; {column: np.ndarray} for a row of a table.
  """
  kind, lines = given['kind'], source == STDIN
  try:
    data = sys.stdin.buffer.read() if lines else _contents(source)
    if kind == 'text':
      texts = data.splitlines() if lines else [data.removesuffix(b'\n').removesuffix(b'\r')]
      for number, text in enumerate(texts, 1):
        name = f'{source}:{number}' if lines else source
        yield name, _text(name, text)
    elif kind in ('table', 'numbers'):
      yield from (_rows if kind == 'table' else _vectors)(source, data, given)
    else:
      yield source, {'image': image, 'sound': sound, 'series': _series}[kind](source, data, given)
  except BadInput as error:
    yield source, error


def image(name: str, data: bytes, given: Mapping[str, Any]) -> np.ndarray:
  """An encoded picture as uint8 [H, W, C]."""
  import tensorflow as tf

  height, width, channels = given['shape']
  try:
    pixels = tf.io.decode_image(data, channels or 3, expand_animations=False).numpy()
  except (tf.errors.OpError, ValueError) as error:
    why = 'it is empty' if not data else 'it is damaged, or no PNG, JPEG, BMP or GIF'
    raise BadInput(f'{name}: not a picture that can be read: {why}') from error
  if height and width and pixels.shape[:2] != (height, width):
    resized = tf.image.resize(pixels, (height, width), antialias=True)
    pixels = tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8).numpy()
  return pixels


def sound(name: str, data: bytes, given: Mapping[str, Any]) -> np.ndarray:
  """A recording as [samples] of the described dtype, 16 bits or floats from -1 to 1; channels are mixed."""
  try:
    with wave.open(io.BytesIO(data)) as file:
      rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
      frames = file.readframes(file.getnframes())
  except (wave.Error, EOFError, ValueError) as error:
    raise BadInput(f'{name}: not a WAV file of PCM: {error or "it is cut off"}') from error
  if rate != given['rate']:
    raise BadInput(f'{name}: {rate} samples per second, but the model hears {given["rate"]}: resample it')
  if not frames:
    raise BadInput(f'{name}: the recording is empty')
  frames = frames[: len(frames) // (width * channels) * width * channels]
  if width == 1:
    samples = (np.frombuffer(frames, np.uint8).astype(np.float64) - 128) / 128
  elif width == 3:
    parts = np.frombuffer(frames, np.uint8).reshape(-1, 3).astype(np.int32)
    samples = ((parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16) << 8 >> 8) / 2.0**23
  else:
    samples = np.frombuffer(frames, f'<i{width}') / 2.0 ** (8 * width - 1)
  samples = samples.reshape(-1, channels).mean(axis=1)
  dtype = np.dtype(given['dtype'])
  if np.issubdtype(dtype, np.integer):
    samples = np.clip(np.round(samples * 2.0**15), -(2**15), 2**15 - 1)
  return samples.astype(dtype)


def _contents(path: str) -> bytes:
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise BadInput(f'{path}: {error.strerror or error}') from error


def _text(name: str, text: bytes) -> Any:
  try:
    if not text.decode().strip():
      return BadInput(f'{name}: the text is empty')
  except UnicodeDecodeError as error:
    return BadInput(f'{name}: not a text in UTF-8 ({error.reason} at byte {error.start})')
  return text


def _lines(name: str, data: bytes) -> list[list[str]]:
  """The rows of a CSV file that are not blank."""
  try:
    rows = [row for row in csv.reader(io.StringIO(data.decode('utf-8-sig'))) if any(cell.strip() for cell in row)]
  except (UnicodeDecodeError, csv.Error) as error:
    raise BadInput(f'{name}: not a CSV file in UTF-8: {error}') from error
  if not rows:
    raise BadInput(f'{name}: the file has no rows')
  return rows


def _rows(name: str, data: bytes, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  header, *rows = _lines(name, data)
  header = [cell.strip() for cell in header]
  columns = {column['name']: column for column in given['columns']}
  missing = [column for column in columns if column not in header]
  if missing:
    raise BadInput(f'{name}: the header lacks {", ".join(missing)}; it has {", ".join(header)}')
  for number, row in enumerate(rows, 2):
    where = f'{name}:{number}'
    if len(row) != len(header):
      yield where, BadInput(f'{where}: {len(row)} values, but the header has {len(header)}')
      continue
    cells = dict(zip(header, row, strict=True))
    try:
      yield where, {column: _cell(where, cells[column], told) for column, told in columns.items()}
    except BadInput as error:
      yield where, error


def _cell(where: str, cell: str, column: Mapping[str, Any]) -> np.ndarray:
  """One value of a table; an empty cell is a missing one: NaN, or of a class -1."""
  cell, classes, dtype = cell.strip(), column['classes'], np.dtype(column['dtype'])
  if classes is not None:
    if not cell:
      return np.array(-1, dtype)
    if cell in classes:
      return np.array(classes.index(cell), dtype)
    raise BadInput(f'{where}: {column["name"]}={cell!r} is none of {", ".join(classes[:20])}')
  if not cell and np.issubdtype(dtype, np.floating):
    return np.array(np.nan, dtype)
  return _number(where, column['name'], cell).astype(dtype)


def _number(where: str, column: str, cell: str) -> np.ndarray:
  try:
    return np.array(float(cell))
  except ValueError as error:
    raise BadInput(f'{where}: {column}={cell!r} is not a number') from error


def _vectors(name: str, data: bytes, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  size = int(np.prod(given['shape']))
  for number, row in _without_header(_lines(name, data)):
    where = f'{name}:{number}'
    try:
      if len(row) != size:
        raise BadInput(f'{where}: {len(row)} values, but the model sees {size}')
      values = [_number(where, f'column {i}', cell or 'nan') for i, cell in enumerate(row, 1)]
      yield where, np.array(values).reshape(given['shape']).astype(given['dtype'])
    except BadInput as error:
      yield where, error


def _series(name: str, data: bytes, given: Mapping[str, Any]) -> np.ndarray:
  steps, channels = given['shape']
  rows = _without_header(_lines(name, data))
  if len(rows) < steps:
    raise BadInput(f'{name}: {len(rows)} steps, but the model looks back over {steps}')
  values = []
  for number, row in rows[-steps:]:
    if len(row) != channels:
      raise BadInput(f'{name}:{number}: {len(row)} values, but the series has {channels}')
    values.append([_number(f'{name}:{number}', f'column {i}', cell) for i, cell in enumerate(row, 1)])
  return np.array(values, given['dtype'])


def _without_header(rows: list[list[str]]) -> list[tuple[int, list[str]]]:
  """(number, row), without a first row that has a word in it."""
  numbered = list(enumerate(rows, 1))
  try:
    [float(cell or 'nan') for cell in rows[0]]
  except ValueError:
    return numbered[1:]
  return numbered
