"""Fixtures of the data room's tests."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.data import small


@pytest.fixture(scope='session')
def sharded_dir(tmp_path_factory):
  """The digits in five files per split, so that lanes and hosts begin inside files and across them."""
  directory = tmp_path_factory.mktemp('sharded')
  small.shard(directory, 5)
  return directory


@pytest.fixture
def run_python() -> Callable[[str], Any]:
  """A function that runs code in a fresh process and returns the JSON on its last line of output."""

  def run(code: str) -> Any:
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(
      [sys.executable, '-c', code], cwd=root, check=False, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

  return run
