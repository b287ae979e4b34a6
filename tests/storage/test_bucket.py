"""Objects in a bucket: what is there, made once, tried again, given up on."""

from __future__ import annotations

import contextlib
import secrets

import pytest

from trainer.errors import ConfigError
from trainer.storage import bucket as bucket_lib
from trainer.storage.bucket import Bucket, BucketError


@pytest.fixture
def bucket() -> Bucket:
  return Bucket(f'memory://{secrets.token_hex(4)}/run', retry_seconds=5.0)


class Flaky:
  """A file system whose reads fail so many times, with an error of choice."""

  def __init__(self, error: Exception, times: int):
    self.error, self.times, self.asked = error, times, 0

  def cat_file(self, path: str) -> bytes:
    self.asked += 1
    if self.asked <= self.times:
      raise self.error
    return b'contents'


def refusal(code: int) -> Exception:
  error = RuntimeError(f'the service says {code}')
  error.code = code  # type: ignore[attr-defined]
  return error


def test_objects_come_and_go(bucket, tmp_path):
  (tmp_path / 'sub').mkdir()
  (tmp_path / 'sub/b').write_bytes(b'22')
  (tmp_path / 'a').write_bytes(b'1')
  bucket.upload(str(tmp_path), ['a', 'sub/b'], 'there/')
  bucket.write('other', b'333')
  assert bucket.sizes() == {'there/a': 1, 'there/sub/b': 2, 'other': 3}
  assert bucket.sizes('there/') == {'there/a': 1, 'there/sub/b': 2}
  assert bucket.read('there/sub/b') == b'22' and bucket.read('nothing') is None
  bucket.copy('other', 'copied')
  bucket.download(str(tmp_path / 'back'), {'copied': 3})
  assert (tmp_path / 'back/copied').read_bytes() == b'333'
  bucket.delete(['other', 'copied', 'never there'])
  assert not bucket.exists('other') and bucket.exists('there/a')


def test_an_object_is_made_once(bucket):
  assert bucket.create('lock', b'first')
  assert not bucket.create('lock', b'second')
  assert bucket.read('lock') == b'first'


def test_the_maker_of_an_object_whose_answer_was_lost_is_its_maker(bucket):
  bucket.write('lock', b'mine')
  assert bucket.create('lock', b'mine')


def test_a_download_that_is_cut_short_does_not_count(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(bucket_lib.time, 'sleep', lambda seconds: None)
  bucket.write('a', b'12345')
  bucket._retry_seconds = 0.1
  with pytest.raises(BucketError, match='5 of 9 bytes came'):
    bucket.download(str(tmp_path), {'a': 9})
  assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('code', [429, 500, 503, 408])
def test_what_may_pass_is_tried_again(bucket, monkeypatch, code):
  waits: list[float] = []
  monkeypatch.setattr(bucket_lib.time, 'sleep', waits.append)
  bucket._files = Flaky(refusal(code), times=3)
  assert bucket.read('a') == b'contents'
  assert len(waits) == 3 and all(wait > 0 for wait in waits)


@pytest.mark.parametrize('error', [refusal(403), refusal(400), PermissionError('not yours'), ValueError('no')])
def test_what_cannot_pass_is_said_at_once(bucket, monkeypatch, error):
  monkeypatch.setattr(bucket_lib.time, 'sleep', lambda seconds: pytest.fail('waited'))
  bucket._files = Flaky(error, times=10**6)
  with pytest.raises(BucketError, match=r'^cannot read memory://[0-9a-f]+/run/a: ') as caught:
    bucket.read('a')
  assert '\n' not in str(caught.value)


def test_trying_has_an_end(bucket, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(bucket_lib.time, 'sleep', lambda seconds: now.__setitem__(0, now[0] + seconds))
  monkeypatch.setattr(bucket_lib.time, 'monotonic', lambda: now[0])
  bucket._files = Flaky(OSError('unreachable\nhost'), times=10**6)
  with pytest.raises(BucketError, match=r'unreachable host \(tried for \d s\)'):
    bucket.read('a')
  assert now[0] <= 5.0


@pytest.mark.parametrize(
  ('url', 'says'),
  [
    ('gs://', 'names no bucket'),
    ('gs:///run', 'names no bucket'),
    ('s3://key:secret@bucket/run', 'credentials by the environment'),
    ('gs://bucket/run?token=1', 'credentials by the environment'),
    ('nonsense://bucket/run', 'cannot be used'),
  ],
)
def test_an_address_that_makes_no_sense_is_one_line_without_what_is_secret(url, says):
  with pytest.raises(ConfigError, match=says) as caught:
    Bucket(url, 1.0)
  assert 'secret@' not in str(caught.value)


def test_a_package_that_is_missing_is_named():
  with contextlib.suppress(ImportError):
    import s3fs  # noqa: F401

    pytest.skip('s3fs is installed')
  with pytest.raises(ConfigError, match='pip install s3fs'):
    Bucket('s3://bucket/run', 1.0)
