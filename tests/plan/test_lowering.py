"""Random numbers of a step that is lowered for a TPU are made by its own generator, and are as many and as even."""

import importlib.util

import pytest
import tensorflow as tf

from tests.plan.test_making import config
from trainer.plan import chips, compiler, lowering, making

needs_tpu = pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='the compiler for TPUs is not installed')


@pytest.fixture(scope='module')
def built():
  session, batch_spec = making._built(config(model__dropout=0.5), 'tpu', 1)
  return session.train_step(1), batch_spec


@pytest.mark.parametrize(('device', 'own'), [('tpu', True), ('gpu', False), ('cpu', False)])
def test_only_a_tpu_has_its_own(built, device, own):
  text = lowering.Lowered(*built, device).text()
  assert ('algorithm=rng_three_fry' in text) == own and ('algorithm=rng_philox' in text) != own


@needs_tpu
def test_the_compiler_for_tpus_takes_its_own(built):
  lowered = lowering.Lowered(*built, 'tpu')
  assert 'algorithm=rng_default' in compiler.compiled(lowered.serialized(), chips.target('v5e:1')).text


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_floats_are_even(dtype):
  @tf.function(jit_compile=True, autograph=False)
  def draw(seed):
    with lowering._own_generator():
      return tf.random.stateless_uniform([200, 500], seed, dtype=dtype)

  drawn = tf.cast(draw(tf.constant([1, 2])), tf.float32)
  assert drawn.shape == [200, 500] and tf.reduce_min(drawn) >= 0 and tf.reduce_max(drawn) <= 1
  for share in (0.1, 0.5, 0.9):
    assert tf.reduce_mean(tf.cast(drawn < share, tf.float32)).numpy() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize('dtype', [tf.uint32, tf.int32, tf.int64])
def test_integers_take_every_bit(dtype):
  @tf.function(jit_compile=True, autograph=False)
  def draw(seed):
    with lowering._own_generator():
      return tf.random.stateless_uniform([64], seed, None, None, dtype)

  drawn = draw(tf.constant([1, 2]))
  assert drawn.dtype == dtype
  unsigned = tf.bitcast(drawn, tf.uint32 if dtype.size == 4 else tf.uint64)
  either = [0, 0]  # of the bits that were ever set, and ever clear
  for value in unsigned.numpy().tolist():
    either = [either[0] | value, either[1] | ~value & (2 ** (8 * dtype.size) - 1)]
  assert either == [2 ** (8 * dtype.size) - 1] * 2
