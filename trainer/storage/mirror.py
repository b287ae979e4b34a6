"""Everything of a run in a bucket but its checkpoints and its lock: fetched at start, and copied there as it changes.

Objects cannot be appended to, so a file that grows is copied whole, the larger the less often: a thread gives it a
twentieth of its time. Before a checkpoint counts, and at the end, all that has changed is copied.
What somebody puts into the bucket for the run to find (STOP, PROFILE) appears in the folder here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging

from trainer.errors import ConfigError
from trainer.storage import place
from trainer.storage.bucket import FIELDS, Bucket, BucketError
from trainer.storage.lease import LOCK, Lease
from trainer.storage.steps import CHECKPOINTS

_ASK_SECONDS = 5.0  # between looks for what somebody has put into the bucket
_REST = 20  # times as long as a copy took, the thread leaves that file alone
_TEMPORARY = re.compile(r'.*\.(tmp|new|part)')


# What a process of its own puts into the bucket, and training has no use for: fetched by none, and left alone.
EXPORT = 'export'
_APART = (CHECKPOINTS, EXPORT)


class Mirror:
  """A folder here and the bucket that it stands for.

  Args:
    bucket: of the run.
    folder: on this machine, of this process alone.
    sync_seconds: between looks at what has changed.
    asks: names that others may put into the bucket.
    lease: the lock, which is renewed from here; None: this process has none.
    on_lost: called, in the thread, with who else holds the lock now.
  """

  def __init__(
    self,
    bucket: Bucket,
    folder: str,
    *,
    sync_seconds: float,
    asks: tuple[str, ...] = (),
    lease: Lease | None = None,
    on_lost: Callable[[str], None] = lambda owner: None,
  ):
    self._bucket, self._folder, self._sync_seconds, self._asks = bucket, folder, sync_seconds, asks
    self._lease, self._on_lost = lease, on_lost
    self._pushed: dict[str, tuple[int, int]] = {}  # name -> size and time of what the bucket has
    self._resting: dict[str, float] = {}  # name -> until when
    self._asked: set[str] = set()
    self._pushing, self._ended = threading.Lock(), threading.Event()
    self._threads: list[threading.Thread] = []

  def fetch(self, only: tuple[str, ...] = ()) -> None:
    """Makes the folder what the bucket has; a file here that goes on where the bucket's ends is kept.

    Args:
      only: these names alone, for a process that needs no more; empty: all. What is here beside them goes.

    Raises:
      BucketError: the bucket cannot be reached.
    """
    names = {
      name: size
      for name, size in self._bucket.sizes().items()
      if (name in only if only else name.partition('/')[0] not in _APART and name not in (LOCK, *self._asks))
    }
    for name in self._files():
      if name not in names:
        os.remove(os.path.join(self._folder, name))
    fetched = os.path.join(self._folder, '.fetched')
    shutil.rmtree(fetched, ignore_errors=True)
    self._bucket.download(fetched, names)
    for name in names:
      own, new = os.path.join(self._folder, name), os.path.join(fetched, name)
      os.makedirs(os.path.dirname(own), exist_ok=True)
      if not _goes_on(own, new):
        os.replace(new, own)
        self._pushed[name] = _state(own)
    shutil.rmtree(fetched, ignore_errors=True)
    self._ask()

  def start(self) -> None:
    """Begins to copy, to look for what others ask, and to renew the lock, in the background."""
    self._threads = [threading.Thread(target=self._run, name='mirror', daemon=True)]
    if self._lease:  # not behind a large file
      self._threads.append(threading.Thread(target=self._renew, args=(self._lease,), name='lease', daemon=True))
    for thread in self._threads:
      thread.start()

  def push(self, *, all_of_it: bool = True) -> None:
    """Copies what has changed to the bucket.

    Args:
      all_of_it: files too that were copied so lately that they may rest.

    Raises:
      BucketError: the bucket refuses, or cannot be reached.
    """
    with self._pushing:
      files = self._files()
      if gone := self._pushed.keys() - set(files):
        self._bucket.delete(gone)
        for name in gone:
          del self._pushed[name]
      for name in files:
        path = os.path.join(self._folder, name)
        try:
          state = _state(path)
        except FileNotFoundError:
          continue
        if self._pushed.get(name) == state or (not all_of_it and time.monotonic() < self._resting.get(name, 0)):
          continue
        began = time.monotonic()
        try:
          self._bucket.upload(self._folder, [name])
        except FileNotFoundError:  # removed meanwhile
          continue
        self._pushed[name] = state
        self._resting[name] = time.monotonic() + _REST * (time.monotonic() - began)

  def before_marker(self) -> None:
    """What has to be true before a checkpoint counts: all else that it goes with is there, and the run is still ours.

    Raises:
      BucketError: the bucket refuses, or another has taken over the run.
    """
    self.push()
    if self._lease and (owner := self._lease.renew()):
      self._on_lost(owner)
      raise BucketError(f'{owner} has taken over {self._bucket.url}')

  def close(self) -> None:
    """Copies what is left and gives the lock back; says so if the bucket refuses."""
    self._ended.set()
    for thread in self._threads:
      thread.join()
    try:
      self.push()
      if self._lease:
        self._lease.release()
    except BucketError as error:
      logging.error('not all of the run is in the bucket: %s; it is still in %s', error, self._folder)

  def _run(self) -> None:
    pushed = time.monotonic()
    period = min(_ASK_SECONDS, self._sync_seconds)
    while not self._ended.wait(period):
      try:
        self._ask()
        if time.monotonic() - pushed >= self._sync_seconds:
          self.push(all_of_it=False)
          pushed = time.monotonic()
      except OSError as error:  # a run does not end because a copy of its metrics is late
        logging.warning('%s: tried again later', error)

  def _renew(self, lease: Lease) -> None:
    while not self._ended.wait(lease.period):
      try:
        if owner := lease.renew():
          self._on_lost(owner)
          return
      except OSError as error:
        logging.warning('the lock of the run could not be renewed: %s', error)

  def _ask(self) -> None:
    """Puts here what somebody has put into the bucket; what has gone on one side goes on the other."""
    for name in self._asks:
      path, there = os.path.join(self._folder, name), self._bucket.exists(name)
      here = os.path.lexists(path)
      if there and here:
        self._asked.add(name)
      elif there and name in self._asked:  # done
        self._bucket.delete([name])
        self._asked.discard(name)
      elif there:
        with open(path, 'w'):
          self._asked.add(name)
      elif here:
        os.remove(path)
        self._asked.discard(name)

  def _files(self) -> list[str]:
    """What of the folder belongs into the bucket."""
    found = []
    for at, folders, names in os.walk(self._folder):
      if at == self._folder:
        folders[:] = [name for name in folders if name not in (*_APART, '.fetched')]
        names = [name for name in names if name not in (LOCK, *self._asks)]
      found += [os.path.relpath(os.path.join(at, name), self._folder) for name in names]
    return [name for name in found if not _TEMPORARY.fullmatch(name)]


@contextlib.contextmanager
def readable(path: str) -> Iterator[str]:
  """A work directory to read from, without its checkpoints where it is in a bucket: a copy of the moment.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if not place.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    try:
      bucket = Bucket(path)
      Mirror(bucket, folder, sync_seconds=FIELDS['sync_seconds'].default).fetch()
    except OSError as error:
      raise ConfigError(f'{path} cannot be read: {error}') from error
    yield folder


def _state(path: str) -> tuple[int, int]:
  found = os.stat(path)
  return found.st_size, found.st_mtime_ns


def _goes_on(own: str, fetched: str) -> bool:
  """Whether a file is longer than another and begins with all of it: a killed process had no time to copy the rest."""
  if not os.path.exists(own) or os.path.getsize(own) <= os.path.getsize(fetched):
    return False
  with open(own, 'rb') as mine, open(fetched, 'rb') as theirs:
    while block := theirs.read(1024 * 1024):
      if mine.read(len(block)) != block:
        return False
  return True
