"""BERT: logits and numbers of parameters of others, padding that changes nothing, and learning."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity, parity_bert
from trainer.errors import ConfigError

SMALL = {'layers': 1, 'width': 16, 'heads': 2}


def small(units=11, places=9, **changes):
  model = parity_bert.build(units, places, **{**SMALL, **changes})
  parity.fill(model)
  return model


@pytest.mark.parametrize(
  ('size', 'count'),
  # Of the encoder with its pooler, as in the paper's table and the released models.
  [('base', 109_482_240), ('large', 335_141_888)],
)
def test_parameters_are_as_many_as_published(size, count):
  head = 1 + {'base': 768, 'large': 1024}[size]
  assert parity.parameters(lambda: parity_bert.build(1, 512, size=size, vocabulary=30_522)) == count + head


def test_the_masked_language_model_adds_a_transform_and_a_bias():
  count = 109_482_240 - (768 * 768 + 768)  # no pooler
  assert parity.parameters(lambda: parity_bert.build(30_522, 512)) == count + 768 * 768 + 3 * 768 + 30_522


@pytest.mark.parametrize('name', parity_bert.CASES)
def test_outputs_are_those_that_transformers_gave(name):
  expected = np.array(json.loads(parity.GOLDEN.read_text())[name])
  assert np.abs(expected).max() > 0.5
  found = parity_bert.seen(parity_bert.ours(name)(parity_bert.ids()))
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('name', parity_bert.CASES)
def test_outputs_are_those_of_transformers(name):
  pytest.importorskip('torch', exc_type=ImportError, reason='torch cannot be imported; golden.json has its logits')
  pytest.importorskip('transformers', exc_type=ImportError, reason='transformers cannot be imported')
  model = parity_bert.ours(name)
  found = parity_bert.seen(model(parity_bert.ids()))
  np.testing.assert_allclose(found, parity_bert.theirs(name, model), atol=1e-4)


def test_padding_is_not_seen_and_both_sides_are():
  model, rows = small(), parity_bert.ids(2, 9, 11)
  assert np.count_nonzero(rows[1]) == 4
  shorter = small(places=4)
  shorter.get_layer('embedding').set_weights(
    [model.get_layer('embedding').get_weights()[0][:4], model.get_layer('embedding').get_weights()[1]]
  )
  np.testing.assert_allclose(shorter(rows[1:, :4])[0], model(rows[1:])[0, :4], atol=1e-5)
  changed = rows[:1].copy()
  changed[0, 4] = 1 + changed[0, 4] % 10
  apart = np.abs(model(rows[:1]).numpy() - model(changed).numpy())[0].max(axis=-1)
  assert apart.min() > 1e-4, 'each place sees each other'


@pytest.mark.parametrize('vocabulary', [0, 13])
def test_a_saved_model_is_the_same_model(vocabulary, tmp_path):
  model, rows = small(vocabulary=vocabulary), parity_bert.ids(2, 9, 11)
  model.save(tmp_path / 'model.keras')
  loaded = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(loaded(rows), model(rows))
  assert [v.path for v in loaded.weights] == [v.path for v in model.weights]


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16'])
def test_it_compiles_and_learns(policy):
  keras.config.set_dtype_policy(policy)
  try:
    keras.utils.set_random_seed(0)
    model, rows = parity_bert.build(11, 9, **SMALL, dropout=0.0), tf.constant(parity_bert.ids(2, 9, 11))
  finally:
    keras.config.set_dtype_policy('float32')
  learn = learning.descent(model, rows, rows, 0.2)
  first, logits = learn()
  assert logits.dtype == tf.float32
  for _ in range(30):
    last, _ = learn()
  assert last < 0.7 * first


def test_heads_that_do_not_divide_the_width():
  with pytest.raises(ConfigError, match=r'model\.heads=3 does not divide the width 16'):
    small(heads=3)


def test_vectors_are_no_ids():
  with pytest.raises(ConfigError, match=r"takes ids, not float32: set task\.name='masked_language_modeling'"):
    parity.build('bert', (9,), **SMALL)
