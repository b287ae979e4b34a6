"""The step computes the same on any number of replicas, in any number of micro-batches, compiled or not."""

import numpy as np
import pytest
import tensorflow as tf

from tests.train import small_run
from trainer.train.step import FACTS


def column(run, name):
  if name in FACTS:
    return run.rows.fact(name)
  return run.rows.sum(name)


def losses(run):
  return column(run, 'loss') / column(run, 'weight')


@pytest.fixture(scope='module')
def one_replica():
  return {norm: small_run.train(1, norm=norm) for norm in ('group', 'sync_batch')}


@pytest.mark.parametrize(
  ('replicas', 'micro_batches', 'xla'),
  [(1, 4, False), (2, 1, False), (4, 1, False), (2, 4, False), (2, 4, True), (1, 1, True)],
)
def test_replicas_and_micro_batches_change_nothing(one_replica, replicas, micro_batches, xla):
  expected = one_replica['group']
  run = small_run.train(replicas, micro_batches=micro_batches, xla=xla, norm='group')
  np.testing.assert_allclose(losses(run), losses(expected), rtol=1e-5)
  for name in ('weight', 'regularization', 'gradient_norm', 'learning_rate'):
    np.testing.assert_allclose(column(run, name), column(expected, name), rtol=2e-5, err_msg=name)
  for name, value in expected.state.snapshot().items():
    if name.startswith(('model/', 'ema/')):
      np.testing.assert_allclose(run.state.snapshot()[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('replicas', [1, 2])
def test_weights_are_averaged(replicas):
  runs = [small_run.train(replicas, steps=steps) for steps in (1, 2, 3)]
  first, *following = (run.state.snapshot() for run in runs)
  for path in (variable.path for variable in runs[0].state.trainable):
    average = first[f'ema/{path}']
    for step, after in enumerate(following, start=2):
      average = average + (after[f'model/{path}'] - average) * (1 - min(0.9, (1 + step) / (10 + step)))
      np.testing.assert_allclose(after[f'ema/{path}'], average, rtol=1e-5, atol=1e-7, err_msg=path)
    assert not np.allclose(average, after[f'model/{path}'], rtol=1e-4), path


@pytest.mark.parametrize('replicas', [2, 4])
def test_synchronized_statistics_do_not_depend_on_the_replicas(one_replica, replicas):
  run = small_run.train(replicas, norm='sync_batch')
  np.testing.assert_allclose(losses(run), losses(one_replica['sync_batch']), rtol=1e-5)


@pytest.mark.parametrize('norm', ['batch', 'sync_batch'])
def test_every_replica_holds_the_same_bytes(norm):
  run = small_run.train(2, steps=5, norm=norm, dropout=0.3)
  for name, variable in run.state.variables.items():
    first, *others = run.strategy.experimental_local_results(variable.value)
    assert all(np.array_equal(first.numpy(), other.numpy()) for other in others), name
  moved = run.state.variables['model/small/norm/moving_mean'].numpy()
  assert np.abs(moved).max() > 0, 'the moving statistics were updated'


def test_moving_statistics_are_the_mean_over_the_replicas():
  alone = small_run.train(1, steps=1, norm='batch')
  pair = small_run.train(2, steps=1, norm='batch')
  name = 'model/small/norm/moving_mean'
  np.testing.assert_allclose(pair.state.snapshot()[name], alone.state.snapshot()[name], rtol=1e-5)


def test_one_device_strategy_is_the_default_strategy():
  """A GPU of its own runs under the former, a CPU under the latter."""
  default = small_run.train(1, steps=12, dropout=0.3, norm='batch')
  one = small_run.train(1, steps=12, dropout=0.3, norm='batch', on=tf.distribute.OneDeviceStrategy('CPU:0'))
  np.testing.assert_array_equal(one.rows.main, default.rows.main)
  for name, value in default.state.snapshot().items():
    np.testing.assert_array_equal(one.state.snapshot()[name], value, err_msg=name)


def test_blocks_change_nothing():
  whole = small_run.train(2, steps=12, dropout=0.3, norm='group', block=12)
  parts = small_run.train(2, steps=12, dropout=0.3, norm='group', block=5)
  np.testing.assert_array_equal(whole.rows.main, parts.rows.main)
  for name, value in whole.state.snapshot().items():
    np.testing.assert_array_equal(parts.state.snapshot()[name], value, err_msg=name)


@pytest.mark.parametrize('replicas', [1, 2, 4])
def test_overflow_on_one_replica_skips_the_step_on_all(replicas):
  alone = small_run.train(1, policy='mixed_float16', spike=1e4, steps=30)
  skipped = np.flatnonzero(column(alone, 'finite') == 0)
  assert len(skipped) and len(skipped) < 30, 'the spike must overflow in some step, and not in all'
  run = small_run.train(replicas, policy='mixed_float16', spike=1e4, steps=30, micro_batches=1)
  np.testing.assert_array_equal(np.flatnonzero(column(run, 'finite') == 0), skipped)
  np.testing.assert_array_equal(column(run, 'loss_scale'), column(alone, 'loss_scale'))
  assert all(np.isfinite(value).all() for value in run.state.snapshot().values())


def test_a_step_that_is_skipped_changes_nothing_but_the_loss_scale():
  before = small_run.train(1, policy='mixed_float16', spike=1e4, steps=10)  # the spike is in batch 10, counted from 0
  after = small_run.train(1, policy='mixed_float16', spike=1e4, steps=11)
  assert column(after, 'finite')[10] == 0
  for name, value in before.state.snapshot().items():
    if not name.startswith('loss_scale/'):
      np.testing.assert_array_equal(after.state.snapshot()[name], value, err_msg=name)
  assert after.state.snapshot()['loss_scale/scale'] == before.state.snapshot()['loss_scale/scale'] / 2


def test_clipping_bounds_the_norm_of_the_reduced_gradient():
  """With SGD-like reasoning: the norm in the row is before clipping, and is that of the mean over the global batch."""
  one, two = small_run.train(1, steps=3, clip_norm=1e-6), small_run.train(2, steps=3, clip_norm=1e-6)
  np.testing.assert_allclose(column(one, 'gradient_norm'), column(two, 'gradient_norm'), rtol=1e-5)
  for name in one.state.snapshot():
    np.testing.assert_allclose(
      one.state.snapshot()[name], two.state.snapshot()[name], rtol=2e-3, atol=1e-6, err_msg=name
    )


def test_dropout_differs_between_replicas_and_repeats_with_the_seed():
  first, again = (small_run.train(2, steps=4, dropout=0.5) for _ in range(2))
  np.testing.assert_array_equal(first.rows.main, again.rows.main)
  # Both replicas see the same examples with the same weights; only their masks can tell them apart.
  masks = small_run.replica_losses_on_equal_examples(dropout=0.5)
  assert masks[0] != masks[1]
  plain = small_run.replica_losses_on_equal_examples(dropout=0.0)
  assert plain[0] == plain[1]
