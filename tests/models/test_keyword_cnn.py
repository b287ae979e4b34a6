"""The network for keywords: its shapes by the paper's table, and that it is no more than its description."""

import re

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning
from trainer import models
from trainer.errors import ConfigError
from trainer.models import keyword_cnn


def build(shape=(49, 10), units=12, **changes):
  values = {name: field.default for name, field in models.fields('keyword_cnn').items()}
  config = ml_collections.ConfigDict({'model': {'name': 'keyword_cnn', **values, **changes}})
  return models.build(config, tf.TensorSpec(shape, tf.float32), units)


@pytest.mark.parametrize(
  ('size', 'first', 'last'),
  [('S', (25, 5, 64), (25, 5, 64)), ('M', (25, 10, 172), (13, 5, 172)), ('L', (25, 10, 276), (13, 5, 276))],
)
def test_sizes_are_those_of_the_table(size, first, last):
  """49 frames of 10 numbers, as in the paper."""
  model = build(size=size)
  _, stages, _, _ = keyword_cnn.SIZES[size]
  assert model.get_layer('first').output.shape[1:] == first
  assert model.get_layer(f'stage{stages}_across').output.shape[1:] == last
  channels = first[-1]
  convolutions = 40 * channels + stages * (9 * channels + channels**2)
  assert model.count_params() == convolutions + 2 * channels * (1 + 2 * stages) + 12 * channels + 12


def test_outputs_are_float32_and_names_do_not_depend_on_the_process():
  first, again = build(stages=2, channels=16), build(stages=2, channels=16)
  assert [v.path for v in first.weights] == [v.path for v in again.weights]
  keras.config.set_dtype_policy('mixed_bfloat16')
  try:
    assert build(stages=1, channels=16)(np.ones((2, 49, 10), np.float32)).dtype == tf.float32
  finally:
    keras.config.set_dtype_policy('float32')


@pytest.mark.parametrize('norm', ['batch', 'group', 'layer'])
def test_only_batch_norm_looks_at_other_examples(norm):
  model = build(stages=1, channels=16, norm=norm)
  inputs = np.random.default_rng(0).normal(size=(4, 49, 10)).astype(np.float32)
  alone, among = model(inputs[:1], training=True), model(inputs, training=True)[:1]
  assert np.allclose(alone, among, atol=1e-4) == (norm != 'batch')


def test_penalties_are_those_of_all_kernels():
  model = build(stages=2, channels=16, l2=0.2)
  kernels = [np.asarray(v) for v in model.trainable_variables if v.path.endswith('kernel')]
  assert len(kernels) == 6
  np.testing.assert_allclose(float(sum(model.losses)), sum(0.2 * (k**2).sum() for k in kernels), rtol=1e-5)
  assert not build(stages=1, channels=16).losses


@pytest.mark.parametrize('compiled', [False, True])
def test_it_learns_with_and_without_xla(compiled):
  keras.utils.set_random_seed(0)
  model = build((16, 8), units=4, stages=1, channels=16, dropout=0.1)
  inputs, labels = np.random.default_rng(0).normal(size=(8, 16, 8)).astype(np.float32), np.arange(8) % 4
  step = learning.descent(model, inputs, labels, 0.3, compiled=compiled)
  losses = [float(step()[0]) for _ in range(40)]
  assert losses[-1] < 0.8 * losses[0]


def test_inputs_that_do_not_fit_are_named():
  with pytest.raises(ConfigError, match=re.escape('takes inputs with 2 dimensions, not (8, 8, 1)')):
    build((8, 8, 1))
