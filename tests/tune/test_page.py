"""The commands of docs/tune.md, up to where the first run would start."""

from __future__ import annotations

import pathlib
import runpy
import shlex

import pytest

from tests.conftest import ROOT
from tests.launch import pages
from trainer.tune import plan
from trainer.tune.checking import Checker

PYTHON, SCRIPT = '.venv/bin/python', 'scripts/tune'
COMMANDS = pages.commands('tune')
# Those that are known before the first has ended.
POINTS = {'runs/sweep': 8, 'runs/by_hand': 4, 'runs/halving': 16, 'runs/array': 8, 'runs/tpe': 0}


def test_the_page_has_no_other_commands():
  assert len(COMMANDS) == 6
  assert all(shlex.split(command)[:2] == [PYTHON, SCRIPT] for command in COMMANDS)


@pytest.mark.parametrize('command', [each for each in COMMANDS if '--table' not in each])
def test_a_command(command, tmp_path, monkeypatch):
  argv = shlex.split(command)[2:]
  monkeypatch.syspath_prepend(str(ROOT / 'scripts'))
  script = runpy.run_path(str(ROOT / SCRIPT))
  options, flags = script['parse'](argv)
  assert pathlib.Path(options.workdir).parent == pathlib.Path('runs')
  # Both of its models are built elsewhere, and take their time.
  monkeypatch.setattr(Checker, '_build', lambda self, config: ('loss', 'min'))
  how, swept = script['asked'](options)
  sweep = plan.Sweep(str(tmp_path), options.config, flags, swept, how, Checker(options.config, flags))
  assert len(sweep.record.points) == POINTS[options.workdir]
  assert sweep.next(()).point.number == 0
  if options.halving:
    assert sweep.record.search['rungs'] == [500, 2000]
