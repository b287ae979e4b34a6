"""A state in slices is trained, saved and restored as a whole one is, and takes 1/N of the memory."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.train import small_run
from trainer.errors import ConfigError
from trainer.optim import optimizers, sharding


@functools.cache
def run(replicas, shard, **options):
  return small_run.train(replicas, shard=shard, **options)


def losses(found):
  return found.rows.sum('loss') / found.rows.sum('weight')


@pytest.mark.parametrize(('replicas', 'xla'), [(1, False), (2, True), (4, False)])
def test_losses_and_state_are_those_of_a_whole_state(replicas, xla):
  whole, sliced = run(1, False), run(replicas, True, xla=xla)
  np.testing.assert_allclose(losses(sliced), losses(whole), rtol=1e-5)
  np.testing.assert_allclose(sliced.rows.squares, whole.rows.squares, rtol=1e-3, atol=1e-6)
  assert sliced.state.expected() == whole.state.expected()
  expected, found = whole.state.snapshot(), sliced.state.snapshot()
  for name, array in expected.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_how_much_travels_together_changes_nothing():
  one, many = run(2, True, xla=True), run(2, True, bucket=100)
  assert len(one.state.sharding.buckets) == 1 and len(many.state.sharding.buckets) > 2
  np.testing.assert_allclose(losses(many), losses(one), rtol=1e-5)
  for name, array in one.state.snapshot().items():
    np.testing.assert_allclose(many.state.snapshot()[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16'])
def test_weights_live_in_the_dtype_that_is_computed_with(policy):
  whole, sliced = run(2, False, policy=policy), run(2, True, policy=policy)
  np.testing.assert_allclose(losses(sliced), losses(whole), rtol=2e-3)
  stored = {v.path: v.value.dtype.name for v in sliced.state.trainable}
  assert stored['small/conv/bias'] == policy.removeprefix('mixed_') and stored['small/logits/kernel'] == 'float32'
  assert sliced.state.snapshot()['model/small/conv/kernel'].dtype == np.float32


def test_the_memory_of_the_float32_weights_is_given_back(monkeypatch):
  release, handles = sharding.release, []

  def keep(variable):
    handles.extend(component.handle for component in sharding._components(variable))
    release(variable)

  monkeypatch.setattr(sharding, 'release', keep)
  state = small_run.train(2, shard=True, policy='mixed_bfloat16', steps=1).state
  shorter = [v for v in state.trainable if v.value.dtype == 'bfloat16']
  assert len(handles) == 2 * len(shorter) > 0
  state.release()
  handles += [component.handle for v in (*state.trainable, *state.ema) for component in sharding.components(v)]
  for handle in handles:
    (found,) = handle._handle_data.shape_and_type
    assert tf.raw_ops.ReadVariableOp(resource=handle, dtype=found.dtype).shape == (0,)


ABLE = sorted(set(optimizers.table()) - set(sharding.UNABLE))


@pytest.mark.parametrize(
  'name', [name if name in ('adamw', 'sgd') else pytest.param(name, marks=pytest.mark.slow) for name in ABLE]
)
def test_every_optimizer_that_works_by_element(name):
  whole, sliced = run(1, False, optimizer=name, steps=12), run(2, True, optimizer=name, steps=12)
  np.testing.assert_allclose(losses(sliced), losses(whole), rtol=1e-5)
  expected, found = whole.state.snapshot(), sliced.state.snapshot()
  assert found.keys() == expected.keys()
  for key in (key for key in expected if key.startswith('optimizer/')):
    np.testing.assert_allclose(found[key], expected[key], rtol=2e-3, atol=1e-5, err_msg=key)


def test_the_others_are_refused_by_name():
  with pytest.raises(ConfigError, match=r'optimizer\.shard_state: lamb looks at the norm of a variable'):
    sharding.check('lamb')
  bound = keras.Variable(np.ones((2, 2)), name='bound')
  bound.constraint = keras.constraints.MaxNorm()
  with pytest.raises(ConfigError, match='bound has a constraint'):
    sharding.check('adam', [bound])


@pytest.mark.parametrize('replicas', [2, 4])
def test_each_replica_holds_its_part(replicas):
  whole, sliced = run(1, False).state, run(replicas, True).state
  parts = whole.held_bytes(), sliced.held_bytes()
  variables = len(whole.trainable)
  for part, count in (('optimizer', 2), ('ema', 1), ('masters', 1)):
    all_of_it = parts[0]['weights' if part == 'masters' else part]
    padding = 4 * count * variables * (replicas - 1)
    assert all_of_it <= replicas * parts[1][part] <= all_of_it + padding + 64 * replicas, part
  # Counted from what TensorFlow has on one device.
  for variable in sliced.ema:
    sizes = {int(np.prod(c.shape)) for c in sharding.components(variable)}
    assert len(sharding.components(variable)) == replicas and sizes == {int(variable.shape[0])}


@pytest.mark.parametrize(
  ('before', 'after'), [((4, True), (1, False)), ((1, False), (4, True)), ((4, True), (2, True))]
)
def test_a_checkpoint_moves_between_them(before, after):
  arrays = run(*before).state.snapshot()
  moved = small_run.train(after[0], shard=after[1], steps=1)
  moved.state.restore(arrays)
  for name, array in moved.state.snapshot().items():
    np.testing.assert_array_equal(array, arrays[name], err_msg=name)
  for variable in moved.state.trainable:
    for component in sharding.components(variable):
      np.testing.assert_array_equal(component.numpy(), arrays[f'model/{variable.path}'])


@pytest.mark.parametrize('shard', [False, True])
def test_an_average_is_evaluated_and_the_weights_come_back(shard):
  state = run(2, shard).state
  before = state.snapshot()
  with state.averaged():
    for parameter, variable in zip(state.trainable, state.evaluated, strict=True):
      path = parameter.path
      for component in sharding.components(variable):
        np.testing.assert_array_equal(component.numpy(), before[f'ema/{path}'])
  for variable in state.trainable:
    np.testing.assert_array_equal(sharding.local(variable).numpy(), before[f'model/{variable.path}'])
