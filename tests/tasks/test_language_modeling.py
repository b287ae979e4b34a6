"""Losses and metrics of packed tokens, and how a model goes on from the beginning of a text."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.models import parity_gpt
from trainer import config as config_lib
from trainer import tasks, tokens
from trainer.errors import ConfigError
from trainer.tasks import sampling

LENGTH = 6


def features(length=LENGTH):
  return tfds.features.FeaturesDict(
    {'tokens': tfds.features.Tensor(shape=(length + 1,), dtype=np.int32), 'count': tfds.features.Scalar(np.int32)}
  )


def create(given=None, **changes):
  config = config_lib.base(task='language_modeling', model='gpt')
  config.task.update(changes)
  return tasks.create(config, given or features(), None)


def batch(task, rows, weight=(1.0, 1.0, 1.0)):
  examples = [task.example({'tokens': tf.constant(row), 'count': tf.constant(count)}) for row, count in rows]
  made = tf.nest.map_structure(lambda *parts: tf.stack(parts), *examples)
  return {**made, 'weight': tf.constant(weight), 'index': tf.range(len(rows), dtype=tf.int64)}


ROWS = [([5, 6, 7, 0, 8, 9, 10], 6), ([1, 2, 3, 4, 0, 0, 0], 3), ([2, 2, 2, 2, 2, 2, 2], 6)]


def test_an_example_is_shifted_by_one_and_what_is_not_there_is_not_learnt():
  task = create()
  example = task.example({'tokens': tf.constant(ROWS[1][0]), 'count': tf.constant(3)})
  assert example['inputs'].numpy().tolist() == [1, 2, 3, 4, 0, 0]
  assert example['targets'].numpy().tolist() == [2, 3, 4, -1, -1, -1]
  assert task.units == 257 and task.input_spec.shape == (LENGTH,)


def test_loss_and_metrics_are_per_token_and_padding_counts_nothing():
  task = create()
  made = batch(task, ROWS, weight=(1.0, 1.0, 0.0))
  outputs = np.random.default_rng(0).normal(size=(3, LENGTH, 257)).astype(np.float32)
  outputs[2] = np.nan  # a padded row may hold anything
  log = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
  targets = made['targets'].numpy()
  nats = [-log[b, t, targets[b, t]] for b in range(2) for t in range(LENGTH) if targets[b, t] >= 0]
  weights = task.weights(made).numpy()
  assert weights.tolist() == [6, 3, 0]
  losses = task.losses(tf.constant(outputs), made).numpy()
  assert np.sum(losses[:2] * weights[:2]) / 9 == pytest.approx(np.mean(nats), rel=1e-5)
  results = task.metric_results(task.metric_values(tf.constant(outputs), made).numpy().astype(np.float64))
  assert results['perplexity'] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
  assert results['bits_per_byte'] == pytest.approx(np.sum(nats) / math.log(2) / 8, rel=1e-5), 'the end is no byte'
  parts = [
    task.metric_values(outputs[i : i + 1], {name: value[i : i + 1] for name, value in made.items()}) for i in range(3)
  ]
  np.testing.assert_allclose(sum(parts), task.metric_values(outputs, made), rtol=1e-6)
  assert task.best == ('bits_per_byte', 'min')


def greedy(model, ids, count, context):
  """The same without a cache: the newer half is kept when the places are full."""
  text, begin = list(ids), 0
  while len(text) < len(ids) + count:
    if len(text) - begin > context:
      begin = len(text) - max(context // 2, 1)
    window = np.zeros([1, context], np.int32)
    window[0, : len(text) - begin] = text[begin:]
    text.append(int(np.argmax(model(window)[0, len(text) - begin - 1])))
  return text[len(ids) :]


def drawn(model, rows, numbers, **changes):
  return sampling.go_on(
    model, tf.constant(rows), context=parity_gpt.CONTEXT, numbers=tf.constant(numbers, tf.int64),
    **{'count': 12, 'temperature': 1.0, 'top_k': 0, 'seed': 3, **changes},
  ).numpy().tolist()  # fmt: skip


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=pytest.mark.thorough) if name == 'gpt2' else name for name in parity_gpt.CASES]
)
def test_it_goes_on_as_without_a_cache_even_beyond_its_places(name):
  model, context = parity_gpt.ours(name), parity_gpt.CONTEXT
  ids = parity_gpt.ids()[:, :5]
  written = drawn(model, ids, [0, 1], count=40, temperature=0.0)
  assert written == [greedy(model, row, 40, context) for row in ids.tolist()]
  assert drawn(model, ids, [0, 1], count=40, temperature=0.0, keeps=False) == written
  assert drawn(model, ids, [0, 1], count=8, keeps=False) == drawn(model, ids, [0, 1], count=8)


def test_draws_depend_on_seed_and_number_alone():
  model, ids = parity_gpt.ours('gpt2'), np.repeat(parity_gpt.ids()[:1, :4], 3, axis=0)
  first = drawn(model, ids, [7, 8, 9])
  assert first[0] != first[1]
  assert drawn(model, ids, [9, 8, 7]) == first[::-1]
  assert drawn(model, ids[:1], [8]) == first[1:2]
  assert drawn(model, ids, [7, 8, 9], seed=4) != first
  greedy_rows = drawn(model, ids, [7, 8, 9], temperature=0.0)
  assert drawn(model, ids, [7, 8, 9], top_k=1) == greedy_rows == [greedy_rows[0]] * 3


def test_only_the_likeliest_that_together_have_the_probability_asked_for_are_drawn():
  shares = np.array([0.5, 0.3, 0.15, 0.05], np.float32)

  def call(asked):
    if 'start' in asked:
      return tf.zeros([])
    return {'logits': tf.repeat(tf.math.log(shares)[tf.newaxis], len(asked['token']), axis=0), 'cache': tf.zeros([])}

  def share(top_p):
    written = sampling.go_on(
      call, tf.zeros([400, 1], tf.int32), context=8, count=4, temperature=1.0, top_k=0, top_p=top_p, seed=0,
      numbers=tf.range(400, dtype=tf.int64),
    )  # fmt: skip
    return np.bincount(written.numpy().ravel(), minlength=4) / 1600

  np.testing.assert_allclose(share(1.0), shares, atol=0.05)
  np.testing.assert_allclose(share(0.75), [0.625, 0.375, 0, 0], atol=0.05)
  assert share(0.5).tolist() == [1, 0, 0, 0]


def test_a_prediction_is_text():
  task = create(features(), new_tokens=4)
  prompt, written = tokens.byte_tokens(b'ab')[:2], tokens.byte_tokens(b'c d!')[:4]
  assert task.readable({'prompt': prompt, 'written': written}) == {'prompt': 'ab', 'written': 'c d!'}


def test_what_is_not_packed_or_leaves_nothing_to_write():
  with pytest.raises(ConfigError, match=r'set data.pack_tokens to the length'):
    create(tfds.features.FeaturesDict({'text': tfds.features.Text()}))
  with pytest.raises(ConfigError, match=r'task\.prompt_tokens=6 leaves none of data.pack_tokens=6'):
    create(prompt_tokens=6)
