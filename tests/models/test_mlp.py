"""Symbols in a feed-forward network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity, test_models
from trainer.errors import ConfigError


def build(dtype=tf.int32, **changes):
  return test_models.build('mlp', tf.TensorSpec([4], dtype), hidden=(), **changes)


def test_each_symbol_has_its_vector_and_each_place_its_weights():
  model = build(vocabulary=6, embedding=2)
  parity.fill(model)
  rows = np.array([[1, 5, 0, 1]], np.int32)
  vectors, kernel, bias = (weight.numpy() for weight in model.weights)
  assert vectors.shape == (6, 2) and kernel.shape == (8, 3)
  np.testing.assert_allclose(model(rows)[0], vectors[rows[0]].reshape(-1) @ kernel + bias, atol=1e-6)
  assert not np.allclose(model(rows[:, ::-1].copy()), model(rows)), 'places are told apart'


def test_without_a_vocabulary_integers_are_numbers():
  model = build()
  assert not any(isinstance(layer, keras.layers.Embedding) for layer in model.layers)
  parity.fill(model)
  kernel, bias = (weight.numpy() for weight in model.weights)
  np.testing.assert_allclose(model(np.array([[2, 4, 6, 8]]))[0], [2, 4, 6, 8] @ kernel + bias, atol=1e-5)


def test_numbers_are_no_symbols():
  with pytest.raises(ConfigError, match=r'model\.vocabulary is for symbols, and the inputs are float32: set it to 0'):
    build(tf.float32, vocabulary=6)
