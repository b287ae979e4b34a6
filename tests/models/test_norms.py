"""How many groups a group normalisation gets; and batch statistics by one operation are those of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer.models import norms


@given(st.integers(1, 4096))
def test_groups_share_the_channels_evenly(channels):
  groups = norms.groups(channels)
  assert 1 <= groups <= norms.MAX_GROUPS
  assert channels % groups == 0
  assert groups == 1 or channels // groups >= norms.MIN_GROUP_CHANNELS


@pytest.mark.parametrize(('channels', 'groups'), [(4, 1), (16, 2), (32, 4), (48, 6), (64, 8), (256, 32), (1024, 32)])
def test_groups_are_as_many_as_the_rule_allows(channels, groups):
  assert norms.groups(channels) == groups


def test_unknown_kind_is_an_error():
  with pytest.raises(ValueError, match='instance'):
    norms.layer('instance', 8, 'norm')


def trained(fused: bool, dtype: str, xla: bool) -> list[np.ndarray]:
  """Outputs, moving statistics and gradients of a layer after one batch [6, 5, 5, 4]."""
  layer = norms.layer('batch', 4, 'norm')
  layer.dtype_policy = keras.DTypePolicy(dtype)
  layer.fused = fused
  layer.build((None, 5, 5, 4))
  layer.gamma.assign([0.5, 1.0, 1.5, 2.0])
  x = tf.constant(np.random.default_rng(0).normal(3.0, 2.0, (6, 5, 5, 4)), tf.float32)

  @tf.function(jit_compile=xla, autograph=False)
  def step(x):
    parameters, buffers = (
      [v.value for v in each] for each in (layer.trainable_variables, layer.non_trainable_variables)
    )
    with tf.GradientTape() as tape:
      tape.watch([x, *parameters])
      outputs, after = layer.stateless_call(parameters, buffers, x, training=True)
      loss = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float32)))
    return outputs, after, tape.gradient(loss, [x, *parameters])

  return [np.asarray(tf.cast(part, tf.float32)) for part in tf.nest.flatten(step(x))]


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 2e-4), ('mixed_bfloat16', 0.05)])
def test_one_operation_gives_what_keras_gives(dtype, tolerance, xla):
  ours, keras_own = trained(True, dtype, xla), trained(False, dtype, xla)
  assert len(ours) == 1 + 2 + 3
  for a, b in zip(ours, keras_own, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_what_the_operation_is_not_for_is_left_to_keras():
  layer = norms.layer('batch', 4, 'norm')
  x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  np.testing.assert_allclose(layer(x, training=True).numpy().mean(axis=0), np.zeros(4), atol=1e-6)
  restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
  assert isinstance(restored, norms.BatchNormalization) and restored.fused
