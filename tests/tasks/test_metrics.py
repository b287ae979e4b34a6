"""Metrics as sums over examples: the same result as Keras' own, however the examples are divided and compiled."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from trainer.errors import ConfigError
from trainer.tasks import catalogue, classification, regression
from trainer.tasks.metrics import MetricSet

NEEDED = {
  'precision_at_recall': {'recall': 0.5},
  'recall_at_precision': {'precision': 0.5},
  'sensitivity_at_specificity': {'specificity': 0.5},
  'specificity_at_sensitivity': {'sensitivity': 0.5},
}
OPTIONS = str(NEEDED).replace("'", '"')
COUNTS_ONLY = {'poisson'}
VECTORS_ONLY = {'concordance_correlation', 'cosine_similarity', 'pearson_correlation'}
TWO_CLASSES_ONLY = {'binary_iou'}
KINDS = {
  'four classes': ('classification', 4, {}, set(classification.METRICS) - TWO_CLASSES_ONLY),
  'two classes': ('classification', 2, {}, set(classification.METRICS)),
  'one logit': ('classification', 2, {'single_logit': True}, set(classification.METRICS)),
  'one target': ('regression', 1, {}, set(regression.METRICS) - VECTORS_ONLY - COUNTS_ONLY),
  'three targets': ('regression', 3, {}, set(regression.METRICS) - COUNTS_ONLY),
  'counts': ('regression', 1, {'loss': 'poisson'}, set(regression.METRICS) - VECTORS_ONLY),
}


@functools.cache
def make(kind, names=None):
  name, size, changes, fitting = KINDS[kind]
  names = tuple(sorted(fitting) if names is None else names)
  features = made_up.images(size) if name == 'classification' else made_up.vectors(targets=(size,))
  options = OPTIONS if NEEDED.keys() <= set(names) else ''
  task = made_up.task(name, features, metrics=names, metric_options=options, **changes)
  return task, *made_up.batch(task, name, classes=size)


def rows(batch, begin, end):
  return {name: value[begin:end] for name, value in batch.items()}


def close(left, right):
  assert left.keys() == right.keys()
  for name in left:
    np.testing.assert_allclose(left[name], right[name], rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('kind', KINDS)
def test_parts_add_up_to_the_whole(kind):
  task, outputs, batch = make(kind)
  whole = task.metric_values(outputs, batch).numpy()
  assert whole.dtype == np.float32
  assert whole.shape == (task.metrics.size,)
  bounds = [0, 1, 6, 7, 12, 16]
  parts = [
    task.metric_values(outputs[b:e], rows(batch, b, e)).numpy().astype(np.float64)
    for b, e in itertools.pairwise(bounds)
  ]
  results = task.metric_results(np.sum(parts, axis=0))
  close(results, task.metric_results(whole.astype(np.float64)))
  assert all(np.isfinite(value) for value in results.values())
  assert task.metric_names == tuple(results)


@pytest.mark.parametrize('kind', KINDS)
def test_padding_counts_for_nothing(kind):
  task, outputs, batch = make(kind)
  padded = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  cut = task.metric_results(task.metric_values(outputs[:13], rows(batch, 0, 13)).numpy().astype(np.float64))
  close(padded, cut)


@pytest.mark.parametrize('kind', KINDS)
def test_results_are_those_of_the_stateful_metric(kind):
  task, outputs, batch = make.__wrapped__(kind)  # of its own: what the others share stays at zero
  results = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  for name, metric in task.metrics._metrics.items():
    y_true, y_pred, weight = task.metrics._view(type(metric).__name__, outputs, batch)
    for i in (0, 7, 9):
      part = slice(i, {0: 7, 7: 9, 9: 16}[i])
      metric.update_state(y_true[part], y_pred[part], sample_weight=weight[part])
    np.testing.assert_allclose(results[name], metric.result(), rtol=2e-5, atol=1e-6, err_msg=name)


FEW = ('accuracy', 'auc', 'f1_score', 'mean_iou', 'r2')
COMPILED = [
  pytest.param('four classes', FEW, id='few'),
  pytest.param('counts', None, id='counts'),
  pytest.param('three targets', None, id='three targets'),
  pytest.param('four classes', None, id='four classes', marks=pytest.mark.slow),
  pytest.param('one logit', None, id='one logit', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('kind', 'names'), COMPILED)
@pytest.mark.parametrize('xla', [False, True])
def test_graphs_and_xla_compute_the_same(kind, names, xla):
  task, outputs, batch = make(kind, names)
  before = [len(metric.variables) for metric in task.metrics._metrics.values()]
  values = tf.function(task.metric_values, jit_compile=xla)
  expected = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  close(task.metric_results(values(outputs, batch).numpy().astype(np.float64)), expected)
  # A second trace, for another shape, would fail if the first had made variables.
  assert values(outputs[:5], rows(batch, 0, 5)).shape == (task.metrics.size,)
  assert [len(metric.variables) for metric in task.metrics._metrics.values()] == before
  assert not any(np.any(v.numpy()) for m in task.metrics._metrics.values() for v in m.variables)


@pytest.mark.parametrize(('kind', 'names'), COMPILED)
def test_replicas_add_up_under_a_mirror(kind, names, pair):
  with pair.scope():
    task, outputs, batch = make.__wrapped__(kind, names)
  compiled = tf.function(task.metric_values, jit_compile=True)
  halves = [(outputs[:8], rows(batch, 0, 8)), (outputs[8:], rows(batch, 8, 16))]

  def replica(arguments):
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, compiled(*arguments))

  @tf.function
  def run():
    split = pair.experimental_distribute_values_from_function(lambda context: halves[context.replica_id_in_sync_group])
    return pair.experimental_local_results(pair.run(replica, (split,)))

  expected = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  for values in run():
    close(task.metric_results(values.numpy().astype(np.float64)), expected)


def test_known_values():
  task, _, _ = make('four classes', ('accuracy', 'top_k_categorical_accuracy', 'sparse_categorical_crossentropy'))
  outputs = tf.constant([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 9.0, 0]])
  batch = {'targets': tf.constant([0, 1, 2, 3]), 'weight': tf.constant([1.0, 1.0, 1.0, 0.5])}
  results = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  assert results['accuracy'] == pytest.approx(3 / 3.5)
  assert results['top_k_categorical_accuracy'] == 1.0
  right = np.log(np.exp(9) + 3) - 9
  assert results['sparse_categorical_crossentropy'] == pytest.approx((3 * right + 0.5 * (right + 9)) / 3.5, rel=1e-4)


def test_auc_of_two_logits_is_that_of_one():
  two, _, _ = make('two classes', ('auc', 'recall'))
  one, outputs, batch = make('one logit', ('auc', 'recall'))
  both = tf.concat([-0.5 * outputs, 0.5 * outputs], axis=1)
  close(
    two.metric_results(two.metric_values(both, batch).numpy().astype(np.float64)),
    one.metric_results(one.metric_values(outputs, batch).numpy().astype(np.float64)),
  )


def test_metrics_of_two_classes_only_say_so():
  with pytest.raises(ConfigError, match="'binary_iou', but 'label' has 4 classes"):
    make('four classes', ('binary_iou',))


def test_no_metrics_are_no_state():
  task, outputs, batch = make('four classes', ())
  assert task.metric_values(outputs, batch).shape == (0,)
  assert task.metric_results(np.zeros([0])) == {}
  assert task.best == ('loss', 'min')


def test_a_metric_of_several_values_is_reported_by_number():
  options = '{"precision": {"thresholds": [0.3, 0.6]}}'
  task = made_up.task('classification', metrics=('precision',), metric_options=options)
  assert task.metric_names == ('precision_0', 'precision_1')
  assert task.best == ('precision_0', 'max')
  outputs, batch = made_up.batch(task, 'classification')
  results = task.metric_results(task.metric_values(outputs, batch).numpy().astype(np.float64))
  metric = keras.metrics.Precision(thresholds=[0.3, 0.6])
  metric.update_state(tf.one_hot(batch['targets'], 4), tf.nn.softmax(outputs), sample_weight=batch['weight'])
  np.testing.assert_allclose(list(results.values()), metric.result(), rtol=1e-5)


def test_best_is_the_first_metric_with_a_direction():
  assert make('four classes', ('true_positives', 'categorical_hinge', 'accuracy'))[0].best == (
    'categorical_hinge',
    'min',
  )
  task = make('one target', ('r2', 'rmse'))[0]
  assert task.best == ('r2', 'max')
  assert (task.mode('rmse'), task.mode('loss'), task.mode('nothing')) == ('min', 'min', '')


def test_every_metric_but_the_counts_has_a_direction():
  modes = make('four classes')[0].metrics.modes
  counts = {'true_positives', 'true_negatives', 'false_positives', 'false_negatives'}
  assert set(KINDS['four classes'][3]) - set(modes) == counts
  assert modes['auc'] == 'max'
  assert modes['mean_squared_error'] == 'min'


class Largest(keras.metrics.Metric):
  """The largest prediction: not a sum."""

  def __init__(self):
    super().__init__(name='largest')
    self.value = self.add_variable((), 'zeros', name='value')

  def update_state(self, y_true, y_pred, sample_weight=None):
    self.value.assign(tf.maximum(self.value.value, tf.reduce_max(y_pred * sample_weight[:, None])))

  def result(self):
    return self.value.value


class RunningMean(Largest):
  """An average that forgets: a sum from zeros, but not one that goes on from another."""

  def update_state(self, y_true, y_pred, sample_weight=None):
    self.value.assign(0.9 * self.value.value + tf.reduce_sum(y_pred * sample_weight[:, None]))


class CountsAll(Largest):
  """The number of examples, whatever their weight."""

  def update_state(self, y_true, y_pred, sample_weight=None):
    self.value.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))


class FromOne(CountsAll):
  """A count that starts at one."""

  def __init__(self):
    super().__init__()
    self.other = self.add_variable((), 'ones', name='other')


class NeverFinite(Largest):
  """A sum of no use."""

  def update_state(self, y_true, y_pred, sample_weight=None):
    self.value.assign_add(0.0)

  def result(self):
    return self.value.value / 0.0


@pytest.mark.parametrize(
  ('metric', 'words'),
  [
    (Largest, 'not a sum over examples'),
    (RunningMean, 'not a sum over examples'),
    (CountsAll, 'counts examples of weight 0'),
    (FromOne, 'does not start from zeros'),
    (NeverFinite, 'no finite value'),
  ],
)
def test_what_is_not_a_sum_is_refused_by_name(metric, words):
  outputs = np.random.default_rng(0).random((8, 2), np.float32)

  def view(kind, outputs, batch):
    return batch['targets'], outputs, batch['weight']

  with pytest.raises(ConfigError, match=f"metric 'mine' does not work here: .*{words}"):
    MetricSet({'mine': metric()}, view, outputs, {'targets': np.zeros(8, np.int32)})


def test_every_keras_metric_is_covered():
  assert {name for _, _, _, names in KINDS.values() for name in names} == set(catalogue.metrics())
