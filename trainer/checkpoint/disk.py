"""Files and folders that survive a crash, and the proof that they did."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Mapping

import xxhash

from trainer import durable
from trainer.checkpoint.manifest import FileSpec
from trainer.errors import ConfigError

# What a lost or unreadable file looks like; any other error of the system (no permission, no memory, no file handles)
# says nothing about the bytes on the disk.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EBADMSG, getattr(errno, 'EUCLEAN', errno.EIO))

_READ_BYTES = 4 * 1024**2
_READERS = 4


def make_writable(folder: str) -> None:
  """Creates a folder (an absolute path), durably, and proves that files can be created in it.

  Raises:
    ConfigError: they cannot.
  """
  try:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      durable.sync_folder(os.path.dirname(folder))
  except OSError as error:
    raise ConfigError(
      f'checkpoints cannot be written to {folder!r}: {error.strerror}: choose another workdir'
    ) from error


def free_bytes(folder: str) -> int:
  return shutil.disk_usage(folder).free


def write_file(path: str, contents: bytes) -> None:
  """Writes a file and returns when its contents, if not yet its name, are on the disk."""
  with open(path, 'wb') as file:
    file.write(contents)
    file.flush()
    os.fsync(file.fileno())


def seal(folder: str) -> dict[str, FileSpec]:
  """Hashes every file below a folder and forces files and folders to the disk.

  Returns:
    The length and hash of each file by its path relative to `folder`, parts joined by '/'.
  """
  specs = {}
  for root, _, names in os.walk(folder):
    for name in sorted(names):
      path = os.path.join(root, name)
      with open(path, 'rb', buffering=0) as file:
        specs[os.path.relpath(path, folder).replace(os.sep, '/')] = _hash(file)
        os.fsync(file.fileno())
    durable.sync_folder(root)
  return specs


def first_fault(folder: str, specs: Mapping[str, FileSpec]) -> str:
  """The first file below a folder that is not as described, in words; '' if all are equal to the byte.

  Raises:
    OSError: a file could not be read for a reason that says nothing about its contents.
  """
  # Reading and hashing both run without the interpreter's lock.
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    faults = pool.map(lambda item: _fault(folder, *item), specs.items())
    return next((fault for fault in faults if fault), '')


def _fault(folder: str, path: str, spec: FileSpec) -> str:
  try:
    with open(os.path.join(folder, *path.split('/')), 'rb', buffering=0) as file:
      size = os.fstat(file.fileno()).st_size
      if size != spec.bytes:
        return f'file {path} has {size:,} bytes, was saved with {spec.bytes:,}'
      if _hash(file) != spec:
        return f'file {path} has other contents than were saved'
  except OSError as error:
    if is_loss(error):
      return f'file {path} cannot be read: {error.strerror}'
    raise
  return ''


def is_loss(error: OSError) -> bool:
  """Whether the error means that the file itself is gone or unreadable."""
  return error.errno in _LOST


def rename(old: str, new: str) -> None:
  """Renames a file or folder within its folder, durably; `new` may exist only as a file."""
  os.rename(old, new)
  durable.sync_folder(os.path.dirname(new))


def remove(folder: str) -> None:
  """Removes a folder with all that is in it; none there is as good."""
  with contextlib.suppress(FileNotFoundError):
    shutil.rmtree(folder)


def move_aside(folder: str, store: str) -> str:
  """Moves a folder into `store` as NAME-1, or the first number that is free; returns where it is now."""
  os.makedirs(store, exist_ok=True)
  number = 1
  while os.path.lexists(target := os.path.join(store, f'{os.path.basename(folder)}-{number}')):
    number += 1
  os.rename(folder, target)
  durable.sync_folder(store)
  durable.sync_folder(os.path.dirname(folder))
  return target


def _hash(file: io.FileIO) -> FileSpec:
  # Reads, and does not map: a bad sector or a file cut short meanwhile is then an error, not the end of the process.
  digest, size, buffer = xxhash.xxh3_128(), 0, memoryview(bytearray(_READ_BYTES))
  while count := file.readinto(buffer):
    digest.update(buffer[:count])
    size += count
  return FileSpec(size, digest.hexdigest())
