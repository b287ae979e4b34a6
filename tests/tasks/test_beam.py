"""Beam search against all sequences that there are, and what it does when a hypothesis has ended."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tasks import beam
from trainer.tasks.vocabulary import END, PADDING

LENGTH, UNITS = 4, 5


def chain(random, batch):
  """Log-probabilities [B, T, V, V] of the next symbol given place and symbol before it."""
  return np.log(random.dirichlet(np.full(UNITS, 0.5), (batch, LENGTH, UNITS))).clip(-50).astype(np.float32)


def found(table, width, penalty=0.0, xla=False):
  batch = len(table)
  rows = tf.repeat(tf.constant(table), width, axis=0)

  def step(state, last, ids, place):
    # The state counts the places, and holds the symbol before, so that a mistake in moving it is seen.
    logits = tf.gather(tf.gather(rows, place, axis=1), last, batch_dims=1)
    tf.debugging.assert_equal(state['count'], tf.fill(tf.shape(last), place))
    before = tf.gather(tf.pad(ids, [[0, 0], [1, 0]]), place, axis=1)
    return logits + tf.where(before == last, 0.0, -np.inf)[:, tf.newaxis], {'count': state['count'] + 1}

  @tf.function(autograph=False, jit_compile=xla)
  def search():
    state = {'count': tf.zeros([batch * width], tf.int32)}
    return beam.search(step, state, batch, beam=width, length=LENGTH, penalty=penalty)

  ids, scores = search()
  return ids.numpy(), scores.numpy()


def log_softmax(table):
  """Without PADDING, which is no symbol, but after a softmax over all."""
  return table - np.log(np.exp(table.astype(np.float64)).sum(axis=-1, keepdims=True))


def every(table, penalty):
  """(score, ids) of every sequence of one example."""
  table = log_softmax(table)
  for size in range(1, LENGTH + 1):
    for body in itertools.product(range(2, UNITS), repeat=size - 1):
      for last in range(1, UNITS) if size == LENGTH else [END]:
        row, before, score = [*body, last], PADDING, 0.0
        for place, symbol in enumerate(row):
          score, before = score + table[place, before, symbol], symbol
        yield score / ((5 + size) / 6) ** penalty, row + [PADDING] * (LENGTH - size)


@pytest.mark.parametrize('penalty', [0.0, 0.8])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_a_wide_beam_finds_the_best_of_all(penalty, seed):
  table = chain(np.random.default_rng(seed), 2)
  ids, scores = found(table, 120, penalty)
  for row, score, each in zip(ids, scores, table, strict=True):
    best, best_row = max(every(each, penalty))
    assert score == pytest.approx(best, rel=1e-4)
    assert row.tolist() == best_row


@pytest.mark.parametrize('xla', [False, True])
def test_a_beam_of_one_takes_the_likeliest_symbol_each_time(xla):
  table = chain(np.random.default_rng(1), 20)
  ids, scores = found(table, 1, xla=xla)
  for row, score, each in zip(ids, scores, log_softmax(table), strict=True):
    before, total, expected = PADDING, 0.0, [PADDING] * LENGTH
    for place in range(LENGTH):
      symbol = 1 + int(np.argmax(each[place, before, 1:]))
      total += each[place, before, symbol]
      expected[place] = before = symbol
      if symbol == END:
        break
    assert row.tolist() == expected
    assert score == pytest.approx(total, rel=1e-4)


def test_a_wider_beam_is_not_worse_and_xla_finds_the_same():
  table = chain(np.random.default_rng(2), 30)
  narrow, wide = found(table, 1)[1], found(table, 4)
  assert np.all(wide[1] >= narrow - 1e-5) or np.mean(wide[1]) > np.mean(narrow)
  assert np.mean(wide[1]) > np.mean(narrow)
  again = found(table, 4, xla=True)
  np.testing.assert_array_equal(again[0], wide[0])


def test_longer_ones_win_with_a_penalty():
  """END at once has a probability of .5; two symbols and then END have .4."""
  table = np.full([1, LENGTH, UNITS, UNITS], -50.0, np.float32)
  table[0, 0, PADDING, [END, 2]] = np.log([0.5, 0.5])
  table[0, 1, 2, 3] = table[0, 2, 3, 4] = 0.0
  table[0, 3, 4, [END, 2]] = np.log([0.8, 0.2])
  assert found(table, 3)[0].tolist() == [[END, PADDING, PADDING, PADDING]]
  assert found(table, 3, penalty=1.0)[0].tolist() == [[2, 3, 4, END]]
