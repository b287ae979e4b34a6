"""Regression: the loss in standardised units, the metrics in the dataset's own."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import regression

MEAN, DEVIATION = 150.0, 75.0


def rows(targets=()):
  """A training split whose targets have exactly this mean and deviation."""
  target = np.tile(np.float32([MEAN - DEVIATION, MEAN + DEVIATION]), 10)
  features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
  return {'features': features, 'target': np.broadcast_to(target.reshape(20, *(1 for _ in targets)), (20, *targets))}


def make(targets=(), **changes):
  return made_up.task('regression', made_up.vectors(targets=targets), rows(targets), **changes)


def in_units(task, seed=0):
  """Outputs, and a batch with targets around the mean."""
  outputs, batch = made_up.batch(task, 'regression', seed=seed)
  return outputs, {**batch, 'targets': MEAN + DEVIATION * (batch['targets'] - 1.5)}


def results(task, outputs, batch):
  return task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))


def test_an_example_keeps_the_unit():
  task = make()
  dataset = tf.data.Dataset.from_tensor_slices(rows()).map(task.example)
  assert dataset.element_spec['targets'] == tf.TensorSpec([1], tf.float32)
  assert next(iter(dataset))['targets'].numpy() == [MEAN - DEVIATION]
  assert task.best == ('rmse', 'min')
  assert make((2, 2)).units == 4


@pytest.mark.parametrize(
  ('loss', 'targets'),
  # The cosine of a single target is refused: see test_catalogue.
  [(loss, targets) for loss in regression.LOSSES for targets in ((), (3,)) if targets or loss != 'cosine_similarity'],
)
def test_every_loss_is_per_example_with_finite_gradients(loss, targets):
  task = make(targets, loss=loss, metrics=())
  outputs, batch = in_units(task)
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = task.losses(outputs, batch)
    total = tf.reduce_sum(losses)
  gradient = tape.gradient(total, outputs).numpy()
  assert losses.dtype == tf.float32
  assert losses.shape == (16,)
  assert np.all(np.isfinite(losses))
  assert np.all(np.isfinite(gradient))
  for i in (0, 5):
    one = task.losses(outputs[i : i + 1], {'targets': batch['targets'][i : i + 1]})
    np.testing.assert_allclose(one[0], losses[i], rtol=1e-5)
  assert tf.reduce_sum(task.losses(outputs - 1e-3 * gradient, batch)) < total


def test_the_loss_is_of_standardized_targets():
  task = make()
  outputs, batch = in_units(task)
  standard = (batch['targets'] - MEAN) / DEVIATION
  np.testing.assert_allclose(task.losses(outputs, batch), ((outputs - standard) ** 2)[:, 0], rtol=1e-4)
  raw = make(standardize_target=False)
  np.testing.assert_allclose(raw.losses(outputs, batch), ((outputs - batch['targets']) ** 2)[:, 0], rtol=1e-5)


def test_metrics_are_in_the_unit_of_the_dataset():
  task = make(metrics=('rmse', 'mae', 'mse', 'r2', 'mape'))
  outputs, batch = in_units(task)
  truth, weight = batch['targets'].numpy().astype(np.float64)[:, 0], batch['weight'].numpy()
  guess = outputs.numpy().astype(np.float64)[:, 0] * DEVIATION + MEAN
  error, total = guess - truth, weight.sum()
  mse = (weight * error**2).sum() / total
  spread = (weight * (truth - (weight * truth).sum() / total) ** 2).sum() / total
  expected = {
    'rmse': np.sqrt(mse),
    'mae': (weight * np.abs(error)).sum() / total,
    'mse': mse,
    'r2': 1 - mse / spread,
    'mape': 100 * (weight * np.abs(error / truth)).sum() / total,
  }
  measured = results(task, outputs, batch)
  assert measured.keys() == expected.keys()
  for name, value in expected.items():
    assert measured[name] == pytest.approx(value, rel=1e-4), name


def test_r2_keeps_its_digits_far_from_zero():
  train = rows()
  train['target'] = train['target'] + np.float32(1e6)
  task = made_up.task('regression', made_up.vectors(), train, metrics=('r2',))
  outputs, batch = in_units(task)
  near = results(make(metrics=('r2',)), outputs, batch)['r2']
  far = results(task, outputs, {**batch, 'targets': batch['targets'] + 1e6})['r2']
  assert far == pytest.approx(near, abs=1e-2)


def test_poisson_learns_the_logarithm():
  task = make(loss='poisson', metrics=('mae', 'poisson'))
  outputs, batch = in_units(task)
  truth = batch['targets'].numpy().astype(np.float64)[:, 0]
  guess = MEAN * np.exp(outputs.numpy().astype(np.float64)[:, 0])
  np.testing.assert_allclose(task.losses(outputs, batch), guess - truth * np.log(guess), rtol=1e-4)
  weight = batch['weight'].numpy()
  expected = (weight * np.abs(guess - truth)).sum() / weight.sum()
  assert results(task, outputs, batch)['mae'] == pytest.approx(expected, rel=1e-4)
  negative = {**rows(), 'target': -rows()['target']}
  with pytest.raises(ConfigError, match='for counts'):
    made_up.task('regression', made_up.vectors(), negative, loss='poisson')


def test_without_a_split_nothing_is_moved():
  task = made_up.task('regression', made_up.vectors())
  example = task.example({'features': tf.constant([1.0, 2.0, 3.0]), 'target': 4.0})
  np.testing.assert_array_equal(example['inputs'], [1.0, 2.0, 3.0])
  outputs, batch = made_up.batch(task, 'regression')
  np.testing.assert_allclose(task.losses(outputs, batch), ((outputs - batch['targets']) ** 2)[:, 0], rtol=1e-5)


def test_images_are_inputs_too():
  features = F.FeaturesDict({'image': F.Image(shape=(4, 4, 1)), 'age': F.Scalar(np.int32)})
  task = made_up.task('regression', features)
  assert task.input_spec.shape == (4, 4, 1)
  example = task.example({'image': np.zeros((4, 4, 1), np.uint8), 'age': np.int32(7)})
  assert example['targets'].numpy() == [7.0]


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    (made_up.images(), {}, 'no feature of the dataset is a number to learn (image, label)'),
    (made_up.vectors(), {'target': 'targt'}, "did you mean 'target'?"),
    (made_up.images(), {'target': 'image'}, "task.target='image' is not a number to learn"),
    (
      F.FeaturesDict({'x': F.Tensor(shape=(2,), dtype=np.float32), 'a': F.Scalar(np.int32), 'b': F.Scalar(np.int32)}),
      {},
      'set it to one of a, b',
    ),
    (made_up.vectors(targets=(None,)), {'input': 'features'}, 'differs between examples: set task.target'),
  ],
)
def test_datasets_that_do_not_fit_are_named(features, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task('regression', features, **changes)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)
