"""Normalisation layers by name.

`batch` takes the statistics of the replica's own examples, so what it computes depends on the number of replicas;
`sync_batch` takes those of the global batch (and cannot be compiled by XLA, except on TPU); `group` and `layer` look at
one example at a time and depend on nothing else.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.fields import Rule, one_of

MAX_GROUPS = 32
MIN_GROUP_CHANNELS = 8


@keras.saving.register_keras_serializable('trainer')
class BatchNormalization(keras.layers.BatchNormalization):
  """Keras' layer; in training it takes the statistics by the one operation that TensorFlow has for images.

  Keras makes them of single operations, each of which goes through all of the maps. `fused` turns it off. Statistics,
  and what is normalised with them, are float32 inside, whatever the dtype of the maps.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.fused = True

  def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
    """[B, H, W, C] -> the same; other ranks, masks, and statistics that are given are Keras' own."""
    maps = len(inputs.shape) == 4 and self.axis in (-1, 3) and self.scale and self.center and mask is None
    if not (training and self.trainable and self.fused and maps and not self.synchronized):
      return super().call(inputs, training=training, mask=mask)
    x = tf.cast(inputs, self.compute_dtype)
    scale, offset = (tf.cast(tf.convert_to_tensor(part), tf.float32) for part in (self.gamma, self.beta))
    empty = tf.zeros([0])
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
      x=x, scale=scale, offset=offset, mean=empty, variance=empty, epsilon=self.epsilon, is_training=True
    )
    # The operation gives the variance of the population that the batch was drawn from, Keras keeps that of the batch.
    count = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    variance *= (count - 1.0) / count
    for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
      moving.assign(moving * self.momentum + tf.cast(value, moving.dtype) * (1.0 - self.momentum))
    return outputs


def rule(*names: str) -> Rule:
  """The rule of a field that names one of these normalisations."""
  return one_of(*names)


def groups(channels: int) -> int:
  """Number of groups for GroupNormalization.

  The largest divisor of `channels` that is at most 32 (Wu and He, 2018, section 4.1) and leaves at least 8 channels in
  a group; 1 when there is none. Narrow layers so get fewer groups, instead of groups of one channel, which would be
  instance normalisation.
  """
  most = min(MAX_GROUPS, channels // MIN_GROUP_CHANNELS)
  return max((count for count in range(1, most + 1) if channels % count == 0), default=1)


def layer(
  kind: str, channels: int, name: str, *, momentum: float = 0.99, epsilon: float = 1e-3, scale: str = 'ones'
) -> keras.layers.Layer | None:
  """The normalisation `kind` of a tensor [B, ..., channels]; None for 'none'.

  `layer` normalises over the channels at each position, `group` over positions and the channels of a group, the batch
  kinds over examples and positions.

  Args:
    kind: one of the names above, or 'none'.
    channels: size of the last dimension.
    name: of the layer.
    momentum: share of the moving statistics that a step keeps; of the batch kinds alone.
    epsilon: what is added to the variance. The defaults are Keras' own.
    scale: initialiser of the scale by name.
  """
  options = {'epsilon': epsilon, 'gamma_initializer': scale, 'name': name}
  match kind:
    case 'none':
      return None
    case 'batch':
      return BatchNormalization(momentum=momentum, **options)
    case 'sync_batch':
      return keras.layers.BatchNormalization(momentum=momentum, synchronized=True, **options)
    case 'group':
      return keras.layers.GroupNormalization(groups=groups(channels), **options)
    case 'layer':
      return keras.layers.LayerNormalization(**options)
  raise ValueError(f'unknown normalisation {kind!r}')
