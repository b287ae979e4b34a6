"""The only module that knows Orbax: writes arrays to a folder, reads them back.

Steps, completeness, verification and deletion are ours (checkpoints.py). Orbax's own managers have traps there: a save
of a step that is not the newest does nothing, in silence, and its collector can delete the newest.
"""

from __future__ import annotations

import functools
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from absl import logging

import trainer  # noqa: F401  (keeps jax, which Orbax imports, off the accelerators)

VERSION = metadata.version('orbax-checkpoint')

# Orbax gives up on a write after 20 minutes; how long a save may take is for the caller to say.
_NO_TIMEOUT_SECONDS = 7 * 24 * 3600


def write(path: str, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays to the folder `path`, which must not exist; returns when the files are written.

  The arrays are not copied: they must not change until this returns. An interrupted call leaves a folder whose name
  begins with `path`.

  Args:
    path: absolute path of the folder.
    arrays: contiguous arrays with at least one element each, by name; any name will do. At least one.

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
      ocp.save(path, dict(arrays))
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
      return ocp.load(path)
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load(path, dict.fromkeys(names, np.ndarray))


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
