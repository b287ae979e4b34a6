"""The lock of a run in a bucket: one owner at a time, named to others, taken over when it is silent or dead."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from trainer.errors import ConfigError
from trainer.storage import lease as lease_lib
from trainer.storage.bucket import Bucket, BucketError
from trainer.storage.lease import LOCK, Lease


class Clock:
  """Time that passes only when somebody sleeps; `on_sleep` is what others do meanwhile."""

  def __init__(self) -> None:
    self.now, self.on_sleep = 0.0, lambda: None

  def sleep(self, seconds: float) -> None:
    self.now += seconds
    self.on_sleep()


@pytest.fixture
def clock(monkeypatch) -> Clock:
  found = Clock()
  monkeypatch.setattr(lease_lib.time, 'monotonic', lambda: found.now)
  return found


@pytest.fixture
def bucket() -> Bucket:
  return Bucket(f'memory://{secrets.token_hex(4)}/run', 1.0)


@pytest.fixture
def elsewhere(monkeypatch):
  """As if each lease were of another machine: no process number says anything."""
  monkeypatch.setattr(lease_lib, '_machine', lambda: '')


def test_a_lock_is_taken_held_and_given_back(bucket, clock):
  first = Lease(bucket, 60, clock.sleep)
  first.take(lambda text: pytest.fail(text))
  assert clock.now == 0 and first.renew() == ''
  first.release()
  assert bucket.read(LOCK) is None
  Lease(bucket, 60, clock.sleep).take(lambda text: pytest.fail(text))


def test_a_lock_that_is_renewed_is_refused_with_its_owner(bucket, clock):
  first, second = Lease(bucket, 60, clock.sleep), Lease(bucket, 60, clock.sleep)
  first.take(print)
  clock.on_sleep = first.renew
  said: list[str] = []
  with pytest.raises(ConfigError, match=r'is in use by process \d+ on \S+ since 20\d\d-.* UTC: wait for it'):
    second.take(said.append)
  assert clock.now <= 30 and 'waiting up to 60 s' in said[0]
  assert first.renew() == ''


def test_a_silent_lock_of_another_machine_is_taken_over(bucket, clock, elsewhere):
  first, second = Lease(bucket, 60, clock.sleep), Lease(bucket, 60, clock.sleep)
  first.take(print)
  second.take(print)
  assert 60 <= clock.now <= 70
  assert 'process' in first.renew()  # it finds out, and no longer gives back what is not its own
  first.release()
  assert bucket.read(LOCK) is not None and second.renew() == ''


def test_the_lock_of_a_process_that_is_dead_here_is_taken_over_at_once(bucket, clock):
  dead = subprocess.Popen([sys.executable, '-c', ''])
  dead.wait()
  owner = {'host': 'here', 'process': dead.pid, 'since': 'then', 'machine': lease_lib._machine(), 'token': 'x'}
  bucket.write(LOCK, json.dumps(owner).encode())
  lease = Lease(bucket, 60, clock.sleep)
  lease.take(lambda text: pytest.fail(text))
  assert clock.now <= 5 and lease.renew() == ''


def test_of_two_that_take_over_at_once_one_gives_way(bucket, clock, elsewhere):
  bucket.write(LOCK, b'left behind')
  first, second = Lease(bucket, 60, clock.sleep), Lease(bucket, 60, clock.sleep)
  began = []

  def other() -> None:
    if clock.now >= 60 and not began:  # while the first waits for the dust to settle
      began.append(True)
      bucket.write(LOCK, second._text())

  clock.on_sleep = other
  with pytest.raises(ConfigError, match='is in use by'):
    first.take(print)


def test_a_lock_given_back_while_it_is_waited_for_is_taken(bucket, clock, elsewhere):
  first = Lease(bucket, 60, clock.sleep)
  first.take(print)
  clock.on_sleep = first.release
  Lease(bucket, 60, clock.sleep).take(print)
  assert clock.now < 20


def test_a_lock_that_is_no_json_is_somebody_s(bucket, clock):
  bucket.write(LOCK, b'\xff{')
  clock.on_sleep = lambda: bucket.write(LOCK, secrets.token_bytes(4))
  with pytest.raises(ConfigError, match='another process'):
    Lease(bucket, 60, clock.sleep).take(print)


def test_a_renewal_whose_answer_was_lost_loses_nothing(bucket, clock, monkeypatch):
  lease = Lease(bucket, 60, clock.sleep)
  lease.take(print)
  with monkeypatch.context() as patched:
    patched.setattr(bucket, 'write', lambda name, contents: (_ for _ in ()).throw(BucketError('no answer')))
    with pytest.raises(BucketError):
      lease.renew()
  assert lease.renew() == ''
