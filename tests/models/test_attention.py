"""Attention and its gradient are those of its formula: masks, biases, dropped shares, any dtype, compiled or not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.attention import Attention

HEADS, HEAD_WIDTH, PLACES = 2, 4, 6
SHAPE = (3, PLACES, HEADS * HEAD_WIDTH)


def random(seed, shape=SHAPE):
  return tf.constant(np.random.default_rng(seed).normal(size=shape, scale=2.0), tf.float32)


def by_formula(inputs, allowed, bias, dropped):
  query, key, value = (tf.transpose(tf.reshape(x, [3, PLACES, HEADS, HEAD_WIDTH]), [0, 2, 1, 3]) for x in inputs)
  scores = tf.matmul(query, key, transpose_b=True) / HEAD_WIDTH**0.5
  scores = scores if bias is None else scores + bias
  shares = tf.nn.softmax(tf.where(allowed, scores, -1e30))
  return tf.reshape(tf.transpose(tf.matmul(shares * dropped, value), [0, 2, 1, 3]), SHAPE)


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize(
  ('causal', 'masked', 'biased', 'dropout'),
  [(False, False, False, 0.0), (True, True, False, 0.0), (False, True, True, 0.0), (True, False, True, 0.5)],
)
def test_it_is_the_formula(causal, masked, biased, dropout, xla):
  layer = Attention(HEADS, causal=causal, dropout=dropout)
  layer.compiled_by_xla = xla
  key_mask = tf.constant([[True] * 6, [True] * 3 + [False] * 3, [True] + [False] * 5]) if masked else None
  bias = random(7, (1, HEADS, PLACES, PLACES)) if biased else None
  allowed = tf.ones([1, 1, PLACES, PLACES], tf.bool)
  allowed = allowed & key_mask[:, tf.newaxis, tf.newaxis] if masked else allowed
  allowed = allowed & (tf.range(PLACES)[:, tf.newaxis] >= tf.range(PLACES)) if causal else allowed

  @tf.function(jit_compile=xla, autograph=False)
  def run(ours):
    inputs, given = [random(i) for i in range(3)], [bias] if biased else []
    with tf.GradientTape() as tape:
      tape.watch([*inputs, *given])
      if ours:
        outputs = layer(inputs, key_mask=key_mask, bias=bias, training=True)
      else:
        dropped = tf.ones([3, HEADS, PLACES, PLACES])
        dropped = layer._drop(dropped, training=True) if dropout else dropped
        outputs = by_formula(inputs, allowed, bias, dropped)
      total = tf.reduce_sum(outputs * random(3))
    return outputs, *tape.gradient(total, [*inputs, *given])

  before = [v.numpy() for v in layer.variables]  # seeds, so that both draw the same
  expected = run(False)
  for variable, value in zip(layer.variables, before, strict=True):
    variable.assign(value)
  for one, other in zip(expected, run(True), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_short_dtypes_are_near(dtype, xla):
  """Also of a query that may look at no key."""
  key_mask = tf.constant([[True] * 6, [True] * 3 + [False] * 3, [False] * 6])

  @tf.function(jit_compile=xla, autograph=False)
  def run(dtype):
    layer = Attention(HEADS, causal=True, dtype=dtype)
    layer.compiled_by_xla = xla
    inputs = [tf.cast(random(i), dtype) for i in range(3)]
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = layer(inputs, key_mask=key_mask, training=True)
      total = tf.reduce_sum(tf.cast(outputs, tf.float32) * random(3))
    return [tf.cast(x, tf.float32) for x in (outputs, *tape.gradient(total, inputs))]

  for one, other in zip(run('float32'), run(dtype), strict=True):
    assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_shares_are_float32_and_add_up():
  layer = Attention(HEADS, causal=True, dtype='bfloat16')
  shares = layer.shares([tf.cast(random(i), 'bfloat16') for i in range(3)])
  assert shares.dtype == tf.float32 and np.tril(shares).sum() == pytest.approx(3 * HEADS * PLACES)
  np.testing.assert_array_equal(np.triu(shares, 1), 0)


def test_nothing_is_dropped_but_in_training():
  keras.utils.set_random_seed(0)
  inputs = [random(i) for i in range(3)]
  plain, dropping = Attention(HEADS), Attention(HEADS, dropout=0.5)
  np.testing.assert_array_equal(dropping(inputs), plain(inputs))
  assert np.abs(dropping(inputs, training=True) - plain(inputs)).max() > 0.1
