"""scripts/launch_tpu with a double of gcloud in its path."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
LAUNCHER = HERE.parents[1] / 'scripts' / 'launch_tpu'


@pytest.fixture
def launch(tmp_path):
  """A function that runs the launcher in a scenario: (exit code, stdout, lines of stderr, what gcloud was asked)."""

  def run(*args: str, scenario: dict[str, list] | None = None, **variables: str):
    (tmp_path / 'scenario.json').write_text(json.dumps(scenario or {}))
    env = {
      **os.environ,
      'PATH': f'{HERE / "programs"}:{os.environ["PATH"]}',
      'GCLOUD_DOUBLE': str(tmp_path),
      **variables,
    }
    done = subprocess.run(
      [sys.executable, LAUNCHER, *args], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    calls = tmp_path / 'calls.jsonl'
    asked = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
    lines = [line for line in done.stderr.splitlines() if 'warning: what is not committed' not in line]
    return done.returncode, done.stdout, lines, asked

  return run
