"""Each optimizer against Keras' own, and what the harness refuses to hand on to Keras."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim import optimizers, schedules


def settings(**changes):
  fields = {
    'name': 'adamw', 'learning_rate': 0.01, 'schedule': 'cosine', 'warmup_steps': 3, 'decay_steps': 0,
    'end_factor': 0.0,
    'decay_rate': 0.1, 'boundaries': (), 'power': 1.0, 'weight_decay': 0.1, 'decay_all': False, 'options': '',
    'moment_dtype': 'float32',
  }  # fmt: skip
  return SimpleNamespace(**{**fields, **changes})


def dense(seed: int) -> keras.layers.Dense:
  keras.utils.set_random_seed(seed)
  layer = keras.layers.Dense(4, name='dense')
  layer.build((None, 3))
  return layer


def gradients(step: int, variables) -> list[tf.Tensor]:
  random = np.random.default_rng(step)
  return [tf.constant(random.normal(size=v.shape), tf.float32) for v in variables]


@pytest.mark.parametrize('name', sorted(optimizers.table()))
def test_takes_the_steps_of_keras_own(name):
  ours, theirs = dense(0), dense(0)
  config = settings(name=name)
  optimizer = optimizers.create(config, 10, ours.trainable_variables)
  extra = {'adam_weight_decay': 0.1} if name == 'muon' else {}
  reference = optimizers.table()[name](learning_rate=schedules.create(config, 10), weight_decay=0.1, **extra)
  reference.exclude_from_weight_decay(var_list=[theirs.bias])
  reference.build(theirs.trainable_variables)
  for step in range(5):
    optimizer.apply_at(optimizers.learning_rate(optimizer), gradients(step, ours.trainable_variables))
    reference.apply(gradients(step, theirs.trainable_variables))
  for mine, other in zip(ours.weights, theirs.weights, strict=True):
    np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-6, atol=1e-7)
  assert int(optimizer.iterations.numpy()) == 5
  assert len(optimizer.variables) == len(reference.variables), 'Keras keeps state that ours does not, or the reverse'


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('name', ['sgd', 'adamw', 'nadam', 'muon', 'adafactor'])
def test_compiles_whole(name, jit_compile):
  eager, compiled = dense(1), dense(1)
  one = optimizers.create(settings(name=name), 10, eager.trainable_variables)
  two = optimizers.create(settings(name=name), 10, compiled.trainable_variables)
  apply = tf.function(two.apply, jit_compile=jit_compile)
  for step in range(3):
    one.apply(gradients(step, eager.trainable_variables))
    apply(gradients(step, compiled.trainable_variables))
  np.testing.assert_allclose(eager.kernel.numpy(), compiled.kernel.numpy(), rtol=1e-4, atol=1e-6)


def test_the_count_of_steps_is_read_once():
  layer = dense(1)
  optimizer = optimizers.create(settings(), 10, layer.trainable_variables)
  count = optimizer.iterations.value

  @tf.function
  def apply(*found):
    optimizer.apply_at(tf.constant(0.1), list(found))

  graph = apply.get_concrete_function(*gradients(0, layer.trainable_variables)).graph
  (captured,) = [inner for outer, inner in graph.captures if outer is count.handle]
  reads = [op for op in captured.consumers() if op.type == 'ReadVariableOp']
  assert len(reads) <= 2, 'once for all variables, and once to count up'
  assert optimizer.iterations.value is count, 'outside of an update it is the variable'


def test_weight_decay_spares_biases_unless_told_otherwise():
  for decay_all in (False, True):
    layer = dense(2)
    layer.bias.assign(np.ones(4, 'float32'))
    optimizer = optimizers.create(
      settings(name='sgd', schedule='constant', warmup_steps=0, decay_all=decay_all), 10, layer.trainable_variables
    )
    before = layer.kernel.numpy()
    optimizer.apply([tf.zeros([3, 4]), tf.zeros([4])])
    np.testing.assert_allclose(layer.kernel.numpy(), before * (1 - 0.01 * 0.1), rtol=1e-6)
    np.testing.assert_allclose(layer.bias.numpy(), 1 - 0.01 * 0.1 * decay_all, rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'complaint'),
  [
    ('{"beta_1"', 'not JSON'),
    ('[1]', 'must be a JSON object'),
    ('{"clipnorm": 1}', 'optimizer.clip_norm'),
    ('{"gradient_accumulation_steps": 2}', 'train.micro_batches'),
  ],
)
def test_options_that_are_not_keras_business(options, complaint):
  assert complaint in optimizers.check_options(options)


def test_unknown_option_names_the_nearest():
  with pytest.raises(ConfigError, match=r"'beta_1x'.*did you mean 'beta_1'"):
    optimizers.create(settings(options='{"beta_1x": 0.5}'), 10, dense(0).trainable_variables)


def test_unknown_optimizer_names_the_nearest():
  assert "did you mean 'adamw'" in optimizers.check_name('adamww')
  assert optimizers.check_name('adamw') == ''


@pytest.mark.parametrize('name', sorted(optimizers.table()))
def test_needs_no_weight_decay(name):
  layer = dense(3)
  optimizer = optimizers.create(settings(name=name, weight_decay=0.0), 10, layer.trainable_variables)
  optimizer.apply(gradients(0, layer.trainable_variables))
  assert np.isfinite(layer.kernel.numpy()).all()
