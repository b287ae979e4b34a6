"""One run that is killed and goes on elsewhere: two workers, one process, four devices; with slices and without."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest

from tests.faults.attempts import Link, Site
from tests.faults.chains import run_chain
from tests.faults.checks import assert_clean, assert_intact
from tests.faults.program import Hit
from trainer.checkpoint import Checkpoints

STEPS = 60
RUN = (
  '--config=configs/digits_cnn.py', '--config.model.channels=(8, 16)', '--config.model.convs=1',
  '--config.model.norm=group', '--config.model.dropout=0.0', '--config.optimizer.clip_norm=0.5',
  '--config.optimizer.warmup_steps=5', f'--config.train.steps={STEPS}', '--config.train.log_every_steps=1',
  '--config.train.steps_per_loop=1', '--config.eval.every_steps=30', '--config.eval.global_batch_size=48',
  '--config.checkpoint.every_steps=10', '--config.checkpoint.every_seconds=0', '--config.faults.metadata_host=',
)  # fmt: skip

LINE = re.compile(r'(\d+) (\d+) \[([\d ]+)\]')


def batches(site: Site, replicas: int) -> dict[int, list[int]]:
  """Step -> rows of the examples of its global batch, replica by replica, as the steps themselves have seen them.

  Of a step that a kill has cut short, some replicas are missing; it is left out.
  """
  parts: dict[int, dict[int, list[int]]] = collections.defaultdict(dict)
  for path in site.folder.glob('attempt*/examples.*'):
    for line in path.read_text().splitlines():
      if match := LINE.fullmatch(line):
        parts[int(match[1]) + 1][int(match[2])] = [int(index) for index in match[3].split()]
  whole = {step: found for step, found in parts.items() if len(found) == replicas}
  return {step: [row for replica in range(replicas) for row in found[replica]] for step, found in whole.items()}


@pytest.mark.slow
def test_each_step_is_the_same_wherever_it_is_done(tmp_path, data_dir):
  alone = Site('one device', tmp_path / 'alone', data_dir, run=RUN, record=True)
  assert alone.attempt()[0].code == 0
  examples = batches(alone, 1)
  assert sorted(examples) == list(range(1, STEPS + 1))

  # Topology, its replicas, whether each holds a slice of the state, the moment at which its last worker is killed, and
  # the steps that it is sure to have done. The second worker is to write a part of step 20, and does not.
  plan = [
    ('two workers', 2, True, ('save, before', 20), range(1, 20)),
    ('two workers', 2, True, ('step', 23), range(11, 23)),
    ('one device', 1, False, ('step', 43), range(21, 43)),
    ('four devices', 4, True, None, range(41, STEPS + 1)),
  ]
  for leg, (topology, replicas, slices, moment, done) in enumerate(plan):
    run = (*RUN, f'--config.optimizer.shard_state={slices}')
    site = Site(topology, tmp_path / str(leg), data_dir, run=run, workdir=tmp_path / 'run', record=True)
    run_chain(site, (Link((Hit('SIGKILL', *moment, at=site.workers - 1),), -9) if moment else Link(),), None)
    found = batches(site, replicas)
    assert set(done) <= set(found)
    if moment == ('save, before', 20):
      assert site.newest() == 10, 'a step counts only with all of its parts'
    for step, rows in found.items():
      assert len(rows) == 64 and rows == examples[step], step

  rows, whole = ({(row['split'], row['step']): row for row in each.rows()} for each in (site, alone))
  assert rows.keys() == whole.keys()
  for key, row in whole.items():
    np.testing.assert_allclose(rows[key]['loss'], row['loss'], rtol=1e-5, err_msg=str(key))
  ended, expected = (
    Checkpoints(str(each.workdir / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=False).newest_intact()
    for each in (site, alone)
  )
  assert ended and expected and ended.step == expected.step == STEPS and ended.arrays.keys() == expected.arrays.keys()
  for name, array in expected.arrays.items():
    np.testing.assert_allclose(ended.arrays[name], array, rtol=1e-3, atol=1e-5, err_msg=name)
  assert_intact(site)
  assert_clean(site)
