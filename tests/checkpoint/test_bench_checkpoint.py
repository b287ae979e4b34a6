"""The measuring script runs, and a save blocks training for little."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.serial
def test_a_save_blocks_for_at_most_a_24th_of_a_synchronous_one(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  # As many bytes per variable as in the full measurement: 1 GB in 360.
  command = [sys.executable, 'scripts/bench_checkpoint', '--bytes=2e8', '--leaves=72', '--rounds=5']
  done = subprocess.run(
    [*command, f'--directory={tmp_path}'], cwd=root, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode in (0, 1), done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result['wrong'] == ''
  assert result['updated_while_writing'] >= 1
  assert result['bytes'] == pytest.approx(2e8, rel=1e-3)
  assert result['ratio'] <= 1 / 24, done.stdout
  assert done.returncode == 0
