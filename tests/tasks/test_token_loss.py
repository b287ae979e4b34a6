"""The cross-entropy of tokens, whole and in chunks, is TensorFlow's, and so is its gradient."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.tasks import token_loss

CHUNKS, PLACES, WIDTH, VOCABULARY = 3, 4, 5, 7


def made(scale=1.0):
  rng = np.random.default_rng(0)
  hidden = tf.constant(rng.normal(size=(CHUNKS, PLACES, WIDTH), scale=scale), tf.float32)
  table = tf.constant(rng.normal(size=(VOCABULARY, WIDTH), scale=scale), tf.float32)
  targets = tf.constant(rng.integers(0, VOCABULARY, (CHUNKS, PLACES)), tf.int32)
  weights = tf.constant(rng.random((CHUNKS, PLACES)), tf.float32)
  return hidden, table, targets, weights


def plain(hidden, table, targets):
  logits = tf.matmul(hidden, table, transpose_b=True)
  nats = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
  return nats, tf.argmax(logits, axis=-1, output_type=tf.int32) == targets


def whole(hidden, table, targets):
  logits = tf.reshape(tf.matmul(hidden, table, transpose_b=True), [-1, VOCABULARY])
  return (tf.reshape(found, targets.shape) for found in token_loss.of_logits(logits, tf.reshape(targets, [-1])))


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize('scale', [1.0, 30.0])
@pytest.mark.parametrize('loss', [whole, token_loss.of_products])
def test_it_is_tensorflows(loss, scale, xla):
  hidden, table, targets, weights = made(scale)

  def run(loss):
    with tf.GradientTape() as tape:
      tape.watch([hidden, table])
      nats, right = loss(hidden, table, targets)
      total = tf.reduce_sum(nats * weights)
    return nats, right, *tape.gradient(total, [hidden, table])

  found = tf.function(run, jit_compile=xla, autograph=False)(loss)
  for one, other in zip(run(plain), found, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4 * scale)


def test_hidden_states_may_be_of_another_dtype():
  hidden, table, targets, weights = made()
  short = tf.cast(hidden, tf.bfloat16)
  with tf.GradientTape() as tape:
    tape.watch(short)
    nats, _ = token_loss.of_products(short, table, targets)
    total = tf.reduce_sum(nats * weights)
  np.testing.assert_allclose(nats, plain(tf.cast(short, tf.float32), table, targets)[0], rtol=1e-5)
  assert tape.gradient(total, short).dtype == tf.bfloat16


@pytest.mark.parametrize('xla', [False, True])
def test_a_token_is_right_that_is_likelier_than_all_others(xla):
  logits = tf.constant([[1.0, 3.0, 2.0], [3.0, 3.0, 2.0], [0.0, 0.0, 0.0], [-2.0, -1.0, -3.0]])
  targets = tf.constant([1, 1, 0, 0])
  _, right = tf.function(token_loss.of_logits, jit_compile=xla, autograph=False)(logits, targets)
  assert right.numpy().tolist() == [True, False, False, False]


def test_the_table_may_be_of_another_dtype():
  hidden, table, targets, weights = made()
  short = tf.cast(table, tf.bfloat16)
  found = []
  for loss in (plain, token_loss.of_products):
    with tf.GradientTape() as tape:
      tape.watch(short)
      nats, _ = loss(hidden, tf.cast(short, tf.float32) if loss is plain else short, targets)
      total = tf.reduce_sum(nats * weights)
    found.append((nats, tape.gradient(total, short)))
  (expected, by_expected), (nats, by_short) = found
  assert by_short.dtype == tf.bfloat16
  np.testing.assert_allclose(nats, expected, rtol=1e-5)
  np.testing.assert_allclose(tf.cast(by_short, tf.float32), tf.cast(by_expected, tf.float32), rtol=1e-2, atol=1e-3)
