"""The commands of docs/planning.md, up to where a compiler for hardware that is not there would start."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.launch import pages
from trainer import config as config_lib
from trainer import main
from trainer.plan import chips, making

COMMANDS = [shlex.split(command) for command in pages.commands('planning')]
TRAINER = [command[3:] for command in COMMANDS if command[:3] == ['.venv/bin/python', '-m', 'trainer']]


def test_the_page_has_no_other_commands():
  assert len(TRAINER) == 4
  assert [command for command in COMMANDS if command[3:] not in TRAINER] == [
    ['.venv/bin/pip', 'install', 'libtpu==0.0.24']
  ]


def test_a_plan_for_this_machine(tmp_path):
  (command,) = (each for each in TRAINER if not any('--target' in flag for flag in each))
  # With all of its blocks this takes half a minute.
  assert main.run(['trainer', *command, f'--workdir={tmp_path}', '--config.model.layers=1']) == 0
  plan = json.loads((tmp_path / 'plan.json').read_text())
  assert plan['config']['model']['size'] == 'gpt2' and plan['target'] is None


@pytest.mark.parametrize('command', [each for each in TRAINER if any('--target' in flag for flag in each)])
def test_a_plan_for_other_hardware(command, tmp_path, monkeypatch):
  asked = []

  def make_apart(config, target):
    asked.append((config, chips.target(target)))
    raise making.Killed('as far as the test goes')

  monkeypatch.setattr(making, 'make_apart', make_apart)
  assert main.run(['trainer', *command, f'--workdir={tmp_path}']) == 2
  config, target = asked[0]
  assert target.kind == 'v5e'
  config_lib.check_topology(config, target.chips, 1)
