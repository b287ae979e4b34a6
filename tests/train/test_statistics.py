"""Numbers of each block: the same on any number of devices, and those of the step and of the network."""

import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.faults import processes
from tests.faults.program import Program
from trainer.models import mlp
from trainer.models.tapped import tapped
from trainer.train.statistics import _sums

RUN = (
  '--config=configs/digits_mlp.py', '--config.train.steps=3', '--config.optimizer.warmup_steps=0',
  '--config.train.log_every_steps=1', '--config.eval.statistics=True', '--config.model.dropout=0.0',
  '--config.faults.metadata_host=',
)  # fmt: skip


def points(workdir):
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(workdir / 'tensorboard' / 'blocks'), size_guidance={'tensors': 0})
  events.Reload()
  return {tag: float(tf.make_ndarray(events.Tensors(tag)[-1].tensor_proto)) for tag in events.Tags()['tensors']}


@pytest.mark.usefixtures('fork_server')
def test_one_device_and_two_tell_the_same_and_what_the_step_tells(tmp_path, data_dir):
  found = {}
  for devices in (1, 2):
    folder = tmp_path / str(devices)
    folder.mkdir()
    argv = (*RUN, f'--workdir={folder}/run', f'--config.cluster.cpu_devices={devices}')
    (ended,) = processes.run([Program(argv, {**os.environ, 'TFDS_DATA_DIR': data_dir}, str(folder), f'{folder}/run')])
    assert ended.code == 0, ended.stderr[-3000:]
    found[devices] = points(folder / 'run')
  assert found[1].keys() == found[2].keys()
  for name, value in found[1].items():
    assert found[2][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
  rows = [json.loads(line) for line in (tmp_path / '1/run/metrics.jsonl').read_text().splitlines()]
  last = [row for row in rows if row['split'] == 'train'][-1]
  norms = [value for name, value in found[1].items() if name.endswith('gradient_norm')]
  assert len(norms) >= 2
  assert math.hypot(*norms) == pytest.approx(last['gradient_norm'], rel=1e-4)
  assert {name.rpartition('/')[2] for name in found[1]} == {
    'gradient_norm', 'weight_norm', 'output_mean', 'output_deviation', 'output_zeros', 'output_not_finite',
  }  # fmt: skip
  assert all(value == 0 for name, value in found[1].items() if name.endswith('not_finite'))


def test_sums_leave_out_what_is_not_finite():
  values = tf.constant([[1.0, 0.0, -2.0], [np.nan, np.inf, 0.0]])
  assert _sums(values).numpy().tolist() == [6, -1, 5, 2, 2]


def test_a_tap_sees_each_layer_and_leaves_nothing_behind():
  from trainer import config as config_lib

  fields = config_lib.base(task='classification', model='mlp').model
  model = mlp.build(fields, tf.TensorSpec([4], tf.float32), 3)
  inputs, seen = tf.ones([2, 4]), []
  plain = model(inputs).numpy()

  def double(layer, output, args, keywords):
    seen.append(layer.name)
    return output * 2

  with tapped([model.layers[-1]], double):
    np.testing.assert_allclose(model(inputs), 2 * plain)
  assert seen == [model.layers[-1].name]
  np.testing.assert_array_equal(model(inputs), plain)
