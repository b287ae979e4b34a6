"""Which places are hidden, when, and what counts."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer import config as config_lib
from trainer import tasks, tokens
from trainer.errors import ConfigError

LENGTH = 64
MASK = len(tokens.BYTES) + 1


def create(length=LENGTH, **changes):
  config = config_lib.base(task='masked_language_modeling', model='bert')
  config.task.update(changes)
  features = tfds.features.FeaturesDict(
    {'tokens': tfds.features.Tensor(shape=(length + 1,), dtype=np.int32), 'count': tfds.features.Scalar(np.int32)}
  )
  return tasks.create(config, features, None)


def rows(count=200, length=LENGTH, seed=0):
  return np.random.default_rng(seed).integers(1, 257, (count, length + 1)).astype(np.int32)


def batch(task, texts, counts=None, weight=None):
  counts = counts or [texts.shape[1] - 1] * len(texts)
  examples = [
    task.example({'tokens': tf.constant(t), 'count': tf.constant(c)}) for t, c in zip(texts, counts, strict=True)
  ]
  made = tf.nest.map_structure(lambda *parts: tf.stack(parts), *examples)
  return {**made, 'weight': tf.constant(weight or [1.0] * len(texts)), 'index': tf.range(len(texts), dtype=tf.int64)}


def draws(texts, seed=1):
  return np.random.default_rng(seed).integers(0, 2**24, (len(texts), LENGTH)).astype(np.float32) / 2**24


@pytest.mark.parametrize('trained', [False, True])
def test_shares_of_the_places_are_those_of_the_paper(trained):
  task, texts = create(), rows()
  made = batch(task, texts)
  if trained:
    made = task.augment(made, tf.constant(draws(texts)))
  ids, shown, wanted = made['targets']['ids'].numpy(), made['inputs'].numpy(), task.wanted(made).numpy()
  np.testing.assert_array_equal(ids, texts[:, :-1] + 1)
  chosen = wanted >= 0
  np.testing.assert_array_equal(wanted[chosen], ids[chosen])
  np.testing.assert_array_equal(shown[~chosen], ids[~chosen])
  assert chosen.mean() == pytest.approx(0.15, abs=0.01)
  hidden, kept = (shown == MASK)[chosen].mean(), (shown == ids)[chosen].mean()
  assert hidden == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.02)
  others = shown[chosen & (shown != MASK) & (shown != ids)]
  assert others.min() >= 1 and others.max() <= 257 and len(np.unique(others)) > 100


def test_an_evaluation_hides_the_same_and_an_epoch_of_training_something_else():
  task, texts = create(), rows(20)
  first, again = batch(task, texts), batch(create(), texts[::-1].copy())
  np.testing.assert_array_equal(first['inputs'], again['inputs'][::-1])
  half = task.augment(first, tf.fill([20, LENGTH], 0.5))
  for before, after in zip(tf.nest.flatten(first), tf.nest.flatten(half), strict=True):
    np.testing.assert_array_equal(before, after)
  one, other = (task.wanted(task.augment(first, tf.constant(draws(texts, seed)))).numpy() >= 0 for seed in (1, 2))
  assert (one & other).sum() < 0.4 * one.sum()


def test_padding_is_neither_shown_nor_wanted_and_weights_count_places():
  task = create()
  made = batch(task, rows(3), counts=[64, 10, 40], weight=[1.0, 1.0, 0.0])
  assert np.count_nonzero(made['inputs'].numpy()[1]) == 11
  wanted = task.wanted(made).numpy()
  assert (wanted[1, 11:] == -1).all()
  weights = task.weights(made).numpy()
  np.testing.assert_array_equal(weights, [(wanted[0] >= 0).sum(), (wanted[1] >= 0).sum(), 0])
  outputs = np.random.default_rng(0).normal(size=(3, LENGTH, MASK + 1)).astype(np.float32)
  outputs[2] = np.nan  # a padded row may hold anything
  log = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
  places = [(b, t) for b in range(2) for t in range(LENGTH) if wanted[b, t] >= 0]
  nats = np.mean([-log[b, t, wanted[b, t]] for b, t in places])
  losses = task.losses(tf.constant(outputs), made).numpy()
  assert np.sum(losses[:2] * weights[:2]) / weights.sum() == pytest.approx(nats, rel=1e-5)
  whole = task.metric_values(tf.constant(outputs), made).numpy().astype(np.float64)
  results = task.metric_results(whole)
  assert list(results) == ['perplexity', 'accuracy'] and task.best == ('perplexity', 'min')
  assert results['perplexity'] == pytest.approx(np.exp(nats), rel=1e-5)
  right = np.mean([outputs[b, t].argmax() == wanted[b, t] for b, t in places])
  assert results['accuracy'] == pytest.approx(right)
  halves = [
    task.metric_values(tf.constant(outputs[part]), tf.nest.map_structure(lambda t, p=part: t[p], made)).numpy()
    for part in (slice(0, 1), slice(1, 3))
  ]
  np.testing.assert_allclose(sum(halves), whole, rtol=1e-5)


def test_what_is_read_in_the_gaps_is_a_text():
  task = create(length=16)
  texts = np.stack([tokens.byte_tokens(b'To be or not to be')[:17]])
  made = batch(task, texts)
  made['targets']['uniform'] = tf.constant([[0.0, *[0.9] * 14, 0.0]])
  made['inputs'] = task._shown(made['targets'])
  outputs = tf.one_hot([[1 + 1 + ord('X')] * 16], MASK + 1)
  predictions = tf.nest.map_structure(lambda t: t.numpy()[0], task.predictions(None, outputs, made))
  assert task.readable(predictions) == {'shown': '_o be or not to_', 'read': 'Xo be or not toX'}


def test_a_set_that_is_not_packed():
  config = config_lib.base(task='masked_language_modeling', model='bert')
  with pytest.raises(
    ConfigError, match=r"task\.name='masked_language_modeling' learns from packed tokens.*pack_tokens"
  ):
    tasks.create(config, tfds.features.FeaturesDict({'text': tfds.features.Text()}), None)


def test_a_text_with_gaps_is_read():
  task = create(length=16)
  ids = task.ids_of(tokens.byte_tokens(b'To b_ or_')[:-1])
  assert ids.shape == (16,) and (ids[9:] == 0).all() and (ids == MASK).sum() == 2
  call = lambda rows: tf.one_hot(tf.fill(tf.shape(rows), 2 + ord('X')), MASK + 1)  # noqa: E731
  found = tf.nest.map_structure(lambda t: t.numpy()[0], task.on_ids(call, tf.constant(ids[None]), None))
  assert task.readable(found) == {'shown': 'To b_ or_', 'read': 'To bX orX'}
  pieces = task.wording()['said']['pieces']
  assert len(pieces) == task.units and pieces[found['said'][0]] == 'X' and pieces[MASK] == '_'
