"""Vision transformers: tokens, positions, attention and what drops out. Parity is in test_parity.py."""

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity
from trainer.errors import ConfigError
from trainer.models import vit
from trainer.models.attention import Attention


def build(image=(8, 12, 3), **changes):
  return parity.build('vit', image, **{'layers': 2, 'width': 16, 'heads': 2, 'patch_size': 4, **changes})


def test_sizes_are_the_default_and_fields_go_before_them():
  model = parity.build('vit', (32, 32, 3), size='Ti')
  assert model.get_layer('block12_mlp_in').units == 768
  assert 'block13_mlp_in' not in [layer.name for layer in model.layers]
  assert parity.build('vit', (32, 32, 3), size='Ti', layers=1, heads=2).get_layer('block1_attention_core').heads == 2


@pytest.mark.parametrize(('pooling', 'tokens'), [('token', 7), ('mean', 6)])
@pytest.mark.parametrize('positions', ['learned', 'sincos'])
def test_tokens(pooling, tokens, positions):
  model = build(pooling=pooling, positions=positions)
  assert model.get_layer('embedding').output.shape == (None, tokens, 16)
  names = {v.path for v in model.get_layer('embedding').weights}
  expected = {'embedding/class_token'} if pooling == 'token' else set()
  expected |= {'embedding/positions'} if positions == 'learned' else set()
  assert names == expected


def test_fixed_positions_are_those_of_the_formula():
  table = vit.sincos((2, 3), 8)
  assert table.shape == (6, 8)
  for row in range(2):
    for column in range(3):
      frequencies = (1.0, 1e-4)
      expected = [f(place * w) for place in (column, row) for f in (math.sin, math.cos) for w in frequencies]
      np.testing.assert_allclose(table[3 * row + column], expected, atol=1e-6)


def test_positions_tell_patches_apart():
  """Without them the mean over tokens would not see that two patches change places."""
  images = parity.images((8, 8, 3))
  swapped = np.concatenate([images[:, :, 4:], images[:, :, :4]], axis=2)
  for positions in ('learned', 'sincos'):
    model = build((8, 8, 3), pooling='mean', positions=positions)
    parity.fill(model)
    assert not np.allclose(model(images), model(swapped), atol=1e-3)
  plain = vit.Embedding((2, 2), class_token=False, learned=False)
  np.testing.assert_allclose(plain(tf.zeros([1, 4, 16]))[0], vit.sincos((2, 2), 16))


def test_attention_takes_its_softmax_in_float32():
  """200 keys alike: in bfloat16 their shares of 1/200 are rounded, and the mean of equal values would not be that."""
  core = Attention(1, dtype='mixed_bfloat16')
  query, value = tf.ones([1, 200, 4], tf.bfloat16), tf.ones([1, 200, 4], tf.bfloat16)
  mixed = core([query, query, value])
  assert mixed.dtype == tf.bfloat16
  np.testing.assert_allclose(tf.cast(mixed, tf.float32), 1.0, atol=0.01)
  query, key = (tf.constant(parity.images((5, 6, 2), 2)[n].reshape(1, 5, 12)) for n in (0, 1))
  weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / math.sqrt(12))
  np.testing.assert_allclose(Attention(1)([query, key, key]), tf.matmul(weights, key), atol=1e-5)


def test_stochastic_depth_leaves_out_examples_more_often_in_later_blocks():
  model = build(layers=3, stochastic_depth=0.5)
  rates = {layer.name: layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
  halves = ('attention', 'mlp')
  assert rates == {f'block{i}_{half}_depth': rate for i, rate in ((2, 0.25), (3, 0.5)) for half in halves}
  layer = model.get_layer('block3_mlp_depth')
  kept = layer(tf.ones([1000, 3, 2]), training=True).numpy()
  assert np.all((kept == 0) | (kept == 2.0))
  assert np.all(kept == kept[:, :1, :1]), 'an example is left out whole'
  assert 0.4 < (kept[:, 0, 0] == 0).mean() < 0.6
  parity.fill(model)
  images = parity.images((8, 12, 3))
  np.testing.assert_array_equal(model(images), model(images))


def test_a_saved_model_is_the_same_model(tmp_path):
  for changes in ({}, {'pooling': 'mean', 'positions': 'sincos'}):
    model = build(**changes)
    parity.fill(model)
    model.save(tmp_path / 'model.keras')
    loaded = keras.saving.load_model(tmp_path / 'model.keras')
    images = parity.images((8, 12, 3))
    np.testing.assert_array_equal(loaded(images), model(images))
    assert [v.path for v in loaded.weights] == [v.path for v in model.weights]


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16'])
def test_it_compiles_and_learns(policy):
  keras.utils.set_random_seed(0)
  keras.config.set_dtype_policy(policy)
  try:
    model = build(dropout=0.1, stochastic_depth=0.2)
  finally:
    keras.config.set_dtype_policy('float32')
  images, labels = parity.images((8, 12, 3), 8), np.arange(8) % parity.UNITS
  step = learning.descent(model, images, labels, 0.1)
  losses = [float(step()[0]) for _ in range(12)]
  assert losses[0] == pytest.approx(math.log(parity.UNITS), abs=1e-3), 'the head starts at zero'
  assert min(losses[-3:]) < losses[0]


@pytest.mark.parametrize(
  ('image', 'changes', 'words'),
  [
    ((8, 10, 3), {}, 'model.patch_size=4 does not divide the image of 8 x 10 pixels'),
    ((8, 12, 3), {'heads': 3}, 'model.heads=3 does not divide the width 16'),
    ((8, 12, 3), {'width': 6, 'positions': 'sincos'}, "'sincos' needs a width of 8, 12, 16, ..., not 6"),
    ((8,), {}, 'takes inputs with 3 dimensions'),
  ],
)
def test_what_does_not_fit_is_named(image, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(image, **changes)
  assert '\n' not in str(caught.value)
