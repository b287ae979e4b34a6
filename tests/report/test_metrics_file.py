from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.report import metrics
from trainer.report.metrics import MetricsFile


def opened(path) -> MetricsFile:
  return MetricsFile(str(path), writer=True)


def rows(path) -> list[tuple[str, int]]:
  return [(row['split'], row['step']) for row in metrics.read(str(path))]


def test_rows_come_back_as_they_were_written(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  file = opened(path)
  file.write(10, 'train', {'loss': np.float32(0.1), 'count': np.int64(3), 'images': 7, 'none': None}, time=12.34567)
  file.write(10, 'eval', {'loss': 0.1 + 0.2})
  file.close()
  first, second = metrics.read(str(path))
  assert first == {
    'step': 10,
    'split': 'train',
    'time': 12.346,
    'loss': float(np.float32(0.1)),
    'count': 3,
    'images': 7,
    'none': None,
  }
  assert second['loss'] == 0.1 + 0.2
  assert second['time'] > 1.7e9
  assert list(first)[:3] == ['step', 'split', 'time']


@given(st.floats() | st.integers(-(2**60), 2**60))
def test_any_number_is_a_row_of_valid_json(tmp_path_factory, number):
  path = tmp_path_factory.mktemp('any') / 'metrics.jsonl'
  opened(path).write(1, 'train', {'value': number})

  def refuse(name):
    raise AssertionError(f'{name} is not JSON')

  row = json.loads(path.read_text(), parse_constant=refuse)
  assert row['value'] == (number if math.isfinite(number) else None)


def test_resume_drops_what_is_done_again(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  file = opened(path)
  for step in (10, 20, 30):
    file.write(step, 'train', {'loss': step})
    if step % 20 == 0:
      file.write(step, 'eval', {'loss': step})
  file.close()
  before = path.read_bytes().splitlines()
  file = opened(path)
  assert file.drop_after(20) == 1
  assert path.read_bytes().splitlines() == before[:3]
  file.write(30, 'train', {'loss': 31})
  file.close()
  assert rows(path) == [('train', 10), ('train', 20), ('eval', 20), ('train', 30)]
  assert metrics.read(str(path))[-1]['loss'] == 31
  assert opened(path).drop_after(-1) == 4
  assert path.read_bytes() == b''
  assert os.listdir(tmp_path) == ['metrics.jsonl']


def test_nothing_to_drop_leaves_the_file_alone(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  opened(path).write(10, 'train', {'loss': 1.0})
  inode = path.stat().st_ino
  assert opened(path).drop_after(10) == 0
  assert path.stat().st_ino == inode


@pytest.mark.parametrize('resumed', [False, True])
def test_a_row_written_again_replaces_the_first(tmp_path, resumed):
  path = tmp_path / 'metrics.jsonl'
  file = opened(path)
  file.write(10, 'train', {'loss': 1.0})
  file.write(10, 'eval', {'loss': 2.0})
  if resumed:
    file = opened(path)
    file.drop_after(10)
  file.write(10, 'eval', {'loss': 3.0})
  file.write(20, 'train', {'loss': 4.0})
  assert rows(path) == [('train', 10), ('eval', 10), ('train', 20)]
  assert [row['loss'] for row in metrics.read(str(path))] == [1.0, 3.0, 4.0]


@given(
  written=st.lists(st.tuples(st.sampled_from(['train', 'eval']), st.integers(0, 9)), max_size=30),
  cut=st.integers(0, 200),
  step=st.integers(-1, 9),
)
def test_a_kill_at_any_byte_loses_no_whole_row(tmp_path_factory, written, cut, step):
  path = tmp_path_factory.mktemp('kill') / 'metrics.jsonl'
  file = opened(path)
  for split, at in written:
    file.write(at, split, {'loss': at / 3})
  file.close()
  contents = path.read_bytes()
  assert len(set(rows(path))) == len(rows(path))
  torn = contents[: max(0, len(contents) - cut)]
  whole = [json.loads(line) for line in torn.split(b'\n')[:-1]]
  path.write_bytes(torn)
  assert metrics.read(str(path)) == whole
  file = opened(path)
  file.drop_after(step)
  file.write(step + 1, 'train', {'loss': 0.5})
  found = metrics.read(str(path))
  assert found[:-1] == [row for row in whole if row['step'] <= step]
  assert (found[-1]['split'], found[-1]['step']) == ('train', step + 1)


def test_a_line_torn_by_a_kill_does_not_spoil_the_next_one(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1, "split": "train", "time": 1.0}\n{"step": 2, "spl')
  opened(path).write(3, 'train', {})
  assert rows(path) == [('train', 1), ('train', 3)]


@pytest.mark.parametrize(
  'bad', [b'\0\0\0\n', b'nonsense\n', b'[1]\n', b'{"step": "1", "split": "train"}\n', b'{"step": 1}\n']
)
def test_a_damaged_line_is_named_and_kept_aside(tmp_path, bad):
  path = tmp_path / 'metrics.jsonl'
  good = b'{"step": 1, "split": "train", "time": 1.0}\n', b'{"step": 2, "split": "train", "time": 2.0}\n'
  path.write_bytes(good[0] + bad + good[1])
  with pytest.raises(ConfigError, match=r'metrics\.jsonl: line 2 is not a row'):
    metrics.read(str(path))
  opened(path)
  assert rows(path) == [('train', 1), ('train', 2)]
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == good[0] + bad + good[1]


def test_only_the_writer_writes(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  file = MetricsFile(str(path), writer=False)
  file.write(1, 'train', {'loss': 1.0})
  assert file.drop_after(0) == 0
  file.sync()
  file.close()
  assert not path.exists()
  assert metrics.read(str(path)) == []


def test_an_unwritable_place_is_one_clear_line(tmp_path):
  with pytest.raises(
    ConfigError, match=r'metrics cannot be written to .*No such file or directory.*--workdir$'
  ) as caught:
    opened(tmp_path / 'missing' / 'metrics.jsonl')
  assert '\n' not in str(caught.value)
  with pytest.raises(ConfigError, match='Is a directory'):
    opened(tmp_path)


def test_a_metric_cannot_take_the_name_of_a_field(tmp_path):
  with pytest.raises(ValueError, match="cannot be called 'step'"):
    opened(tmp_path / 'metrics.jsonl').write(1, 'train', {'step': 3})


def test_a_full_disk_leaves_whole_rows(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  file = opened(path)
  file.write(1, 'train', {'loss': 1.0})
  before = path.read_bytes()
  old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, old[0][1]))  # the next row fits in part
  try:
    with pytest.raises(ConfigError, match='File too large'):
      file.write(2, 'train', {'loss': 2.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old[0])
    signal.signal(signal.SIGXFSZ, old[1])
  assert path.read_bytes() == before
  file.write(2, 'train', {'loss': 2.0})
  assert rows(path) == [('train', 1), ('train', 2)]


def test_sigkill_loses_no_row(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  program = (
    'import os, signal, sys\n'
    'from trainer.report.metrics import MetricsFile\n'
    'file = MetricsFile(sys.argv[1], writer=True)\n'
    'for step in range(1, 101):\n'
    "  file.write(step, 'train', {'loss': step / 7})\n"
    'os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  done = subprocess.run([sys.executable, '-c', program, str(path)], check=False)
  assert done.returncode == -signal.SIGKILL
  assert rows(path) == [('train', step) for step in range(1, 101)]
