"""Models as a tutorial writes them, by import path, on two devices: killed, resumed, and equal to the last bit."""

import json
import os
import signal

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.faults import matrix
from tests.faults.own_models import VARIANTS
from trainer.checkpoint import Checkpoints
from trainer.report.metrics import TIMES

STEPS = 120


class TutorialImages(tfds.core.GeneratorBasedBuilder):
  """96 images of 32 x 32 x 3 of one colour and noise, which is their class."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {'image': tfds.features.Image(shape=(32, 32, 3)), 'label': tfds.features.ClassLabel(num_classes=10)}
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(64, 0), 'test': self._generate_examples(32, 1)}

  def _generate_examples(self, count, seed):
    random = np.random.default_rng(seed)
    for key in range(count):
      noise = random.integers(0, 60, (32, 32, 3))
      yield key, {'image': (noise + 19 * (key % 10)).astype(np.uint8), 'label': key % 10}


class TutorialSeries(tfds.core.GeneratorBasedBuilder):
  """Ten values of a sine, [10, 1], and the eleventh."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'window': tfds.features.Tensor(shape=(10, 1), dtype=np.float32),
      'target': tfds.features.Scalar(np.float32),
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 200), 'test': self._generate_examples(200, 260)}

  def _generate_examples(self, begin, end):
    for key in range(begin, end):
      series = np.sin(0.3 * np.arange(key, key + 11), dtype=np.float32)
      yield key, {'window': series[:10, None], 'target': series[10]}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS data directory with the two sets; the trainer reads them without their code."""
  directory = tmp_path_factory.mktemp('tutorial_data')
  for builder in (TutorialImages, TutorialSeries):
    builder(data_dir=directory).download_and_prepare()
  return directory


def result(workdir):
  """What must not depend on a kill: rows, arrays and the host's state."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  rows = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
  checkpoints = Checkpoints(str(workdir / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=False)
  last = checkpoints.restore(STEPS)
  return rows, last.arrays, last.host


@pytest.mark.slow
@pytest.mark.parametrize('variant', matrix.some(VARIANTS, 'cnn'))
def test_killed_and_resumed_it_ends_with_the_same_bytes(start_trainer, run_trainer, tmp_path, prepared, variant):
  run = [f'--config=tests/faults/own_models.py:{variant}', f'--config.data.data_dir={prepared}']
  whole = run_trainer(*run, f'--workdir={tmp_path}/whole', check=True)
  assert f'tests.models.tutorials:{variant}, ' in whole.stdout
  if variant != 'feed_forward':
    assert 'its compile(...) is ignored' in whole.stderr
  if variant == 'cnn':
    assert 'batch statistics are those of each replica alone (1/2 of the batch) in batch_normalization' in whole.stderr
  workdir = tmp_path / 'killed'
  process = start_trainer(*run, f'--workdir={workdir}')
  # Two checkpoints are there, and so the third block of steps is under way.
  while process.poll() is None and len(list(workdir.glob('checkpoints/*/complete.json'))) < 2:
    pass
  assert process.poll() is None, 'it must not have ended by itself'
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  resumed = run_trainer(*run, f'--workdir={workdir}', check=True)
  assert 'going on at step' in resumed.stdout
  (rows, arrays, host), (whole_rows, whole_arrays, whole_host) = result(workdir), result(tmp_path / 'whole')
  assert rows == whole_rows
  assert host == whole_host
  assert arrays.keys() == whole_arrays.keys()
  for name, value in whole_arrays.items():
    np.testing.assert_array_equal(arrays[name], value, err_msg=name)
  first, last = rows[0]['loss'], [row['loss'] for row in rows if row['split'] == 'train'][-1]
  assert last < first
