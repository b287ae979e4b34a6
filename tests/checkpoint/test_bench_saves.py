"""scripts/bench_saves runs, and tells what a save costs from what the steps do anyway."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import scripts

SCRIPT = scripts.SCRIPTS / 'bench_saves'


def test_only_what_is_beyond_the_usual_step_is_the_save_s():
  module = scripts.load('bench_saves')
  block = {'seconds': [3.0, 2.5, 1.5, *[1.0] * 7], 'beside': 1}
  assert module.beyond(block) == pytest.approx((2.0, 2.0, 10.0))


@pytest.mark.slow
def test_it_measures_a_small_model(tmp_path):
  small = ('--config.model.layers=1', '--config.model.width=32', '--config.model.heads=2')
  command = [sys.executable, SCRIPT, '--pairs=2', '--steps=400', f'--directory={tmp_path}', '--', *small]
  done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result['bytes'] > 0 and result['steps'] == 400
  for name in ('cost', 'pairs', 'blocked', 'save_seconds'):
    middle, low, high = result[name]
    assert low <= middle <= high
