"""What of a run is copied to its bucket, and back; and which of its checkpoints count."""

from __future__ import annotations

import json
import os
import secrets
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.report.gallery import Gallery, Part
from trainer.storage.bucket import Bucket
from trainer.storage.mirror import Mirror, readable
from trainer.storage.place import local_copy
from trainer.storage.steps import Steps
from trainer.train.workdir import Workdir


@pytest.fixture
def bucket() -> Bucket:
  return Bucket(f'memory://{secrets.token_hex(4)}/run', 1.0)


@pytest.fixture
def mirror(bucket, tmp_path) -> Mirror:
  (tmp_path / 'copy').mkdir()
  return Mirror(bucket, str(tmp_path / 'copy'), sync_seconds=30, asks=('STOP', 'PROFILE'))


@pytest.fixture
def folder(mirror, tmp_path):
  return tmp_path / 'copy'


def write(path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_what_changes_is_copied_and_nothing_else(mirror, folder, bucket):
  for name in ('metrics.jsonl', 'tensorboard/train/events', 'checkpoints/1/x', 'run.lock', 'config.json.tmp', 'STOP'):
    write(folder / name, 'one')
  mirror.push()
  assert sorted(bucket.sizes()) == ['metrics.jsonl', 'tensorboard/train/events']
  before = bucket.requests['upload']
  mirror.push()
  assert bucket.requests['upload'] == before
  write(folder / 'metrics.jsonl', 'one\ntwo')
  mirror.push()
  assert bucket.requests['upload'] == before + 1 and bucket.read('metrics.jsonl') == b'one\ntwo'


def test_what_is_taken_away_goes_there_too(mirror, folder, bucket):
  write(folder / 'ledger.heartbeat', 'alive')
  bucket.write('left by another', b'')
  mirror.push()
  (folder / 'ledger.heartbeat').unlink()
  mirror.push()
  assert list(bucket.sizes()) == ['left by another']


def test_what_was_made_of_a_run_lies_beside_it(mirror, folder, bucket):
  directory = Workdir(bucket.url, SimpleNamespace(retry_seconds=1.0, sync_seconds=30.0))
  directory.scratch()
  for name in ('samples/5', 'export/5'):
    gallery = Gallery(directory.file(name), 'samples', 'some', step=5)
    gallery.add('one', [Part('image', 'image', np.zeros([2, 2], np.uint8))])
    gallery.close()
    assert directory.publish(name) == f'{bucket.url}/{name}'
  directory.close()
  made = [f'{name}/{file}' for name in ('export/5', 'samples/5') for file in ('0000-0.png', 'gallery.json')]
  assert sorted(bucket.sizes()) == made
  mirror.fetch()
  assert (folder / 'samples/5/gallery.json').exists() and not (folder / 'export').exists()
  mirror.push()
  assert sorted(bucket.sizes()) == made


def test_the_copy_becomes_what_the_bucket_has(mirror, folder, bucket):
  bucket.write('config.json', b'new')
  bucket.write('tensorboard/train/events', b'there')
  write(folder / 'config.json', 'old')
  write(folder / 'bad_steps.jsonl', 'of a run that was here before')
  mirror.fetch()
  assert (folder / 'config.json').read_text() == 'new'
  assert (folder / 'tensorboard/train/events').read_text() == 'there'
  assert not (folder / 'bad_steps.jsonl').exists()
  mirror.push()
  assert bucket.requests['upload'] == 0


def test_a_worker_keeps_its_own_files_alone(mirror, folder, bucket):
  bucket.write('config.json', b'{}')
  bucket.write('metrics.jsonl', b'the chief writes these')
  bucket.write('ledger.worker1.jsonl', b'a\n')
  write(folder / 'ledger.worker1.jsonl', 'a\nb\n')
  write(folder / 'ledger.worker1.heartbeat', 'of another run')
  mirror.fetch(only=('config.json', 'ledger.worker1.jsonl'))
  assert sorted(os.listdir(folder)) == ['config.json', 'ledger.worker1.jsonl']
  assert (folder / 'ledger.worker1.jsonl').read_text() == 'a\nb\n'
  mirror.push()
  assert bucket.read('ledger.worker1.jsonl') == b'a\nb\n' and bucket.read('metrics.jsonl') == b'the chief writes these'


def test_lines_that_a_killed_process_could_not_copy_are_kept(mirror, folder, bucket):
  bucket.write('ledger.jsonl', b'a\n')
  write(folder / 'ledger.jsonl', 'a\nb\n')
  mirror.fetch()
  assert (folder / 'ledger.jsonl').read_text() == 'a\nb\n'
  mirror.push()
  assert bucket.read('ledger.jsonl') == b'a\nb\n'


def test_a_file_that_goes_on_otherwise_is_the_bucket_s(mirror, folder, bucket):
  bucket.write('ledger.jsonl', b'x\n')
  write(folder / 'ledger.jsonl', 'a\nb\n')
  mirror.fetch()
  assert (folder / 'ledger.jsonl').read_text() == 'x\n'


def test_what_somebody_asks_in_the_bucket_is_asked_here(mirror, folder, bucket):
  bucket.write('PROFILE', b'')
  bucket.write('STOP', b'')
  mirror.fetch()
  assert (folder / 'PROFILE').exists() and (folder / 'STOP').exists()
  (folder / 'PROFILE').unlink()  # done
  mirror._ask()
  assert not bucket.exists('PROFILE') and (folder / 'STOP').exists()
  bucket.delete(['STOP'])  # no longer wanted
  mirror._ask()
  assert not (folder / 'STOP').exists()


def test_a_run_in_a_bucket_can_be_read_without_its_checkpoints(bucket):
  bucket.write('ledger.jsonl', b'a\n')
  bucket.write('checkpoints/1/data', b'large')
  with readable(bucket.url) as folder:
    assert sorted(os.listdir(folder)) == ['ledger.jsonl']


def test_a_copy_is_found_again_and_is_no_other_run_s(monkeypatch, tmp_path):
  monkeypatch.setenv('TRAINER_SCRATCH', str(tmp_path))
  assert local_copy('gs://b/run') == local_copy('gs://b/run/') != local_copy('gs://c/run')
  assert local_copy('/some/where') == '/some/where'


# Checkpoints


@pytest.fixture
def steps(bucket, tmp_path) -> Steps:
  return Steps(bucket, str(tmp_path / 'checkpoints'), writer=True)


def make(tmp_path, step: int, data: str = 'data') -> None:
  write(tmp_path / f'checkpoints/{step}/state/d', data)
  write(tmp_path / f'checkpoints/{step}/complete.json', json.dumps({'step': step, 'data': data}))


def test_a_step_counts_when_all_else_is_there(bucket, tmp_path):
  seen = []
  steps = Steps(bucket, str(tmp_path / 'checkpoints'), writer=True, before_marker=lambda: seen.append(bucket.sizes()))
  make(tmp_path, 7)
  steps.publish(7)
  assert list(seen[0]) == ['checkpoints/7/state/d']
  assert sorted(bucket.sizes()) == ['checkpoints/7/complete.json', 'checkpoints/7/state/d']


def test_a_step_is_fetched_when_it_is_to_be_read(bucket, steps, tmp_path):
  make(tmp_path, 7)
  steps.publish(7)
  there = Steps(bucket, str(tmp_path / 'other'), writer=False)
  there.sync()
  assert (tmp_path / 'other/7/complete.json').exists() and not (tmp_path / 'other/7/state').exists()
  there.fetch(7)
  assert (tmp_path / 'other/7/state/d').read_text() == 'data'
  downloads = bucket.requests['download']
  there.fetch(7)
  assert bucket.requests['download'] == downloads
  write(tmp_path / 'other/7/state/d', 'DATA')  # damaged here
  there.fetch(7, again=True)
  assert (tmp_path / 'other/7/state/d').read_text() == 'data'


def test_what_did_not_get_there_does_not_count(bucket, steps, tmp_path):
  make(tmp_path, 7)
  steps.publish(7)
  make(tmp_path, 8)  # complete here only
  bucket.write('checkpoints/8/state/d', b'half of an upload')
  steps.sync()
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['7']
  assert not bucket.sizes('checkpoints/8/')
  assert (tmp_path / 'checkpoints/7/state/d').exists()  # no need to fetch what is here


def test_a_step_of_another_run_that_lies_here_is_not_taken_for_it(bucket, steps, tmp_path):
  make(tmp_path, 7)
  steps.publish(7)
  make(tmp_path, 7, 'other')
  steps.sync()
  steps.fetch(7)
  assert (tmp_path / 'checkpoints/7/state/d').read_text() == 'data'


def test_surplus_steps_go_and_damaged_ones_are_set_aside(bucket, steps, tmp_path):
  for step in (1, 2, 3):
    make(tmp_path, step)
    steps.publish(step)
  steps.keep_only({2, 3})
  assert not bucket.sizes('checkpoints/1/') and bucket.sizes('checkpoints/2/')
  steps.set_aside(3, '3-1')
  assert sorted(bucket.sizes('checkpoints/damaged/')) == [
    'checkpoints/damaged/3-1/complete.json',
    'checkpoints/damaged/3-1/state/d',
  ]
  assert not bucket.sizes('checkpoints/3/')


def test_a_step_that_is_saved_again_never_counts_half(bucket, steps, tmp_path):
  make(tmp_path, 7)
  steps.publish(7)
  make(tmp_path, 7, 'other')
  write(tmp_path / 'checkpoints/7/state/e', 'more')
  (tmp_path / 'checkpoints/7/state/d').unlink()
  steps.publish(7)
  assert sorted(bucket.sizes()) == ['checkpoints/7/complete.json', 'checkpoints/7/state/e']


def test_a_step_that_has_gone_is_gone_here_too(bucket, steps, tmp_path):
  make(tmp_path, 7)
  steps.publish(7)
  steps.keep_only(set())
  steps.fetch(7)
  assert not (tmp_path / 'checkpoints/7').exists()
