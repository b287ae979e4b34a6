"""The whole way of a run: the script that goes it, and the commands of the page about it."""

import json
import os
import pathlib
import shlex
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch import pages
from trainer import main

PAGE = 'after_training'


def test_the_commands_of_the_page_can_be_understood():
  found = pages.commands(PAGE)
  modes = set()
  for command in found:
    words = shlex.split(command)
    if words[:3] == ['.venv/bin/python', '-m', 'trainer']:
      modes.add(main.parse(words[2:]).mode)
    elif words[0] != 'cd':
      program = words[1] if words[0] == '.venv/bin/python' else words[0]
      assert os.access(ROOT / program, os.X_OK), command
  assert modes == {'inspect', 'samples', 'explain', 'export', 'predict'}


@pytest.mark.slow
def test_every_step_of_the_whole_way(tmp_path, data_dir):
  run = tmp_path / 'run'
  few = ('--config.train.steps=120', '--config.optimizer.warmup_steps=5', '--config.eval.every_steps=60',
         '--config.checkpoint.every_steps=60', '--config.diagnose.steps=40', '--config.explain.examples=2',
         '--config.export.check_examples=50')  # fmt: skip
  done = subprocess.run(
    [ROOT / 'scripts/walkthrough', '--config=configs/digits_mlp.py', f'--workdir={run}', *few],
    env={**os.environ, 'TFDS_DATA_DIR': data_dir},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=500,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  for made in (
    'inputs/gallery.json', 'lr_test.json', 'metrics.jsonl', 'samples/120/gallery.json', 'explanations/120/gallery.json',
    'export/120/README.md', 'predictions/120/gallery.json', 'report.html',
  ):  # fmt: skip
    assert (run / made).stat().st_size > 0, made
  rows = [json.loads(line) for line in (run / 'continuous_eval.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == [60, 120]
  lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"input"')]
  exported, here = lines[:5], lines[5:]
  assert len(here) == 5
  for one, other in zip(exported, here, strict=True):
    assert pathlib.Path(one['input']).name == pathlib.Path(other['input']).name
    assert list(one['probabilities']) == list(other['probabilities'])
  commands = [line for line in done.stderr.splitlines() if line.startswith('$ ')]
  assert len(commands) == 11
