"""The lock of a run in a bucket: an object that its owner renews. A bucket has no lock that ends with its holder.

A lock that did not change for the length of a lease, by the clock of the one who waits for it, is taken over; one whose
owner is seen to be dead on this machine, at once. Who finds another's name in the lock has lost it and stops writing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from trainer.errors import ConfigError
from trainer.storage.bucket import Bucket

LOCK = 'run.lock'
_RENEWALS = 4  # per lease
_SETTLED = 1 / 12  # of a lease: after a take-over, for another's write under way to be seen


class Lease:
  """Args:
  bucket: of the run.
  seconds: see config `storage.lease_seconds`.
  sleep: how to wait.
  """

  def __init__(self, bucket: Bucket, seconds: float, sleep: Callable[[float], None] = time.sleep):
    self._bucket, self._seconds, self._sleep = bucket, seconds, sleep
    self._token, self._count, self._held = secrets.token_hex(8), 0, False
    self._since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
    self._renewing = threading.Lock()

  def take(self, say: Callable[[str], None]) -> None:
    """Takes the lock; waits for one that may have been left behind.

    Args:
      say: is told what is waited for.

    Raises:
      ConfigError: another run holds it.
      BucketError: the bucket cannot be reached.
    """
    if not self._bucket.create(LOCK, self._text()):
      before = self._bucket.read(LOCK)
      if before is not None and not _is_dead_here(_parsed(before)):
        say(f'waiting up to {self._seconds:g} s for the lock of {_owner(before)}')
        self._wait_for_silence(before)
      self._bucket.write(LOCK, self._text())
      self._sleep(self._seconds * _SETTLED)
      if not self._is_ours(now := self._bucket.read(LOCK)):
        raise ConfigError(self._taken(now or b''))
    self._held = True

  @property
  def period(self) -> float:
    """Seconds from one renewal to the next."""
    return self._seconds / _RENEWALS

  def renew(self) -> str:
    """Renews the lock. Returns who else holds it now; '' while it is ours. For any thread."""
    with self._renewing:
      if not self._held:
        return ''
      now = self._bucket.read(LOCK)
      if not self._is_ours(now):
        self._held = False
        return _owner(now or b'')
      self._count += 1
      self._bucket.write(LOCK, self._text())
      return ''

  def release(self) -> None:
    """Gives the lock back, if it is ours."""
    with self._renewing:
      if self._held and self._is_ours(self._bucket.read(LOCK)):
        self._bucket.delete([LOCK])
      self._held = False

  def _wait_for_silence(self, before: bytes) -> None:
    pause = self._seconds / (2 * _RENEWALS)
    end = time.monotonic() + self._seconds
    while time.monotonic() < end:
      self._sleep(pause)
      now = self._bucket.read(LOCK)
      if now is None:  # given back
        return
      if now != before:
        raise ConfigError(self._taken(now))

  def _is_ours(self, text: bytes | None) -> bool:
    """By its token: whether a renewal that failed was written is not known."""
    return text is not None and _parsed(text).get('token') == self._token

  def _taken(self, text: bytes) -> str:
    return f'--workdir={self._bucket.url} is in use by {_owner(text)}: wait for it, or name another'

  def _text(self) -> bytes:
    owner = {'host': socket.gethostname(), 'process': os.getpid(), 'since': self._since, 'machine': _machine()}
    return json.dumps({**owner, 'token': self._token, 'renewals': self._count}).encode()


def _machine() -> str:
  """What tells the processes of this boot and container from those of others: their numbers can be looked up here."""
  try:
    with open('/proc/sys/kernel/random/boot_id') as file:
      return f'{file.read().strip()} {os.stat("/proc/self/ns/pid").st_ino}'
  except OSError:
    return ''


def _is_dead_here(owner: dict[str, Any]) -> bool:
  """Whether the owner was a process of this machine that is no more."""
  if not owner.get('machine') or owner['machine'] != _machine() or not isinstance(owner.get('process'), int):
    return False
  try:
    os.kill(owner['process'], 0)
  except ProcessLookupError:
    return True
  except OSError:
    return False
  return False


def _parsed(text: bytes) -> dict[str, Any]:
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _owner(text: bytes) -> str:
  owner = _parsed(text)
  if not owner:
    return 'another process'
  return f'process {owner.get("process")} on {owner.get("host")} since {owner.get("since")}'
