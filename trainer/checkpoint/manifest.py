"""What a complete checkpoint consists of: each array and file with its hash, and state that is no array, as JSON.

The file is strict: one flipped bit anywhere in it, white space included, makes it unreadable.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (imported so that numpy knows bfloat16 and the float8 dtypes by name)
import numpy as np
import xxhash

from trainer.errors import ConfigError

FORMAT = 3
_READABLE = (1, 2, FORMAT)  # 1 had no parts: one process wrote each step; 2 did not pack small arrays

# Dtypes that come back exactly as they went in, by numpy's name.
DTYPES = frozenset(
  (
    *('bool', 'int4', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'),
    *('float16', 'float32', 'float64', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'complex64', 'complex128'),
  )
)


@dataclasses.dataclass(frozen=True)
class ArraySpec:
  """Shape, numpy dtype name, and the hex XXH3 128-bit hash of the bytes in C order."""

  shape: tuple[int, ...]
  dtype: str
  xxh3_128: str

  @property
  def size(self) -> int:
    return int(np.prod(self.shape, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class FileSpec:
  """Length in bytes, and the hex XXH3 128-bit hash of the contents."""

  bytes: int
  xxh3_128: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The contents of complete.json.

  Attributes:
    step: optimizer steps that the state has seen.
    metric: the value that ranks the checkpoint among the best; None without one.
    host: state that is not an array, as JSON gives it back.
    arrays: every array by name, those without elements (which Orbax does not store) included.
    files: every file of Orbax by its path relative to the folder, parts joined by '/'.
    orbax: version of Orbax that wrote the files.
    parts: Orbax' folders relative to the step's, '' for that one itself; the files are in them.
  """

  step: int
  metric: float | None
  host: dict[str, Any]
  arrays: dict[str, ArraySpec]
  files: dict[str, FileSpec]
  orbax: str
  parts: tuple[str, ...] = ('',)


def encode(manifest: Manifest) -> bytes:
  """The manifest as JSON, with a hash of itself in front."""
  body = {'format': FORMAT, **dataclasses.asdict(manifest)}
  return json.dumps({'xxh3_128': _hash_json(body), 'manifest': body}, indent=1).encode()


def decode(raw: bytes) -> Manifest:
  """The manifest that `encode` turned into these bytes.

  Raises:
    ValueError: the bytes are not what `encode` wrote.
    ConfigError: they are, but by a version of this program with another format.
  """
  try:
    outer = json.loads(raw)
    body = outer['manifest']
    genuine = outer['xxh3_128'] == _hash_json(body) and json.dumps(outer, indent=1).encode() == raw
  except (ValueError, TypeError, LookupError, RecursionError) as error:
    raise ValueError('the manifest is not valid JSON of ours') from error
  if not genuine:
    raise ValueError('the manifest does not match its own hash')
  if body['format'] not in _READABLE:
    raise ConfigError(
      f'the checkpoint has format {body["format"]}, this version of the program reads {FORMAT}: '
      'use the version that wrote it'
    )
  return Manifest(
    step=body['step'],
    metric=body['metric'],
    host=body['host'],
    arrays={name: ArraySpec(tuple(spec.pop('shape')), **spec) for name, spec in body['arrays'].items()},
    files={path: FileSpec(**spec) for path, spec in body['files'].items()},
    orbax=body['orbax'],
    parts=tuple(body.get('parts', ('',))),
  )


def describe(array: np.ndarray) -> ArraySpec:
  """Shape, dtype and hash of an array; copies it only if it is not contiguous."""
  flat = np.asarray(array, order='C').reshape(-1).view(np.uint8)
  return ArraySpec(array.shape, array.dtype.name, xxhash.xxh3_128_hexdigest(flat.data if flat.size else b''))


def difference(specs: Mapping[str, ArraySpec], arrays: Mapping[str, np.ndarray]) -> str:
  """The first way in which the arrays are not those that were described, in words; '' if they are equal to the byte."""
  for name in sorted(specs.keys() ^ arrays.keys()):
    return f'array {name!r} is {"missing" if name in specs else "unexpected"}'
  for name, spec in specs.items():
    found = describe(arrays[name])
    if found.shape != spec.shape:
      return f'array {name!r} has shape {list(found.shape)}, was saved with {list(spec.shape)}'
    if found.dtype != spec.dtype:
      return f'array {name!r} has dtype {found.dtype}, was saved with {spec.dtype}'
    if found.xxh3_128 != spec.xxh3_128:
      return f'array {name!r} has other values than were saved (hash {found.xxh3_128}, must be {spec.xxh3_128})'
  return ''


def check_savable(arrays: Mapping[str, Any]) -> None:
  """Checks that every value is a numpy array of a dtype that comes back exactly as it went in.

  Raises:
    TypeError: a value is not; its name is in the message. It is the caller's mistake, not the user's.
  """
  for name, array in arrays.items():
    if not isinstance(name, str) or not name:
      raise TypeError(f'the name of an array must be a string that is not empty, not {name!r}')
    if not isinstance(array, np.ndarray):
      raise TypeError(f'{name!r} must be a numpy array, is {type(array).__name__}')
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
      raise TypeError(f'{name!r} has dtype {array.dtype.str}, which a checkpoint cannot hold')


def groups(specs: Mapping[str, ArraySpec], most_bytes: int) -> Iterator[list[str]]:
  """The names of the arrays that have elements, in lists of at most `most_bytes` (one larger array stands alone)."""
  names: list[str] = []
  total = 0
  for name, spec in specs.items():
    size = spec.size * np.dtype(spec.dtype).itemsize
    if names and total + size > most_bytes:
      yield names
      names, total = [], 0
    if size:
      names.append(name)
      total += size
  if names:
    yield names


def _hash_json(body: Any) -> str:
  return xxhash.xxh3_128_hexdigest(json.dumps(body).encode())
