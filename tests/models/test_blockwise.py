"""Attention by blocks of keys is attention: outputs and gradients, with any mask, compiled or not."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.models import blockwise
from trainer.models.attention import Attention

HEADS, HEAD_WIDTH = 2, 4


def parts(places, keys, dtype=tf.float32, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(3, places, 8), (3, keys, 8), (3, keys, 8)]
  return [tf.constant(rng.normal(size=shape, scale=2.0), dtype) for shape in shapes]


def both(layer, inputs, upstream, key_mask=None, xla=False):
  layer.compiled_by_xla = xla

  @tf.function(jit_compile=xla, autograph=False)
  def run():
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = layer(inputs, key_mask=key_mask, training=True)
    return outputs, tape.gradient(outputs, inputs, upstream)

  outputs, gradients = run()
  return [outputs, *gradients]


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize('block', [1, 4, 12, 256])
@pytest.mark.parametrize(('causal', 'masked'), [(False, False), (True, False), (False, True), (True, True)])
def test_it_is_attention(monkeypatch, xla, block, causal, masked):
  monkeypatch.setattr(blockwise, 'BLOCK', block)
  inputs = parts(12, 12)
  upstream = tf.constant(np.random.default_rng(1).normal(size=(3, 12, 8)), tf.float32)
  key_mask = tf.constant([[True] * 12, [True] * 5 + [False] * 7, [True] + [False] * 11]) if masked else None
  plain, blocks = (Attention(HEADS, causal=causal, blocks=blocks) for blocks in (False, True))
  expected = both(plain, inputs, upstream, key_mask)
  for one, other in zip(expected, both(blocks, inputs, upstream, key_mask, xla), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)


def test_keys_of_another_length_shared_heads_and_rotary_positions():
  inputs, upstream = parts(6, 6), tf.ones([3, 6, 8])
  inputs[1:] = [part[..., :4] for part in inputs[1:]]
  settings = {'kv_heads': 1, 'causal': True, 'rotary_base': 100.0}
  plain, blocks = (Attention(HEADS, blocks=blocks, **settings) for blocks in (False, True))
  for one, other in zip(both(plain, inputs, upstream), both(blocks, inputs, upstream), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
  inputs = parts(5, 9)
  plain, blocks = Attention(HEADS), Attention(HEADS, blocks=True)
  for one, other in zip(both(plain, inputs, upstream[:, :5]), both(blocks, inputs, upstream[:, :5]), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow():
  inputs = [100.0 * part for part in parts(8, 8)]
  plain, blocks = Attention(HEADS, causal=True), Attention(HEADS, causal=True, blocks=True)
  for one, other in zip(both(plain, inputs, tf.ones([3, 8, 8])), both(blocks, inputs, tf.ones([3, 8, 8])), strict=True):
    assert np.isfinite(other).all()
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-2)


def test_in_bfloat16_it_is_as_near_as_plain_attention():
  exact = both(Attention(HEADS), parts(16, 16), tf.ones([3, 16, 8]))
  short = parts(16, 16, tf.bfloat16)
  for blocks in (False, True):
    layer = Attention(HEADS, blocks=blocks, dtype='bfloat16')
    for one, other in zip(exact, both(layer, short, tf.ones([3, 16, 8], tf.bfloat16)), strict=True):
      assert other.dtype == tf.bfloat16
      np.testing.assert_allclose(tf.cast(other, tf.float32), one, rtol=0.1, atol=0.1)


def test_a_block_divides_the_keys():
  assert [blockwise.block_size(places) for places in (1, 7, 256, 257, 1024, 300)] == [1, 7, 256, 1, 256, 150]
