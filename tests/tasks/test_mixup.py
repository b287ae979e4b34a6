"""Mixup: shares of a beta distribution, neighbours on any topology, and a loss of both labels."""

import re

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from tests.data import small
from tests.tasks import made_up
from trainer import tasks
from trainer.data.source import open_dataset
from trainer.errors import ConfigError
from trainer.tasks import mixup


@pytest.mark.parametrize('alpha', [0.1, 0.2, 1.0, 8.0])
def test_the_table_is_that_of_the_beta_distribution(alpha):
  table = mixup.quantiles(alpha)
  draws = (np.arange(100_000) + 0.5) / 100_000
  shares = np.interp(draws, np.linspace(0, 1, len(table)), table)
  assert shares.mean() == pytest.approx(0.5, abs=1e-4)
  assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=5e-3)
  assert np.all(np.diff(table) >= 0) and (table[0], table[-1]) == (0, 1)


def batch(count=6):
  random = np.random.default_rng(0)
  inputs = random.normal(size=(count, 4, 4, 1)).astype(np.float32)
  return {'inputs': tf.constant(inputs), 'targets': tf.constant(np.arange(count) % 4), 'index': tf.range(count)}


def test_a_draw_of_a_half_mixes_nothing():
  mixed = mixup.mix(batch(), tf.fill([6], 0.5), mixup.quantiles(0.2))
  np.testing.assert_array_equal(mixed['inputs'], batch()['inputs'])
  np.testing.assert_array_equal(mixed['mixed_share'], np.ones(6))


def test_neighbours_are_mixed_in_shares_of_their_own():
  draws = np.random.default_rng(1).random(6).astype(np.float32)
  before, after = batch(), mixup.mix(batch(), tf.constant(draws), mixup.quantiles(1.0))
  share = 1 - (draws + 0.5) % 1  # the quantiles of a uniform distribution
  np.testing.assert_allclose(after['mixed_share'], share, atol=1e-6)
  partner = [1, 0, 3, 2, 5, 4]
  np.testing.assert_array_equal(after['mixed_targets'], before['targets'].numpy()[partner])
  images, weights = before['inputs'].numpy(), share[:, None, None, None]
  np.testing.assert_allclose(after['inputs'], weights * images + (1 - weights) * images[partner], atol=1e-6)
  np.testing.assert_array_equal(after['targets'], before['targets'])


@pytest.mark.parametrize('changes', [{}, {'label_smoothing': 0.1}])
def test_the_loss_is_that_of_the_mixed_labels(changes):
  task = made_up.task('classification', mixup=0.4, metrics=(), **changes)
  assert task.draws == 1
  outputs, rows = made_up.batch(task, 'classification', size=6)
  rows = {**rows, 'inputs': batch()['inputs']}
  mixed = task.augment(rows, tf.constant(np.random.default_rng(2).random((6, 1)), tf.float32))
  share = mixed['mixed_share'].numpy()[:, None]
  labels = share * np.eye(4)[mixed['targets'].numpy()] + (1 - share) * np.eye(4)[mixed['mixed_targets'].numpy()]
  smooth = changes.get('label_smoothing', 0.0)
  labels = (1 - smooth) * labels + smooth / 4
  expected = -(labels * tf.nn.log_softmax(outputs).numpy()).sum(axis=1)
  np.testing.assert_allclose(task.losses(outputs, mixed), expected, rtol=1e-5)


@pytest.mark.parametrize('source', [pytest.param('memory', marks=pytest.mark.thorough), 'lanes'])
def test_who_is_mixed_with_whom_depends_on_no_topology(data_dir, source):
  settings = small.config(data_dir, source=source, batch=16, train_split='train[:93]', lanes=4)
  dataset = open_dataset(settings)
  values = {name: field.default for name, field in tasks.fields('classification').items()}
  values |= {'mixup': 0.4, 'max_value': 16.0, 'crop_area': 0.5, 'randaugment_layers': 1}
  task = tasks.create(ml_collections.ConfigDict({'task': {'name': 'classification', **values}}), dataset.features, None)
  one = small.train_batches(settings, 0, 9, task=task)
  assert {'mixed_share', 'mixed_targets'} <= set(one[0])
  for replicas, hosts, start in ((2, 1, 0), (4, 2, 3), (8, 2, 5)):
    many = small.train_batches(settings, start, 9 - start, replicas=replicas, hosts=hosts, task=task)
    for ours, theirs in zip(one[start:], many, strict=True):
      for name in ('index', 'targets', 'mixed_targets', 'mixed_share'):
        np.testing.assert_array_equal(ours[name], theirs[name])
      np.testing.assert_allclose(ours['inputs'], theirs['inputs'], atol=1e-5)
  with pytest.raises(ConfigError, match=re.escape('a replica has 1 of them in a batch')):
    small.pipeline(settings, replicas=16, task=task)


def test_a_single_logit_and_vectors_are_mixed_too():
  features = made_up.F.FeaturesDict(
    {'x': made_up.F.Tensor(shape=(3,), dtype=np.float32), 'y': made_up.F.ClassLabel(num_classes=2)}
  )
  task = made_up.task('classification', features, mixup=1.0, single_logit=True, metrics=())
  rows = {'inputs': tf.random.normal([4, 3]), 'targets': tf.constant([0, 1, 1, 0])}
  mixed = task.augment(rows, tf.constant([[0.1], [0.5], [0.7], [0.9]]))
  losses = task.losses(tf.constant([[1.0], [2.0], [-1.0], [0.5]]), mixed)
  assert losses.shape == (4,) and np.all(np.isfinite(losses))
