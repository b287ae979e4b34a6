"""What is in an object of Google's is what was sent, to the last byte, or it is sent again."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.storage import emulator
from tests.storage.emulator import Fault, Storage
from trainer.storage.bucket import Bucket, BucketError

LARGE = random.Random(0).randbytes(300_000)
CONTENTS = {
  'nothing': b'', 'text': b'text', 'line': b'line\n', 'returned': b'line\r', 'both': b'line\r\n', 'one': b'\r',
  'turned': b'\n\r', 'large': LARGE + b'a', 'large_returned': LARGE + b'\r', 'larger': LARGE * 20 + b'\r',
}  # fmt: skip


@pytest.fixture(scope='module')
def storage() -> Iterator[Storage]:
  with emulator.storage() as found:
    yield found


@pytest.fixture
def bucket(storage, monkeypatch) -> Bucket:
  for name, value in storage.environment.items():
    monkeypatch.setenv(name, value)
  storage.faults.clear()
  return Bucket(f'gs://{emulator.BUCKET}/run', retry_seconds=5.0)


@pytest.mark.parametrize('kind', CONTENTS)
def test_an_object_has_all_its_bytes(bucket, storage, tmp_path, kind):
  contents = CONTENTS[kind]
  bucket.write('written', contents)
  (tmp_path / 'file').write_bytes(contents)
  bucket.upload(str(tmp_path), ['file'])
  for name in ('written', 'file'):
    assert storage.read(f'run/{name}') == contents
  bucket.download(str(tmp_path / 'back'), {'file': len(contents)})
  assert (tmp_path / 'back/file').read_bytes() == contents


@pytest.mark.parametrize('contents', [LARGE + b'a', LARGE + b'\r', LARGE * 20], ids=['framed', 'returned', 'in parts'])
def test_what_was_spoiled_on_its_way_is_sent_again(bucket, storage, tmp_path, contents):
  (tmp_path / 'file').write_bytes(contents)
  storage.faults.append(Fault('spoil', 'POST .*(uploadType=multipart|upload_id)'))
  bucket.upload(str(tmp_path), ['file'])
  assert storage.met.pop() == 'spoil' and storage.read('run/file') == contents
  storage.faults.append(Fault('spoil', 'POST .*(uploadType=multipart|upload_id)', times=1000))
  bucket._retry_seconds = 0.1
  with pytest.raises(BucketError, match=r'cannot upload gs://runs/run/file: MD5 checksum failed'):
    bucket.upload(str(tmp_path), ['file'])
