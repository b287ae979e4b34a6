"""Runs of symbols: which there are, that equal ones share a vector, and the mean of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity, test_models
from trainer.errors import ConfigError
from trainer.models.ngrams import FIELDS, Runs


def build(places=6, dtype=tf.int32, **changes):
  spec = tf.TensorSpec([places], dtype)
  return test_models.build('ngrams', spec, **{'vectors': 10_007, 'width': 4, **changes})


def test_runs_are_those_of_the_text_and_of_its_marks():
  runs, there = Runs(3, 1_000_003)(tf.constant([[7, 8, 9, 0, 0], [7, 8, 9, 8, 9], [0, 0, 0, 0, 0]]))
  expected = [
    [(7,), (8,), (9,), (0, 7), (7, 8), (8, 9), (9, 0), (0, 7, 8), (7, 8, 9), (8, 9, 0)],
    [(7,), (8,), (9,), (8,), (9,), (0, 7), (7, 8), (8, 9), (9, 8), (8, 9), (9, 0), (0, 7, 8), (7, 8, 9), (8, 9, 8),
     (9, 8, 9), (8, 9, 0)],
    [],
  ]  # fmt: skip
  names = {}
  for row, mask, wanted in zip(runs.numpy(), there.numpy(), expected, strict=True):
    found = row[mask].tolist()
    assert len(found) == len(wanted)
    for number, run in zip(found, wanted, strict=True):
      assert names.setdefault(run, number) == number
  assert len(set(names.values())) == len(names), 'different runs have different numbers'


def test_each_hash_is_below_the_number_of_vectors():
  symbols = np.random.default_rng(0).integers(1, 257, (50, 40)).astype(np.int32)
  runs, there = Runs(5, 8_355_961)(tf.constant(symbols))  # the largest prime that is allowed
  assert (there.numpy().sum(axis=1) == 198).all(), 'all but the marks'
  assert runs.numpy().min() >= 0 and runs.numpy().max() < 8_355_967
  assert len(np.unique(runs)) > 0.7 * runs.numpy().size, 'spread'


def test_a_text_is_the_mean_of_its_runs_whatever_stands_behind_it():
  model, shorter = build(), build(places=4)
  for each in (model, shorter):
    parity.fill(each)
  rows = np.array([[5, 6, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]], np.int32)
  outputs = model(rows).numpy()
  np.testing.assert_allclose(shorter(rows[:1, :4]), outputs[:1], atol=1e-6)
  runs, there = model.get_layer('runs')(tf.constant(rows))
  vectors, (kernel, bias) = model.get_layer('vectors').get_weights()[0], model.get_layer('head').get_weights()
  for row, mask, output in zip(runs.numpy(), there.numpy(), outputs, strict=True):
    np.testing.assert_allclose(vectors[row[mask]].mean(axis=0) @ kernel + bias, output, atol=1e-5)


def test_it_compiles_is_saved_and_learns(tmp_path):
  keras.utils.set_random_seed(0)
  model, rows = build(run_dropout=0.1, dropout=0.1), tf.constant([[1, 2, 3, 0, 0, 0], [4, 5, 6, 1, 2, 0]])
  model.save(tmp_path / 'model.keras')
  np.testing.assert_array_equal(keras.saving.load_model(tmp_path / 'model.keras')(rows), model(rows))
  learn = learning.descent(model, rows, [0, 1], 5.0)
  losses = [float(learn()[0]) for _ in range(40)]
  assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize('number', [131_072, 251, 8_355_967, 0])
def test_the_number_of_vectors_is_a_prime(number):
  assert 'prime' in FIELDS['vectors'].rule(number)


def test_mistakes_are_one_line():
  with pytest.raises(ConfigError, match=r'model\.longest=9 is more than a text of 6 symbols and its two marks'):
    build(longest=9)
  with pytest.raises(ConfigError, match='takes symbols, not float32'):
    build(dtype=tf.float32)
