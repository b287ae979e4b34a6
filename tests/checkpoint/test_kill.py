"""A process that is killed at any moment of a save, or ends in one, leaves a complete step and nothing in the way."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from trainer.checkpoint import Checkpoints

from . import killed_saves
from .conftest import assert_equal

# Each case with what lies in the folder after the process has died, and the seed of the state that must then be found.
CASES = {
  'begun': (['1'], 1),
  'writing': (['1', '2.saving-TOKEN.orbax-checkpoint-tmp'], 1),
  'written': (['1', '2.saving-TOKEN'], 1),
  'sealed': (['1', '2.saving-TOKEN'], 1),
  'before_marker': (['1', '2'], 1),
  'complete': (['1', '2'], 2),
  'deleting': (['1.deleting', '2'], 2),
  'collected': (['2'], 2),
  'replacing': (['1.replaced', '1.saving-TOKEN'], 1),
  'replacing_before_marker': (['1', '1.replaced'], 1),
  'replacing_complete': (['1', '1.replaced'], 2),
  'exit': (['2'], 2),
  'exception': (['2'], 2),
}
STATUS = {'exit': 0, 'exception': 1}


pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def killed(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('killed')
  root = pathlib.Path(__file__).parents[2]
  subprocess.run(
    [sys.executable, '-W', 'ignore', killed_saves.__file__, str(folder)],
    check=True,
    timeout=300,
    cwd=root,
    env={**os.environ, 'PYTHONPATH': str(root)},
    stderr=subprocess.DEVNULL,
  )
  return folder


@pytest.mark.parametrize('case', CASES)
def test_what_a_killed_process_leaves_behind(killed, case):
  if case in STATUS and sys.version_info[:2] == (3, 12):
    pytest.skip('Python 3.12 starts no thread once it has begun to end, so that a save must be waited for')
  folder, (left, seed) = killed / case, CASES[case]
  assert int((killed / f'{case}.status').read_text()) == STATUS.get(case, -signal.SIGKILL)
  assert sorted(re.sub(r'saving-[0-9a-f]+', 'saving-TOKEN', path.name) for path in folder.iterdir()) == left
  writer = Checkpoints(str(folder), keep=2, keep_best=0, best_mode='max', writer=True)

  writer.clean()
  restored = writer.newest_intact()
  step = 1 if case.startswith('replacing') else seed
  assert restored is not None and (restored.step, restored.host) == (step, {'seed': seed})
  assert_equal(restored.arrays, killed_saves.state(seed))
  assert sorted(path.name for path in folder.iterdir()) == [str(each) for each in writer.steps()]
  if case not in ('collected', 'deleting', 'exit', 'exception'):
    assert 1 in writer.steps()

  writer.save(2, killed_saves.state(3), {'seed': 3})
  writer.wait()
  assert_equal(writer.restore(2).arrays, killed_saves.state(3))
  writer.close()


def test_every_case_is_checked():
  assert set(CASES) == {*killed_saves.STAGES, *killed_saves.OTHERS}
