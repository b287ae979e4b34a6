"""Forecasting: which steps are seen and which are forecast, in which unit, and what an error is."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import forecasting

LENGTH, CHANNELS = 12, 2


def features(shape=(LENGTH, CHANNELS)):
  return F.FeaturesDict({'series': F.Tensor(shape=shape, dtype=np.float32), 'day': F.Scalar(np.int32)})


def rows(count=40, seed=0):
  steps = np.random.default_rng(seed).normal(size=(count, LENGTH, CHANNELS)).cumsum(axis=1)
  return {'series': (steps * [1.0, 10.0] + [5.0, -3.0]).astype(np.float32), 'day': np.arange(count, dtype=np.int32)}


def make(saved=None, split=True, **changes):
  changes = {'horizons': (1, 3), **changes}
  return made_up.task('forecasting', features(), rows() if split else None, saved, **changes)


def batch(task, seed=1):
  dataset = tf.data.Dataset.from_tensor_slices(rows(seed=seed)).map(task.example).batch(40)
  made = dataset.get_single_element()
  weight = np.ones(40, np.float32)
  weight[-5:] = 0.0
  return {**made, 'weight': tf.constant(weight)}


def test_the_model_sees_the_history_and_not_what_is_forecast():
  task = make(history=8, every=3)
  series = rows()['series']
  mean, deviation = series.mean(axis=(0, 1), dtype=np.float64), series.std(axis=(0, 1), dtype=np.float64)
  example = task.example({'series': series[0]})
  np.testing.assert_allclose(example['inputs'], ((series[0] - mean) / deviation)[[1, 4, 7]], rtol=1e-4, atol=1e-5)
  assert task.input_spec.shape == (3, CHANNELS) and task.units == 4
  changes = ((series[:, [8, 10]] - series[:, [7]]) / deviation).reshape(40, 4)
  np.testing.assert_allclose(example['targets'], changes[0] / np.sqrt((changes**2).mean(axis=0)), rtol=1e-3, atol=1e-4)
  assert make().input_spec.shape == (LENGTH - 3, CHANNELS), 'by default, all but the last horizon'


def test_a_model_that_says_no_change_is_persistence():
  task = make()
  made, series = batch(task), rows(seed=1)['series'][:-5]
  totals = task.metric_values(tf.zeros([40, 4]), made).numpy().astype(np.float64)
  deviation = rows()['series'].std(axis=(0, 1), dtype=np.float64)
  for step in (1, 3):
    error = (series[:, 8 + step] - series[:, 8]) / deviation
    assert task.metric_results(totals)[f'rmse_{step}'] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
  assert task.best == ('rmse_3', 'min')
  np.testing.assert_allclose(task.losses(tf.zeros([40, 4]), made), np.mean(made['targets'] ** 2, axis=1), rtol=1e-5)


def test_metrics_are_sums_over_examples_and_padding_counts_nothing():
  task = make()
  made, outputs = batch(task), np.random.default_rng(2).normal(size=(40, 4)).astype(np.float32)
  whole = task.metric_values(tf.constant(outputs), made)
  outputs[-5:] = np.nan
  halves = [
    task.metric_values(tf.constant(outputs[part]), {name: value[part] for name, value in made.items()})
    for part in (slice(0, 17), slice(17, 40))
  ]
  np.testing.assert_allclose(halves[0] + halves[1], whole, rtol=1e-5)
  perfect = task.metric_values(made['targets'], made).numpy().astype(np.float64)
  assert task.metric_results(perfect) == {'rmse_1': 0.0, 'rmse_3': 0.0}


def test_statistics_come_back_from_what_was_saved():
  saved = json.loads(json.dumps(make().state()))
  again = make(saved=saved, split=False)
  for name, value in make().example({'series': rows(seed=3)['series'][0]}).items():
    np.testing.assert_array_equal(value, again.example({'series': rows(seed=3)['series'][0]})[name])
  plain = make(split=False).example({'series': rows()['series'][0]})
  np.testing.assert_array_equal(plain['inputs'], rows()['series'][0, :9])


@pytest.mark.parametrize(
  ('made', 'changes', 'words'),
  [
    (features(), {'horizons': (12,)}, 'need more than the 12 steps of a window'),
    (features(), {'history': 10, 'horizons': (3,)}, 'need more than the 12 steps'),
    (features((None, 2)), {}, 'cut the series into windows of one length'),
    (features(), {'series': 'serie'}, "did you mean 'series'?"),
    (made_up.vectors(), {}, 'no feature of the dataset is a series [time, channels]'),
  ],
)
def test_what_does_not_fit_is_named(made, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task('forecasting', made, **changes)
  assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('horizons', [(), (3, 1), (1, 1), (0,), (1.5,)])
def test_horizons_rise(horizons):
  assert 'rising' in forecasting.FIELDS['horizons'].rule(horizons)
