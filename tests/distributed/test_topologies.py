"""The real program on real data: one device, logical devices and worker processes give the same run."""

import json

import numpy as np
import pytest

from tests.faults import matrix

RUN = [
  '--config=configs/digits_cnn.py', '--config.model.channels=(8, 16)', '--config.model.convs=1',
  '--config.model.norm=group', '--config.model.dropout=0.0', '--config.optimizer.clip_norm=0.5',
  '--config.optimizer.warmup_steps=5', '--config.train.steps=50', '--config.train.log_every_steps=1',
  '--config.eval.every_steps=25', '--config.eval.global_batch_size=48', '--config.checkpoint.every_seconds=0',
]  # fmt: skip
# 360 examples in batches of 48: the last one is half padding.

TOPOLOGIES = {
  'micro_batches': ['--config.train.micro_batches=4'],
  'two_devices': ['--config.cluster.cpu_devices=2'],
  'four_devices': ['--config.cluster.cpu_devices=4', '--config.train.micro_batches=4'],
  'two_workers': [],
  'two_workers_slices': ['--config.optimizer.shard_state=True'],
}


def rows(workdir):
  """{(split, step): row} of metrics.jsonl."""
  found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {(row['split'], row['step']): row for row in found}


@pytest.fixture(scope='module')
def finished():
  return {}


def train(run_trainer, workdir, topology, source):
  arguments = [*RUN, f'--workdir={workdir}', *TOPOLOGIES.get(topology, []), *source]
  if topology.startswith('two_workers'):
    run_trainer('--workers=2', '--once', '--', *arguments, entry=['scripts/launch_local'], check=True)
  else:
    run_trainer(*arguments, check=True)
  return rows(workdir)


SOURCES = {
  'memory': ['--config.data.source=memory'],
  'mixed lanes': ['--config.data.source=lanes', "--config.data.mixture=(('uci_digits', 0.25),)"],
}


@pytest.mark.slow
@pytest.mark.parametrize('source', matrix.some(SOURCES, 'memory'))
def test_same_losses_on_every_topology(run_trainer, tmp_path, source):
  """Both sources: the same examples in the same global batches, so the same losses."""
  where = SOURCES[source]
  alone = train(run_trainer, tmp_path / 'alone', 'alone', where)
  assert len([1 for split, _ in alone if split == 'train']) == 50
  for topology in TOPOLOGIES if source == 'memory' else ('two_devices', 'two_workers'):
    run = train(run_trainer, tmp_path / topology, topology, where)
    assert run.keys() == alone.keys()
    for key, row in alone.items():
      np.testing.assert_allclose(run[key]['loss'], row['loss'], rtol=1e-5, err_msg=f'{topology} {key}')
      if key[0] == 'eval':
        assert run[key]['examples'] == 360
