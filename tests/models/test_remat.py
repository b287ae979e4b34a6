"""Blocks that are layers one after another are the same when they are computed twice, or with scores in blocks."""

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity_bert, parity_gpt, parity_t5
from trainer import models
from trainer.models import parts, remat

FAMILIES = {
  'vit': (
    tf.TensorSpec([16, 16, 3]),
    {'size': 'S', 'layers': 2, 'width': 16, 'heads': 2, 'patch_size': 4, 'stochastic_depth': 0.5},
  ),
  'bert': (tf.TensorSpec([12], tf.int32), {'layers': 2, 'width': 16, 'heads': 2, 'dropout': 0.0}),
  'sequence_transformer': (
    tf.TensorSpec([12], tf.int32), {'vocabulary': 20, 'layers': 2, 'width': 16, 'heads': 2, 'summary': 'mean'},
  ),
}  # fmt: skip


def family(name, **changes):
  """A small model of a family, and its float outputs and gradients on one batch."""
  spec, fields = FAMILIES[name]
  keras.utils.set_random_seed(5)
  made = ml_collections.ConfigDict({'name': name, **{n: f.default for n, f in models.fields(name).items()}})
  made.update({**fields, **changes})
  model = models.build(ml_collections.ConfigDict({'model': made}), spec, 20)
  random = np.random.default_rng(0)
  for variable in model.trainable_variables:  # a head of zeros would hide what lies before it
    variable.assign(random.normal(0, 0.3, variable.shape))
  return model


def gradients(model, name, xla):
  spec, _ = FAMILIES[name]
  random = np.random.default_rng(1)
  inputs = (
    random.random((4, *spec.shape)).astype(np.float32) if spec.dtype.is_floating else random.integers(0, 20, (4, 12))
  )
  inputs = tf.constant(inputs, spec.dtype)
  parts.compiled(model, xla)

  @tf.function(jit_compile=xla, autograph=False)
  def gradient():
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    seeds = [tf.ones_like(v.value) for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
      tape.watch(weights)
      outputs, _ = model.stateless_call(weights, seeds, inputs, training=True)
      loss = tf.reduce_sum(tf.sin(outputs))
    found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return loss, [tf.convert_to_tensor(each) for each in found]  # embeddings give IndexedSlices

  loss, found = gradient()
  return loss.numpy(), {v.path: g.numpy() for v, g in zip(model.trainable_variables, found, strict=True)}


@pytest.mark.parametrize('xla', [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', FAMILIES)
def test_families_whose_blocks_are_layers(name, xla):
  expected_loss, expected = gradients(family(name), name, xla)
  for changes in ({'remat': 'blocks'}, {'attention': 'blockwise', 'remat': 'blocks'}):
    model = family(name, **changes)
    assert [v.path for v in model.trainable_variables] == list(expected)
    loss, found = gradients(model, name, xla)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for path, gradient in expected.items():
      np.testing.assert_allclose(found[path], gradient, rtol=1e-3, atol=1e-4, err_msg=f'{path} {changes}')


def test_a_model_with_blocks_that_are_computed_twice_is_saved(tmp_path):
  model = family('vit', remat='blocks')
  model.save(tmp_path / 'model.keras')
  images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
  np.testing.assert_array_equal(keras.saving.load_model(tmp_path / 'model.keras')(images), model(images))


def test_what_is_held_is_rounded_and_its_gradient_is_not():
  @tf.function(jit_compile=True, autograph=False)
  def both(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = remat.held(x, 'bfloat16') * tf.constant(1.00001)
    return y, tape.gradient(y, x)

  x = tf.constant([1.0, 1.001, -3.14159])
  y, gradient = both(x)
  np.testing.assert_allclose(y, tf.cast(tf.cast(x, tf.bfloat16), tf.float32) * 1.00001, rtol=1e-6)
  np.testing.assert_allclose(gradient, [1.00001] * 3, rtol=1e-6)
  assert remat.held(x, 'float32') is x and remat.held(tf.cast(x, tf.bfloat16), 'float32').dtype == tf.bfloat16


@pytest.mark.parametrize('made', [parity_gpt, parity_bert, parity_t5], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
  ('xla', 'training', 'rounded'), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_logits_are_rounded_only_where_xla_would_keep_them_long(made, xla, training, rounded):
  keras.config.set_dtype_policy('mixed_bfloat16')
  try:
    model = made.build(layers=2, width=16, heads=2)
  finally:
    keras.config.set_dtype_policy('float32')
  for variable in model.trainable_variables:  # zeros would be round anyway
    variable.assign(np.random.default_rng(3).normal(0, 0.3, variable.shape))
  parts.compiled(model, xla)
  call = tf.function(lambda ids: model(ids, training=training), jit_compile=xla, autograph=False)
  logits = call(tf.nest.map_structure(tf.constant, made.ids()))
  assert logits.dtype == tf.float32
  short = tf.cast(tf.cast(logits, tf.bfloat16), tf.float32)
  assert bool(tf.reduce_all(short == logits)) == rounded
