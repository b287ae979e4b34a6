"""Recurrent networks: the same numbers with and without XLA, unrolled and in a loop, from the same seeds."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_models import build
from trainer.errors import ConfigError

SERIES = tf.TensorSpec((7, 3), tf.float32)
CELLS = ('simple', 'lstm', 'gru')


def series(seed=0, shape=(4, 7, 3)):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gradients(model, inputs, seed=None, jit=False):
  """Outputs and gradients of a training pass, as the step takes them."""
  known = {id(v) for v in model.weights}

  @tf.function(jit_compile=jit, autograph=False)
  def run(inputs):
    parameters = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    buffers = [
      tf.convert_to_tensor(v.value) if id(v) in known else tf.constant([i, seed or 0], v.dtype)
      for i, v in enumerate(model.non_trainable_variables)
    ]
    with tf.GradientTape() as tape:
      tape.watch(parameters)
      outputs, _ = model.stateless_call(parameters, buffers, inputs, training=True)
      loss = tf.reduce_sum(outputs**2)
    slopes = tape.gradient(loss, parameters)
    return outputs, [tf.convert_to_tensor(slope) for slope in slopes]

  outputs, slopes = run(inputs)
  return outputs.numpy(), [slope.numpy() for slope in slopes]


def same(one, two, tolerance=1e-4):
  np.testing.assert_allclose(one[0], two[0], rtol=tolerance, atol=tolerance)
  for a, b in zip(one[1], two[1], strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('cell', CELLS)
def test_xla_and_unrolling_change_nothing(cell):
  plain = gradients(build('rnn', SERIES, cell=cell, hidden=(5,)), series())
  same(gradients(build('rnn', SERIES, cell=cell, hidden=(5,)), series(), jit=True), plain)
  same(gradients(build('rnn', SERIES, cell=cell, hidden=(5,), unroll=True), series()), plain)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('cell', CELLS)
def test_all_dropout_is_drawn_from_the_seeds_of_the_step(cell, jit):
  """XLA draws other numbers from the same seed, but the same each time."""
  model = build('rnn', SERIES, cell=cell, hidden=(5,), dropout=0.3, recurrent_dropout=0.3)
  first = gradients(model, series(), seed=5, jit=jit)
  same(gradients(model, series(), seed=5, jit=jit), first, tolerance=0)
  assert not np.allclose(gradients(model, series(), seed=6, jit=jit)[0], first[0])


@pytest.mark.parametrize('cell', ['lstm'])
def test_embedded_integers(cell):
  spec = tf.TensorSpec((9,), tf.int32)
  model = build('rnn', spec, cell=cell, vocabulary=11, embedding=4, hidden=(5,))
  tokens = np.random.default_rng(0).integers(0, 11, (4, 9)).astype(np.int32)
  same(gradients(model, tokens, jit=True), gradients(model, tokens))
  assert not np.allclose(model(tokens), model(tokens[:, ::-1])), 'the order matters'


def test_widths_of_stacked_and_bidirectional_layers():
  model = build('rnn', SERIES, hidden=(6, 5), bidirectional=True)
  assert model.get_layer('rnn1').output.shape == (None, 7, 12)
  assert model.get_layer('rnn2').output.shape == (None, 10)
  # Two directions, each 4 gates of (inputs + state + bias) x width; then the head.
  assert model.count_params() == 2 * 4 * (3 + 6 + 1) * 6 + 2 * 4 * (12 + 5 + 1) * 5 + 11 * 3


def test_the_last_state_is_that_of_a_hand_written_loop():
  model = build('rnn', SERIES, cell='simple', hidden=(4,))
  kernel, recurrent, bias, head, head_bias = (np.asarray(v) for v in model.trainable_variables)
  state = np.zeros((4, 4), np.float32)
  for t in range(7):
    state = np.tanh(series()[:, t] @ kernel + state @ recurrent + bias)
  np.testing.assert_allclose(model(series()), state @ head + head_bias, rtol=1e-4, atol=1e-5)


def test_a_series_of_single_numbers():
  model = build('rnn', tf.TensorSpec((10,), tf.float32), hidden=(50,))
  assert model.count_params() == 4 * (1 + 50 + 1) * 50 + 51 * 3


@pytest.mark.parametrize(
  ('spec', 'changes', 'words'),
  [
    (tf.TensorSpec((8, 8, 1), tf.float32), {}, 'takes sequences [time] or [time, features], not (8, 8, 1)'),
    (tf.TensorSpec((9,), tf.int32), {}, 'set it to the number of their values'),
    (SERIES, {'vocabulary': 5}, 'not of shape (7, 3): set it to 0'),
  ],
)
def test_inputs_that_do_not_fit_are_named(spec, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build('rnn', spec, **changes)
  assert '\n' not in str(caught.value)
