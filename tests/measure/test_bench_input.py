"""scripts/bench_input: that its inputs are of one kind, and what it says of them."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts' / 'bench_input'


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--rows=jpeg,png'], "'png' is none of fashion, jpeg"),
    (['--rows=fashion'], 'the row fashion needs --data_dir'),
    (['--rows=jpeg', '--images=3'], '--images at least 64'),
  ],
)
def test_a_mistake_is_told_in_one_line(arguments, words):
  done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert words in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_inputs_of_pictures_are_of_one_kind():
  command = [sys.executable, SCRIPT, '--rows=jpeg', '--pairs=1', '--seconds=0.1', '--images=64']
  done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
  found = json.loads(done.stdout.splitlines()[-1])['rows']['jpeg']
  assert list(found['inputs']) == ['memory', 'lanes', 'tfds', 'decode']
  assert all(each['rate'] > 0 and each['cpu_ms'] > 0 for each in found['inputs'].values())
  assert list(found['ratios']) == ['memory/tfds', 'memory/decode', 'lanes/tfds', 'lanes/decode']
