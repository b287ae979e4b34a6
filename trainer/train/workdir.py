"""The work directory: whose it is, with which config, and that only one run at a time writes to it.

Where it is in a bucket, the program works on a copy here (trainer/storage says what goes there, and when), which the
same process on the same machine finds again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

from trainer import config as config_lib
from trainer import durable
from trainer.errors import ConfigError
from trainer.report import ledger
from trainer.report.gallery import INPUTS
from trainer.report.profiles import PROFILE_FILE
from trainer.runtime.notices import STOP_FILE
from trainer.storage import place
from trainer.storage.bucket import Bucket
from trainer.storage.lease import LOCK, Lease
from trainer.storage.mirror import Mirror
from trainer.storage.steps import CHECKPOINTS, Steps

CONFIG = 'config.json'
PLAN = 'plan.json'
BENCHMARK = 'benchmark.json'
PRECISION = 'precision.json'
LR_TEST = 'lr_test.json'
OVERFIT = 'overfit.json'
REPORT = 'report.html'


class Workdir:
  """A work directory: claimed by the chief of a run that writes to it, followed by other workers, or read by anyone.

  Args:
    path: a directory of this machine, or 'gs://bucket/run'.
    storage: the config's section; needed for a bucket alone.

  Attributes:
    path: the directory here; of a run in a bucket its copy, once it is claimed, followed or read.
    steps: the checkpoints in the bucket; None for a directory of this machine.

  Raises:
    ConfigError: the bucket's address makes no sense, or a package for it is not installed.
  """

  def __init__(self, path: str, storage: Any = None):
    self._name = path.rstrip('/') if place.is_remote(path) else os.path.abspath(path)
    self.path = self._name
    self.steps: Steps | None = None
    self._bucket = Bucket(path, storage.retry_seconds) if place.is_remote(path) else None
    self._storage = storage
    self._lock: IO[str] | None = None
    self._mirror: Mirror | None = None
    self._temporary = ''

  @property
  def is_remote(self) -> bool:
    return self._bucket is not None

  def file(self, name: str) -> str:
    """The path of a file on this machine."""
    return os.path.join(self.path, name)

  def shown(self, name: str) -> str:
    """Where a file is, for the user."""
    return f'{self._name}/{name}' if self._bucket else self.file(name)

  def claim(self, on_lost: Callable[[str], None] = lambda owner: None, say: Callable[[str], None] = print) -> None:
    """Creates the directory and locks it for as long as this process lives.

    Args:
      on_lost: called, in a thread, with who has taken over the run in the bucket from us.
      say: is told what is waited for.

    Raises:
      ConfigError: it cannot be written to, holds something else than a run, or another process trains in it.
    """
    self.path = place.local_copy(self._name)
    try:
      os.makedirs(self.path, exist_ok=True)
      self._refuse_strangers(os.listdir(self.path) if self._bucket is None else self._top(self._bucket))
      self._lock = open(self.file(LOCK), 'a+')  # noqa: SIM115 (held until the process ends)
    except OSError as error:
      raise self._unusable(error) from error
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      self._lock.seek(0)
      owner = self._lock.read().strip() or 'another process'
      raise ConfigError(f'--workdir={self._name} is in use by {owner}: wait for it, or name another') from error
    since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
    self._lock.truncate(0)
    self._lock.write(f'process {os.getpid()} on {socket.gethostname()} since {since}\n')
    self._lock.flush()
    if self._bucket is not None:
      try:
        lease = Lease(self._bucket, self._storage.lease_seconds)
        lease.take(say)
        self._join(writer=True, lease=lease, on_lost=on_lost)
      except OSError as error:
        raise self._unusable(error) from error

  def follow(self, worker: int) -> None:
    """Joins a run that the chief has claimed, as another of its workers.

    Raises:
      ConfigError: the bucket cannot be read.
    """
    if self._bucket is not None:
      self.path = f'{place.local_copy(self._name)}.worker-{worker}'
      try:
        self._join(only=(CONFIG, ledger.file_name(worker)))
      except OSError as error:
        raise self._unusable(error) from error

  def read(self) -> None:
    """Makes the directory readable: of one in a bucket, a copy that `close` removes.

    Raises:
      ConfigError: the bucket cannot be read.
    """
    if self._bucket is not None:
      try:
        self.scratch()
        self.steps = Steps(self._bucket, self.file(CHECKPOINTS), writer=False)
      except OSError as error:
        raise self._unusable(error) from error
      self.refresh()

  def refresh(self) -> None:
    """Looks again at what the bucket has, after `read`: its config, and which checkpoints count.

    Raises:
      ConfigError: the bucket cannot be read.
    """
    if self._bucket is not None and self.steps is not None:
      try:
        self.steps.sync()
        Mirror(self._bucket, self.path, sync_seconds=self._storage.sync_seconds).fetch(only=(CONFIG,))
      except OSError as error:
        raise self._unusable(error) from error

  def scratch(self) -> None:
    """Where the directory is in a bucket: an empty one here, which `close` removes, for what is not to be kept."""
    if self._bucket is not None:
      os.makedirs(place.scratch(), exist_ok=True)
      self.path = self._temporary = tempfile.mkdtemp(prefix='read-', dir=place.scratch())

  def close(self) -> None:
    """Copies to the bucket what is not there yet, and gives the lock back; removes a copy that was only read."""
    if self._mirror is not None:
      self._mirror.close()
    if self._temporary:
      shutil.rmtree(self._temporary, ignore_errors=True)

  def write(self, name: str, text: str) -> None:
    """Writes a small file whole, without claiming the directory, which is made if need be.

    Raises:
      ConfigError: it cannot be written to.
    """
    try:
      if self._bucket is not None:
        self._bucket.write(name, text.encode())
        return
      os.makedirs(self.path, exist_ok=True)
      durable.replace(self.file(name), text.encode())
    except OSError as error:
      raise self._unusable(error) from error

  def publish(self, name: str) -> str:
    """Where the directory is in a bucket, copies a folder of the copy here to it. Returns where it is, for the user.

    Raises:
      ConfigError: the bucket cannot be written to.
    """
    if self._bucket is not None:
      try:
        for folder, _, files in os.walk(self.file(name)):
          for file in files:
            path = os.path.join(folder, file)
            with open(path, 'rb') as opened:
              self._bucket.write(os.path.relpath(path, self.path), opened.read())
      except OSError as error:
        raise self._unusable(error) from error
    return self.shown(name)

  def text(self, name: str) -> str:
    """What a small file holds, as it is now; '' where there is none.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
      if self._bucket is not None:
        return (self._bucket.read(name) or b'').decode()
      with open(self.file(name)) as file:
        return file.read()
    except FileNotFoundError:
      return ''
    except (OSError, ValueError) as error:
      raise ConfigError(f'{self.shown(name)} cannot be read ({error}): set it right, or move it away') from error

  def earlier_config(self) -> dict[str, Any] | None:
    """The effective config of the last attempt, or None where there was none.

    Raises:
      ConfigError: the file is there and cannot be parsed.
    """
    try:
      with open(self.file(CONFIG)) as file:
        return json.load(file)
    except FileNotFoundError:
      return None
    except (OSError, ValueError) as error:
      raise ConfigError(
        f'{self.file(CONFIG)} cannot be read ({error}): restore it, or choose another --workdir'
      ) from error

  def adopt(self, config, *, trained: bool, write: bool) -> list[str]:
    """Holds the config against that of the last attempt, and makes it the effective one.

    Args:
      config: checked.
      trained: whether there is a checkpoint that a change could break.
      write: whether to write it to config.json: in training, and by the chief only.

    Returns:
      One line per field that changed, to be shown.

    Raises:
      ConfigError: a change would break the run; all such fields are named.
    """
    before = self.earlier_config()
    changes = config_lib.changes(config, before) if before is not None else []
    breaking = [f'{path} was {old!r} and is now {new!r}' for path, old, new, breaks in changes if breaks]
    if breaking and trained:
      raise ConfigError(
        f'--workdir={self._name} holds a run of another config: {"; ".join(breaking)}. '
        'Choose another --workdir, or set back what changed'
      )
    if write and (changes or before is None):
      durable.replace(self.file(CONFIG), config_lib.to_json(config).encode())
    return [f'{path}: {old!r} -> {new!r}' for path, old, new, _ in changes]

  def _join(
    self,
    *,
    writer: bool = False,
    only: tuple[str, ...] = (),
    lease: Lease | None = None,
    on_lost: Callable[[str], None] = lambda owner: None,
  ) -> None:
    """Makes the copy here what the bucket has, and begins to keep the bucket up to date."""
    assert self._bucket is not None
    os.makedirs(self.path, exist_ok=True)
    self._mirror = Mirror(
      self._bucket,
      self.path,
      sync_seconds=self._storage.sync_seconds,
      asks=(STOP_FILE, PROFILE_FILE) if writer else (STOP_FILE,),
      lease=lease,
      on_lost=on_lost,
    )
    self._mirror.fetch(only)
    self.steps = Steps(self._bucket, self.file(CHECKPOINTS), writer=writer, before_marker=self._mirror.before_marker)
    self.steps.sync()
    self._mirror.start()

  def _top(self, bucket: Bucket) -> list[str]:
    return sorted({name.partition('/')[0] for name in bucket.sizes()})

  def _refuse_strangers(self, names: list[str]) -> None:
    entries = set(names) - {STOP_FILE, PROFILE_FILE, PLAN, BENCHMARK, PRECISION, LR_TEST, OVERFIT, INPUTS, REPORT}
    # The lock is the first thing that a run makes: a kill may leave it with nothing, or half a file, beside it.
    if entries and not entries & {LOCK, CONFIG}:
      raise ConfigError(
        f'--workdir={self._name} is not empty and holds no run (it has {sorted(entries)[0]!r}): '
        'name a new or an empty directory'
      )

  def _unusable(self, error: OSError) -> ConfigError:
    doing = 'used' if self._bucket else 'written to'
    return ConfigError(f'--workdir={self._name} cannot be {doing}: {error.strerror or error}')
