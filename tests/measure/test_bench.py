"""scripts/bench: what it makes of raw times, and that each loop trains."""

import json
import subprocess
import sys

import pytest

from tests import scripts

SCRIPT = scripts.SCRIPTS / 'bench'


@pytest.fixture(scope='module')
def bench():
  return scripts.load('bench')


def write(path, ours, bare=(1.0, 1.02, 0.98, 1.01, 0.99)):
  seconds = {'bare': list(bare), 'ours': [factor * time for factor, time in zip(ours, bare, strict=True)]}
  path.write_text(json.dumps({'rows': {'mlp, float32, one': {'seconds': seconds, 'failed': {}, 'others': 0.0}}}))
  return str(path)


def test_what_is_slower_beyond_the_noise_is_told(bench, tmp_path, capsys):
  before = write(tmp_path / 'a.json', (1.00, 1.01, 0.99, 1.00, 1.01))
  for name, ours, slower, word in (
    ('same', (1.01, 1.00, 1.00, 0.99, 1.01), False, 'no change beyond the noise'),
    ('noisy', (0.80, 1.30, 1.10, 0.90, 1.20), False, 'no change beyond the noise'),
    ('slower', (1.10, 1.11, 1.09, 1.10, 1.12), True, 'SLOWER'),
    ('faster', (0.90, 0.91, 0.89, 0.90, 0.92), False, 'faster'),
  ):
    files = before, write(tmp_path / f'{name}.json', ours)
    assert bench.compare(*map(bench.rows_of, files), files) is slower
    assert capsys.readouterr().out.rstrip().endswith(word)


def test_an_interval_holds_the_median_and_narrows_with_more_values(bench):
  few, many = [1.0, 1.2, 0.9, 1.1, 1.0], 20 * [1.0, 1.2, 0.9, 1.1, 1.0]
  for values in (few, many):
    middle, low, high = bench.interval(values)
    assert low <= middle <= high
  assert bench.interval(many)[2] - bench.interval(many)[1] < bench.interval(few)[2] - bench.interval(few)[1]


def test_an_unknown_row_is_refused_in_one_line():
  done = subprocess.run([sys.executable, SCRIPT, '--rows=mlp,resnet'], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].endswith("'resnet' is none of mlp, cnn, transformer")


@pytest.mark.slow
def test_the_loops_train_on_two_devices(tmp_path):
  out = tmp_path / 'bench.json'
  subprocess.run(
    [sys.executable, SCRIPT, '--rows=mlp', '--precisions=float32', '--topologies=devices', '--loops=bare,fit,ours',
     '--blocks=2', f'--out={out}'],
    check=True,
    capture_output=True,
    timeout=300,
  )  # fmt: skip
  (row,) = json.loads(out.read_text())['rows'].values()
  assert not row['failed']
  assert {name: len(seconds) for name, seconds in row['seconds'].items()} == {'bare': 2, 'fit': 2, 'ours': 2}
