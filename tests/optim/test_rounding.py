"""Rounding at random keeps the mean; moments and averages in bfloat16 take half the memory and train alike."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis.extra import numpy as arrays

from tests.train import small_run
from trainer.optim import rounding, sharding

FINITE = {'allow_nan': False, 'min_value': -(2.0**100), 'max_value': 2.0**100}


@hypothesis.given(arrays.arrays(np.float32, 17, elements=FINITE))
def test_it_is_a_neighbour(values):
  found = rounding.rounded(tf.constant(values), tf.constant([1, 2])).numpy().astype(np.float32)
  down = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
  up = ((values.view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32)
  exact = down == values
  assert np.all((found == down) | ((found == up) & ~exact))
  again = rounding.rounded(tf.constant(values), tf.constant([1, 2])).numpy().astype(np.float32)
  np.testing.assert_array_equal(again, found)


def test_the_mean_is_the_value():
  values = tf.fill([200_000], 1.0 + 2.0**-7 * 0.3)
  found = rounding.rounded(values, tf.constant([3, 4])).numpy().astype(np.float64)
  assert set(np.unique(found)) == {1.0, 1.0 + 2.0**-7}
  share = (found > 1).mean()
  assert abs(share - 0.3) < 5 * (0.3 * 0.7 / len(found)) ** 0.5
  other = rounding.rounded(values, tf.constant([3, 5])).numpy().astype(np.float64)
  assert 0.3 < (found != other).mean() < 0.54  # another seed rounds others: 2 x .3 x .7 of them


def test_what_is_not_finite_stays_so():
  found = rounding.rounded(tf.constant([np.inf, -np.inf, np.nan]), tf.constant([0, 0])).numpy().astype(np.float32)
  assert found[0] == np.inf and found[1] == -np.inf and not np.isfinite(found[2])


@pytest.mark.slow
@pytest.mark.parametrize(('replicas', 'shard', 'xla'), [(1, False, False), (2, False, True), (2, True, False)])
def test_training_with_moments_and_average_in_bfloat16(replicas, shard, xla):
  full = small_run.train(replicas, shard=shard)
  short = small_run.train(replicas, shard=shard, xla=xla, dtype='bfloat16')
  losses = [run.rows.sum('loss') / run.rows.sum('weight') for run in (full, short)]
  np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
  assert np.abs(losses[1] - losses[0]).max() > 0
  held, half = full.state.held_bytes(), short.state.held_bytes()
  assert half['ema'] * 2 == held['ema'] and half['weights'] == held['weights']
  assert half['optimizer'] < 0.51 * held['optimizer']
  arrays = short.state.snapshot()
  kept = {name: array.dtype.name for name, array in arrays.items() if 'momentum' in name or name.startswith('ema/')}
  assert kept and set(kept.values()) == {'bfloat16'}
  for name, array in full.state.snapshot().items():
    if name.startswith('ema/'):
      assert np.abs(arrays[name].astype(np.float32) - array).mean() < 0.1 * np.abs(array).mean() + 0.01, name
  if not shard:
    for variable in short.state.variables.values():
      first, *others = (component.numpy() for component in sharding.components(variable))
      assert all(np.array_equal(first, other) for other in others), variable.path
  moved = small_run.train(1, shard=not shard, steps=1, dtype='bfloat16').state
  moved.restore(arrays)
  for name, array in moved.snapshot().items():
    np.testing.assert_array_equal(array, arrays[name], err_msg=name)
