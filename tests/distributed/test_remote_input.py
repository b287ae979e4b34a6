"""A slice of a TPU has hosts that run TensorFlow's server and none of our code, and the input is made there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.distributed.test_every_task import RUNS

# Pictures, tokens, sound and text as they come, pictures with boxes: what the others' inputs are made of too.
SOME = ('classification', 'ctc', 'detection', 'language_modeling', 'seq2seq')


@pytest.mark.slow
@pytest.mark.parametrize('tasks', [SOME, pytest.param(tuple(RUNS), marks=pytest.mark.thorough)], ids=['some', 'all'])
def test_a_task_has_the_same_batches_from_a_plain_server(tmp_path, tasks):
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.distributed.remote_input', str(tmp_path), *tasks],
    cwd=ROOT, capture_output=True, text=True, check=False, timeout=400,
  )  # fmt: skip
  assert ended.returncode == 0, ended.stderr[-3000:]
  found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{')]
  assert [(row['task'], row['source']) for row in found] == [(t, s) for t in tasks for s in ('memory', 'lanes')]
  assert not [row for row in found if row['error']]
