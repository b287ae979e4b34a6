"""What a crash cannot undo: a small file replaced whole, and the names in a folder forced to the disk."""

from __future__ import annotations

import errno
import os


def replace(path: str, contents: bytes) -> None:
  """Writes a file beside `path`, forces it to the disk, and gives it the name `path`.

  Raises:
    OSError: the folder cannot be written to, or the disk is full; the old file is untouched.
  """
  temporary = f'{path}.tmp'
  with open(temporary, 'wb') as file:
    file.write(contents)
  settle(temporary, path)


def settle(temporary: str, path: str) -> None:
  """Forces a file that has been written to the disk, and gives it the name `path`, in the same folder.

  Raises:
    OSError: the disk is full; the old file is untouched.
  """
  with open(temporary, 'rb') as file:
    os.fsync(file.fileno())
  os.replace(temporary, path)
  sync_folder(os.path.dirname(path) or '.')


def sync_folder(folder: str) -> None:
  """Forces the names in a folder to the disk."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as error:
    # Some network and user-space file systems cannot sync a folder, and say so; files there are durable without.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(handle)
