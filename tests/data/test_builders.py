"""Finding and preparing sets: two processes at once, and sets that are not there, at once and without network."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys
import time

import pytest

from tests.data import small
from trainer.data import builders
from trainer.data.source import open_dataset
from trainer.errors import ConfigError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_OPEN = """
import sys
from tests.data import small
from trainer.data.source import open_dataset
from trainer.errors import ConfigError
try:
  dataset = open_dataset(small.config(sys.argv[1], dataset=sys.argv[2]))
  print(dataset.fingerprint(dataset.train), len(list(dataset.examples(dataset.train))))
except ConfigError as error:
  print(f'error: {error}')
"""


def _start(directory, name: str) -> subprocess.Popen[str]:
  command = [sys.executable, '-c', _OPEN, str(directory), name]
  return subprocess.Popen(command, cwd=_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_processes_prepare_one_set(tmp_path):
  running = [_start(tmp_path / 'new', 'uci_digits') for _ in range(2)]
  outputs = [process.communicate(timeout=120) for process in running]
  assert [process.returncode for process in running] == [0, 0], outputs
  said = {stdout for stdout, _ in outputs}
  assert len(said) == 1
  assert said.pop().startswith('uci_digits:1.0.0 train 1437 ')
  assert not list((tmp_path / 'new').glob('**/*incomplete*'))


@pytest.mark.slow
def test_unprepared_set_fails_fast(tmp_path):
  begin = time.monotonic()
  process = _start(tmp_path, 'mnist')
  stdout, stderr = process.communicate(timeout=60)
  took = time.monotonic() - begin
  assert 'error: ' in stdout and f'tfds build mnist --data_dir={tmp_path}' in stdout and 'data.data_dir' in stdout
  assert stdout.count('\n') == 1
  assert 'Traceback' not in stderr and 'dataset_info.json' not in stderr
  assert not list(tmp_path.iterdir())
  assert took < 10 * max(1.0, os.getloadavg()[0] / os.cpu_count())


def test_unprepared_set_is_not_tried(tmp_path):
  begin = time.monotonic()
  for name in ('mnist', 'imagenet2012', 'mnist:3.0.1'):
    with pytest.raises(ConfigError, match=r'is not prepared in|cannot be used'):
      open_dataset(small.config(tmp_path, dataset=name))
  assert time.monotonic() - begin < 5


def test_preparing_is_silent(tmp_path, capfd):
  open_dataset(small.config(tmp_path, dataset='diabetes'))
  out, err = capfd.readouterr()
  assert out == ''
  assert 'Downloading' not in err and 'Generating' not in err and 'dataset_info.json' not in err


def test_prepared_set_may_be_read_only(tmp_path):
  open_dataset(small.config(tmp_path, dataset='diabetes'))
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  open_dataset(small.config(tmp_path, dataset='diabetes'))
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


def test_directory_that_cannot_be_written(tmp_path):
  # A file where the directory should be stops root too.
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match=r'cannot be written to .*data\.data_dir'):
    open_dataset(small.config(tmp_path / 'file' / 'tfds', dataset='diabetes'))


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_home_that_cannot_be_written(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
  with pytest.raises(ConfigError, match=r'cannot be written to .*TFDS_DATA_DIR'):
    open_dataset(small.config('', dataset='diabetes'))


def test_where_the_data_directory_is(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', '/home/somebody')
  monkeypatch.setenv('TFDS_DATA_DIR', '/data/from/environment')
  assert builders.data_dir(small.config(tmp_path)) == str(tmp_path)
  assert builders.data_dir(small.config('~/mine')) == '/home/somebody/mine'
  assert builders.data_dir(small.config('')) == '/data/from/environment'
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert builders.data_dir(small.config('')) == '/home/somebody/tensorflow_datasets'
