"""Normalisation layers by name.

`batch` takes the statistics of the replica's own examples, so what it computes depends on the number of replicas;
`sync_batch` takes those of the global batch (and cannot be compiled by XLA, except on TPU); `group` and `layer` look at
one example at a time and depend on nothing else.
"""

from __future__ import annotations

import keras

from trainer.fields import Rule, one_of

MAX_GROUPS = 32
MIN_GROUP_CHANNELS = 8


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
      return keras.layers.BatchNormalization(momentum=momentum, **options)
    case 'sync_batch':
      return keras.layers.BatchNormalization(momentum=momentum, synchronized=True, **options)
    case 'group':
      return keras.layers.GroupNormalization(groups=groups(channels), **options)
    case 'layer':
      return keras.layers.LayerNormalization(**options)
  raise ValueError(f'unknown normalisation {kind!r}')
