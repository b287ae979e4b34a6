"""Objects below one address of a bucket, through fsspec; what fails is tried again for a while, and then named.

gs:// needs the package gcsfs, s3:// s3fs, others what fsspec says. Credentials are those that these packages find in
the environment; none is ever part of an address, a config or a message.
"""

from __future__ import annotations

import collections
import concurrent.futures
import logging as standard_logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from absl import logging

from trainer.errors import ConfigError
from trainer.fields import Field, above

FIELDS = {
  'retry_seconds': Field(300.0, 'for how long an operation on a bucket that fails is tried again', above(0)),
  'sync_seconds': Field(30.0, 'seconds between copies to the bucket of what is no checkpoint', above(0)),
  'lease_seconds': Field(60.0, 'silence after which the lock of a run in a bucket counts as left behind', above(0)),
}  # fmt: skip

PARALLEL = 8  # objects that travel at a time
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PACKAGES = {'gs': 'gcsfs', 'gcs': 'gcsfs', 's3': 's3fs', 'az': 'adlfs', 'abfs': 'adlfs'}
# gcsfs frames an object of up to this size with line feeds alone (simple_upload). A carriage return at its end makes a
# line's end out of that, of which all is taken away.
_FRAMED_BYTES, _LOST = 50 * 2**20, b'\r'
# What another attempt cannot mend.
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)

T = TypeVar('T')


class BucketError(OSError):
  """An operation failed for as long as it is tried, or cannot succeed. The message is one line."""


class Bucket:
  """The objects whose names begin with one address. For use by several threads.

  Args:
    url: 'gs://bucket/path'.
    retry_seconds: for how long a failing operation is tried again.

  Attributes:
    url: without a slash at the end.
    requests: how many operations of each kind have been asked for, retries not counted.

  Raises:
    ConfigError: the address makes no sense, or the package for it is not installed.
  """

  def __init__(self, url: str, retry_seconds: float = FIELDS['retry_seconds'].default):
    self.url, self._retry_seconds = url.rstrip('/'), retry_seconds
    self.requests: collections.Counter[str] = collections.Counter()
    scheme, _, rest = self.url.partition('://')
    if '@' in rest or '?' in rest:
      raise ConfigError(f'{scheme}://... must be bucket and path alone: give credentials by the environment')
    if not re.fullmatch(r'[^/\s]+(/[^/\s][^\n]*)?', rest):
      raise ConfigError(f'{url!r} names no bucket: write it gs://BUCKET/RUN')
    # gcsfs' second implementation asks another service over gRPC what kind of bucket it is, and waits a minute for that
    # wherever it is not to be reached. Read when gcsfs is imported.
    os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    import fsspec

    self._of_google = scheme in ('gs', 'gcs')
    # An emulator knows nobody, and looking for somebody's credentials takes seconds where there are none.
    options = {'token': 'anon'} if self._of_google and os.environ.get('STORAGE_EMULATOR_HOST') else {}
    standard_logging.getLogger('gcsfs').setLevel(standard_logging.CRITICAL)  # tracebacks of what is tried again
    try:
      self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **options)
    except ImportError as error:
      package = _PACKAGES.get(scheme)
      fix = f'pip install {package}' if package else ' '.join(str(error).split())
      raise ConfigError(f'{self.url} cannot be used without another package: {fix}') from error
    except ValueError as error:
      raise ConfigError(f'{self.url} cannot be used: {" ".join(str(error).split())}') from error
    except Exception as error:  # the libraries of the clouds raise what they please where they find no credentials
      raise ConfigError(f'{self.url} cannot be opened: {_line(error)}') from error

  def address(self, name: str) -> str:
    """The address of an object, for people."""
    return f'{self.url}/{name}'

  def sizes(self, prefix: str = '') -> dict[str, int]:
    """Bytes of each object whose name begins with `prefix`, which is empty or ends with a slash."""
    path = f'{self._root}/{prefix}'.rstrip('/')

    def find() -> dict[str, int]:
      found: Mapping[str, Any] = self._files.find(path, detail=True)
      own = len(self._root.rstrip('/')) + 1
      return {name[own:]: int(info['size']) for name, info in found.items() if info.get('type') != 'directory'}

    return self._try('list', prefix or '.', find)

  def exists(self, name: str) -> bool:
    return self._try('look', name, lambda: bool(self._files.exists(self._path(name))))

  def size(self, name: str) -> int:
    """Bytes of an object. Raises FileNotFoundError where there is none."""
    return int(self._try('look', name, lambda: self._files.info(self._path(name)))['size'])

  def read(self, name: str) -> bytes | None:
    """The contents; None where there is no such object."""
    try:
      return self._try('read', name, lambda: self._files.cat_file(self._path(name)))
    except FileNotFoundError:
      return None

  def write(self, name: str, contents: bytes) -> None:
    """Makes the object, or replaces it: whole or not at all."""
    self._try('write', name, lambda: self._put(name, contents))

  def create(self, name: str, contents: bytes) -> bool:
    """Makes the object if there is none; whether it did. Of several that try at once, one does.

    Where an answer is lost, an object of the same contents counts as made by this call: let no two write the same.
    """
    try:
      self._try('create', name, lambda: self._put(name, contents, mode='create'))
    except FileExistsError:
      return self.read(name) == contents
    return True

  def upload(self, folder: str, names: Iterable[str], prefix: str = '') -> None:
    """Copies files of a folder to objects `prefix` + name, several at a time."""
    self._each(
      names,
      lambda name: self._try(
        'upload', prefix + name, lambda: self._put_file(os.path.join(folder, name), prefix + name)
      ),
    )

  def download(self, folder: str, sizes: Mapping[str, int], prefix: str = '') -> None:
    """Copies objects `prefix` + name to files of a folder, several at a time; each is there whole or not at all.

    Args:
      folder: made if need be.
      sizes: bytes of each, by name.
      prefix: of the objects.

    Raises:
      FileNotFoundError: one is no longer there.
    """

    def get(name: str) -> None:
      path = os.path.join(folder, name)
      os.makedirs(os.path.dirname(path), exist_ok=True)

      def once() -> None:
        self._files.get_file(self._path(prefix + name), f'{path}.part')
        if (size := os.path.getsize(f'{path}.part')) != sizes[name]:
          raise BucketError(f'{size} of {sizes[name]} bytes came')

      self._try('download', prefix + name, once)
      os.replace(f'{path}.part', path)

    self._each(sizes, get)

  def copy(self, name: str, new: str) -> None:
    self._try('copy', name, lambda: self._files.cp_file(self._path(name), self._path(new)))

  def delete(self, names: Iterable[str]) -> None:
    """Deletes objects; those that are not there are no error."""

    def remove(name: str) -> None:
      try:
        self._try('delete', name, lambda: self._files.rm_file(self._path(name)))
      except FileNotFoundError:
        return

    self._each(names, remove)

  def _put(self, name: str, contents: bytes, **options: Any) -> None:
    if self._of_google:
      # Said by the service of what it has stored, and held against what was sent.
      options['consistency'] = 'md5'
      if contents.endswith(_LOST):
        options['chunksize'] = len(contents)  # all that is not smaller is sent without a frame
    self._files.pipe_file(self._path(name), contents, **options)

  def _put_file(self, path: str, name: str) -> None:
    if not self._of_google:
      self._files.put_file(path, self._path(name))
      return
    with open(path, 'rb') as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(max(0, size - len(_LOST)))
      if size < _FRAMED_BYTES and file.read() == _LOST:
        file.seek(0)
        self._put(name, file.read())
        return
    self._files.put_file(path, self._path(name), consistency='md5')

  def _path(self, name: str) -> str:
    return f'{self._root}/{name}'

  def _each(self, names: Iterable[str], action: Callable[[str], None]) -> None:
    """Does something for each name; all have ended when this returns, and the first error is raised."""
    names = list(names)
    if len(names) < 2:
      for name in names:
        action(name)
      return
    with concurrent.futures.ThreadPoolExecutor(PARALLEL, thread_name_prefix='bucket') as pool:
      for done in [pool.submit(action, name) for name in names]:
        done.result()

  def _try(self, kind: str, name: str, action: Callable[[], T]) -> T:
    """Does it until it succeeds, with growing waits in between.

    Raises:
      FileNotFoundError, FileExistsError: as the object is, or is not, there.
      BucketError: it cannot succeed, or has failed for `retry_seconds`.
    """
    self.requests[kind] += 1
    began, wait = time.monotonic(), _FIRST_WAIT
    while True:
      try:
        return action()
      except (FileNotFoundError, FileExistsError):
        raise
      except Exception as error:
        if getattr(error, 'code', None) == 412:  # precondition failed: the object is there
          raise FileExistsError(name) from error
        code = getattr(error, 'code', None) or getattr(error, 'status', None)
        final = isinstance(error, _FINAL) or (isinstance(code, int) and 400 <= code < 500 and code not in (408, 429))
        spent = time.monotonic() - began
        if final or spent + wait > self._retry_seconds:
          long = '' if final else f' (tried for {spent:.0f} s)'
          raise BucketError(f'cannot {kind} {self.address(name)}: {_line(error)}{long}') from error
        logging.warning('cannot %s %s: %s; trying again in %.1f s', kind, self.address(name), _line(error), wait)
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2 * wait, _LONGEST_WAIT)


def fetched(url: str, folder: str) -> str:
  """The path of a copy in a folder here of one object, of the same name.

  Raises:
    ConfigError: there is no such object, or the bucket cannot be read.
  """
  where, _, name = url.rpartition('/')
  try:
    bucket = Bucket(where)
    bucket.download(folder, {name: bucket.size(name)})
  except FileNotFoundError as error:
    raise ConfigError(f'{url} is not there: name an object that is') from error
  except OSError as error:
    raise ConfigError(str(error)) from error
  return os.path.join(folder, name)


def _line(error: BaseException) -> str:
  return ' '.join(str(error).split())[:200] or type(error).__name__
