"""What TensorFlow does with the interpreter's lock held, done without it.

Workers meet inside TFE_EnableCollectiveOps, whose Python binding keeps the lock until all have come: for up to
faults.start_timeout_seconds no Python thread would run, so no signal would be heard, no notice, no watchdog. The same
function of TensorFlow's C API, called by ctypes, lets them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow.python import pywrap_tfe
from tensorflow.python.framework import errors_impl

_LIBRARY = 'libtensorflow_cc.so.2'


@contextlib.contextmanager
def unlocked_start() -> Iterator[None]:
  """While this is open, a multi-worker strategy waits for its peers without the interpreter's lock.

  Where this build of TensorFlow has no such library, it waits with the lock, and a warning says what that means.
  """
  try:
    enable = _enable_collective_ops()
  except (OSError, AttributeError) as error:
    logging.warning(
      'TensorFlow has no %s to call (%s): notices and signals are not heard while workers wait for each other',
      _LIBRARY,
      error,
    )
    yield
    return
  original, pywrap_tfe.TFE_EnableCollectiveOps = pywrap_tfe.TFE_EnableCollectiveOps, enable
  try:
    yield
  finally:
    pywrap_tfe.TFE_EnableCollectiveOps = original


def _enable_collective_ops() -> Any:
  """TFE_EnableCollectiveOps(context, serialized ServerDef) as the binding has it.

  Raises:
    OSError, AttributeError: the library is not there, or has no such function.
  """
  library = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), _LIBRARY))
  python = ctypes.pythonapi
  library.TF_NewStatus.restype = ctypes.c_void_p
  library.TF_Message.restype = ctypes.c_char_p
  for function in (library.TF_GetCode, library.TF_Message, library.TF_DeleteStatus):
    function.argtypes = [ctypes.c_void_p]
  library.TFE_EnableCollectiveOps.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
  library.TFE_EnableCollectiveOps.restype = None
  python.PyCapsule_GetName.argtypes, python.PyCapsule_GetName.restype = [ctypes.py_object], ctypes.c_char_p
  python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
  python.PyCapsule_GetPointer.restype = ctypes.c_void_p

  def enable(context: Any, server_def: bytes) -> None:
    status = library.TF_NewStatus()
    try:
      pointer = python.PyCapsule_GetPointer(context, python.PyCapsule_GetName(context))
      library.TFE_EnableCollectiveOps(pointer, server_def, len(server_def), status)
      code, message = library.TF_GetCode(status), library.TF_Message(status).decode(errors='replace')
    finally:
      library.TF_DeleteStatus(status)
    if code:
      raise errors_impl.exception_type_from_error_code(code)(None, None, message)

  return enable
