"""The work directory: whose it is, with which config, and that only one run at a time writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import IO, Any

from trainer import config as config_lib
from trainer.errors import ConfigError

CONFIG, RUN, METRICS, CHECKPOINTS, TENSORBOARD = 'config.json', 'run.json', 'metrics.jsonl', 'checkpoints', 'tensorboard'
_LOCK = 'lock'


class Workdir:
  """A work directory, opened for writing by the chief of a run or for reading by anyone."""

  def __init__(self, path: str, *, writer: bool):
    """Creates the directory and takes its lock if `writer`.

    Raises:
      ConfigError: the directory cannot be written to, holds something else than a run, or another process trains in it;
        for a reader, there is no run in it.
    """
    self.path, self.writer = os.path.abspath(path), writer
    self._lock: IO[str] | None = None
    if writer:
      self._claim()
    elif not os.path.isfile(self.file(CONFIG)):
      raise ConfigError(f'--workdir={path} holds no run: there is no {CONFIG} in it')

  def file(self, name: str) -> str:
    return os.path.join(self.path, name)

  def _claim(self) -> None:
    try:
      os.makedirs(self.path, exist_ok=True)
      entries = set(os.listdir(self.path)) - {_LOCK}
      if entries and CONFIG not in entries:
        raise ConfigError(
          f'--workdir={self.path} is not empty and holds no run (it has {sorted(entries)[0]!r}): '
          'name a new or an empty directory'
        )
      self._lock = open(self.file(_LOCK), 'a+')  # noqa: SIM115 (held until the process ends)
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      self._lock.seek(0)
      raise ConfigError(f'--workdir={self.path} is in use by {self._lock.read().strip() or "another process"}') from error
    except OSError as error:
      raise ConfigError(f'--workdir={self.path} cannot be written to: {error.strerror or error}') from error
    self._lock.truncate(0)
    self._lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    self._lock.flush()

  def earlier_config(self) -> dict[str, Any] | None:
    """The effective config of the last attempt, or None at the first.

    Raises:
      ConfigError: the file is there and cannot be parsed.
    """
    try:
      with open(self.file(CONFIG)) as file:
        return json.load(file)
    except FileNotFoundError:
      return None
    except (OSError, ValueError) as error:
      raise ConfigError(f'{self.file(CONFIG)} cannot be read ({error}): restore it, or choose another --workdir') from error

  def adopt(self, config, *, trained: bool) -> list[str]:
    """Holds the config against that of the last attempt, and makes it the effective one.

    Args:
      config: checked.
      trained: whether there is a checkpoint that a change could break.

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
    if self.writer and (changes or before is None):
      write_atomically(self.file(CONFIG), config_lib.to_json(config))
    return [f'{path}: {old!r} -> {new!r}' for path, old, new, _ in changes]


def write_atomically(path: str, text: str) -> None:
  """Replaces a file so that a reader, or a crash, finds the old text or the new, never a part."""
  temporary = f'{path}.tmp'
  with open(temporary, 'w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
