"""A model, a task and a dataset are added as WORKSPACE.md says: one new file and one line in a table each."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# What is added -> the words of WORKSPACE.md, the file with the table, the line before the one that is added, that line.
STEPS = {
  'model': (
    r'\*\*A model\*\*: a file in `trainer/models/`.*?one line\s+in `FAMILIES` in `trainer/models/__init__.py`',
    'trainer/models/__init__.py',
    "    'applications',\n",
    "    'added_model',\n",
  ),
  'task': (
    r'\*\*A task\*\*: a file in `trainer/tasks/`.*?one line in `TASKS`',
    'trainer/tasks/__init__.py',
    "    'audio_classification',\n",
    "    'added_task',\n",
  ),
  'dataset': (
    r'\*\*A dataset that needs no download\*\*: a TFDS builder in `trainer/data/datasets/`; one line in its table',
    'trainer/data/datasets/__init__.py',
    'BUILDERS: dict[str, tuple[str, str]] = {\n',
    "  'added_set': ('trainer.data.datasets.added_set', 'AddedSet'),\n",
  ),
}

FILES = {
  'trainer/models/added_model.py': """
import keras

from trainer.fields import Field, at_least
from trainer.models import parts

FIELDS = {'width': Field(8, 'of the hidden layer', at_least(1), fixed=True)}


def build(fields, input_spec, units):
  inputs = parts.inputs('added_model', input_spec, rank=1)
  x = keras.layers.Dense(fields.width, activation='tanh', name='hidden')(inputs)
  return keras.Model(inputs, parts.head(units)(x), name='added_model')
""",
  'trainer/tasks/added_task.py': """
import keras
import numpy as np
import tensorflow as tf

from trainer.fields import Field, above
from trainer.tasks.base import Task
from trainer.tasks.metrics import MetricSet

FIELDS = {'power': Field(2.0, 'of the distance', above(0), fixed=True)}


class AddedTask(Task):
  input_spec, units = tf.TensorSpec((2,), tf.float32), 1

  def __init__(self, config):
    self.power = config.task.power
    made = np.random.default_rng(0).normal(size=(2, 8, 1)).astype(np.float32)
    metrics = {'distance': keras.metrics.MeanAbsoluteError()}
    self.metrics = MetricSet(metrics, lambda _, y, batch: (batch['targets'], y, batch['weight']), made[0],
                             {'targets': made[1]})

  def example(self, features):
    return {'inputs': features['point'], 'targets': features['sum'][None]}

  def losses(self, outputs, batch):
    return tf.reduce_sum(tf.abs(outputs - batch['targets']) ** self.power, axis=-1)

  def state(self):
    return {}


def create(config, features, examples, saved):
  return AddedTask(config)
""",
  'trainer/data/datasets/added_set.py': """
import numpy as np
import tensorflow_datasets as tfds


class AddedSet(tfds.core.GeneratorBasedBuilder):
  '''Two numbers and their sum.'''

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {'point': tfds.features.Tensor(shape=(2,), dtype=np.float32), 'sum': tfds.features.Scalar(np.float32)}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 64), 'test': self._generate_examples(1, 20)}

  def _generate_examples(self, seed, size):
    for key, point in enumerate(np.random.default_rng(seed).random((size, 2), np.float32)):
      yield key, {'point': point, 'sum': point.sum()}
""",
  'configs/added.py': """
from trainer import config as config_lib


def get_config(variant=''):
  config = config_lib.base(task='added_task', model='added_model')
  config.data.dataset = 'added_set'
  config.model.width = 4
  config.optimizer.learning_rate = 0.03
  config.train.steps = 100
  config.train.global_batch_size = 16
  config.train.log_every_steps = 20
  return config
""",
}


@pytest.mark.slow
def test_one_file_and_one_line_each(tmp_path):
  shutil.copytree(ROOT / 'trainer', tmp_path / 'trainer', ignore=shutil.ignore_patterns('__pycache__'))
  (tmp_path / 'configs').mkdir()
  tour = (ROOT / 'WORKSPACE.md').read_text()
  for name, (words, table, before, line) in STEPS.items():
    assert re.search(words, tour, re.DOTALL), f'WORKSPACE.md says otherwise how a {name} is added'
    text = (tmp_path / table).read_text()
    assert text.count(before) == 1, table
    (tmp_path / table).write_text(text.replace(before, before + line))
  for path, text in FILES.items():
    assert not (tmp_path / path).exists()
    (tmp_path / path).write_text(text)
  done = subprocess.run(
    [
      sys.executable, '-m', 'trainer', '--config=configs/added.py', '--workdir=run',
      '--config.cluster.cpu_devices=2', '--config.data.data_dir=tfds',
    ],
    cwd=tmp_path,
    env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'},
    capture_output=True,
    text=True,
    timeout=240,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-6000:]
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert rows[-1]['split'] == 'eval' and rows[-1]['examples'] == 20
  train = [row for row in rows if row['split'] == 'train']
  assert train[-1]['distance'] < train[0]['distance'] / 2
