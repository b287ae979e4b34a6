"""The only module that knows Orbax: writes arrays to a folder, reads them back.

An array has a price there that its bytes do not repay while they are few: half a millisecond of CPU, taken from
training, and a request more to read it from afar. Biases, scales and their moments are most of a model's arrays, and
little of its bytes, so small arrays lie end to end in one array of bytes, with a second one that says which is where.

Steps, completeness, verification and deletion are ours (checkpoints.py). Orbax's own managers have traps there: a save
of a step that is not the newest does nothing, in silence, and its collector can delete the newest.
"""

from __future__ import annotations

import functools
import json
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

import ml_dtypes  # noqa: F401  (imported so that numpy knows bfloat16 and the float8 dtypes by name)
import numpy as np
from absl import logging

import trainer  # noqa: F401  (keeps jax, which Orbax imports, off the accelerators)

VERSION = metadata.version('orbax-checkpoint')

# Orbax gives up on a write after 20 minutes; how long a save may take is for the caller to say.
_NO_TIMEOUT_SECONDS = 7 * 24 * 3600

_SMALL_BYTES = 64 * 1024  # an array of fewer is small
_SMALL, _INDEX = '__small__', '__small_index__'  # uint8: the bytes; JSON of {name: [dtype, shape, first byte]}


def write(path: str, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays to the folder `path`, which must not exist; returns when the files are written.

  Only small arrays are copied: the others must not change until this returns. An interrupted call leaves a folder whose
  name begins with `path`.

  Args:
    path: absolute path of the folder.
    arrays: contiguous arrays with at least one element each, by name; any name will do but two. At least one.

  Raises:
    OSError: the disk is full, or another error of the operating system.
    ValueError: Orbax refuses the arrays.
  """
  ocp = _orbax()
  context = ocp.Context()
  # Weights barely compress, and compression costs more time than the bytes it saves.
  context.array.saving.use_compression = False
  context.memory.deepcopy_host_arrays = False
  context.asynchronous.timeout_secs = _NO_TIMEOUT_SECONDS
  try:
    with context:
      ocp.save(path, _packed(arrays))
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is None:
      raise
    raise OSError(int(code[1]), os.strerror(int(code[1])), path) from error


def read(path: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
  """The arrays of a folder that `write` wrote.

  Orbax notices neither flipped bits in the data nor arrays of another shape: verify what it returns.

  Args:
    path: absolute path of the folder.
    names: which arrays; None for all.

  Raises:
    Exception: whatever Orbax raises on files that it cannot read.
  """
  ocp = _orbax()
  context = ocp.Context()
  if names is None:
    with context:
      return _unpacked(ocp.load(path))
  context.pytree.loading.partial_load = True
  names = list(names)
  with context:
    there = ocp.metadata(path).metadata.keys()
    needed = {name if name in there else _SMALL for name in names}
    needed |= {_INDEX} if _SMALL in needed else set()
    found = _unpacked(ocp.load(path, dict.fromkeys(needed, np.ndarray)))
  return {name: found[name] for name in names}


def _packed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays as they are stored."""
  if taken := arrays.keys() & {_SMALL, _INDEX}:
    raise ValueError(f'an array must not be called {min(taken)!r}')
  small = {name: array for name, array in arrays.items() if array.nbytes < _SMALL_BYTES}
  if not small:
    return dict(arrays)
  index, begin = {}, 0
  for name, array in small.items():
    index[name] = (array.dtype.name, array.shape, begin)
    begin += array.nbytes
  joined = np.concatenate([array.reshape(-1).view(np.uint8) for array in small.values()])
  large = {name: array for name, array in arrays.items() if name not in small}
  return {**large, _SMALL: joined, _INDEX: np.frombuffer(json.dumps(index).encode(), np.uint8)}


def _unpacked(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays that were stored so; those of a version that packed none, as they are."""
  if _INDEX not in stored:
    return stored
  found = dict(stored)
  joined, index = found.pop(_SMALL), json.loads(found.pop(_INDEX).tobytes())
  for name, (dtype, shape, begin) in index.items():
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    found[name] = joined[begin : begin + size].copy().view(dtype).reshape(shape)
  return found


@functools.cache
def _orbax() -> Any:
  """Orbax takes .3 s to import, of the 3 s until a run begins; the first save does so in its own thread instead."""
  try:
    from orbax.checkpoint import v1
  except ImportError:
    from orbax.checkpoint.experimental import v1
  return v1


class _WithoutChatter(python_logging.Filter):
  """Drops Orbax's progress lines, and the tracebacks that its threads log of an error that is raised anyway."""

  def filter(self, record: python_logging.LogRecord) -> bool:
    if f'{os.sep}orbax{os.sep}' not in record.pathname:
      return True
    return record.levelno >= python_logging.WARNING and record.levelno != python_logging.ERROR


logging.get_absl_logger().addFilter(_WithoutChatter())


def _without_closed_loops(unraisable: Any, report: Callable[[Any], Any] = sys.unraisablehook) -> None:
  """Drops what Orbax's storage has still to tell of a failed save, to an event loop that Orbax has closed by then.

  That is a traceback for each array, from a thread of C++; the error itself has been raised.
  """
  if not isinstance(unraisable.exc_value, RuntimeError) or str(unraisable.exc_value) != 'Event loop is closed':
    report(unraisable)


sys.unraisablehook = _without_closed_loops
