"""The work directory: whose it is, with which config, and that only one run at a time writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import IO, Any

from trainer import config as config_lib
from trainer import durable
from trainer.errors import ConfigError
from trainer.report.profiles import PROFILE_FILE
from trainer.runtime.notices import STOP_FILE

CONFIG = 'config.json'
PLAN = 'plan.json'
BENCHMARK = 'benchmark.json'
_LOCK = 'run.lock'


class Workdir:
  """A work directory: claimed by the chief of a run that writes to it, or read by anyone."""

  def __init__(self, path: str):
    """Raises:
    ConfigError: the path is not on a file system of this machine.
    """
    if '://' in path:
      raise ConfigError(
        f'--workdir={path} is not on a mounted file system: mount the bucket, or name a local directory'
      )
    self.path = os.path.abspath(path)
    self._lock: IO[str] | None = None

  def file(self, name: str) -> str:
    return os.path.join(self.path, name)

  def claim(self) -> None:
    """Creates the directory and locks it for as long as this process lives.

    Raises:
      ConfigError: it cannot be written to, holds something else than a run, or another process trains in it.
    """
    try:
      os.makedirs(self.path, exist_ok=True)
      entries = set(os.listdir(self.path)) - {STOP_FILE, PROFILE_FILE, PLAN, BENCHMARK}
      # The lock is the first thing that a run makes: a kill may leave it with nothing, or half a file, beside it.
      if entries and not entries & {_LOCK, CONFIG}:
        raise ConfigError(
          f'--workdir={self.path} is not empty and holds no run (it has {sorted(entries)[0]!r}): '
          'name a new or an empty directory'
        )
      self._lock = open(self.file(_LOCK), 'a+')  # noqa: SIM115 (held until the process ends)
    except OSError as error:
      raise ConfigError(f'--workdir={self.path} cannot be written to: {error.strerror or error}') from error
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      self._lock.seek(0)
      owner = self._lock.read().strip() or 'another process'
      raise ConfigError(f'--workdir={self.path} is in use by {owner}: wait for it, or name another') from error
    self._lock.truncate(0)
    self._lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    self._lock.flush()

  def write(self, name: str, text: str) -> None:
    """Writes a small file whole, without claiming the directory, which is made if need be.

    Raises:
      ConfigError: it cannot be written to.
    """
    try:
      os.makedirs(self.path, exist_ok=True)
      durable.replace(self.file(name), text.encode())
    except OSError as error:
      raise ConfigError(f'--workdir={self.path} cannot be written to: {error.strerror or error}') from error

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
        f'--workdir={self.path} holds a run of another config: {"; ".join(breaking)}. '
        'Choose another --workdir, or set back what changed'
      )
    if write and (changes or before is None):
      durable.replace(self.file(CONFIG), config_lib.to_json(config).encode())
    return [f'{path}: {old!r} -> {new!r}' for path, old, new, _ in changes]
