"""Mixup: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.

Each example is mixed with its neighbour, the examples 2k and 2k + 1 of a batch with each other, in a share of its own.
The order of the examples is random, so a neighbour is as good as any; and it is the same one whatever the number of
replicas, hosts and micro-batches, as long as each replica has an even number of examples.

Dimensions: B batch, Q points of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least

FIELDS: dict[str, Field] = {
  'mixup': Field(0.0, 'examples are mixed in shares of Beta(mixup, mixup) when training; 0: not at all', at_least(0)),
}
_POINTS = 4097
_HALVINGS = 60  # more than a float64 has digits


def draws(fields: Any) -> int:
  """Uniform numbers that one example takes."""
  return int(bool(fields.mixup))


def quantiles(alpha: float) -> np.ndarray:
  """The quantile function of Beta(alpha, alpha) at Q equal steps from 0 to 1, float32, found by bisection.

  TensorFlow draws from a beta distribution by rejection, which takes no number that is given.
  """
  wanted = np.linspace(0.0, 1.0, _POINTS)
  low, high = np.zeros(_POINTS), np.ones(_POINTS)
  for _ in range(_HALVINGS):
    middle = (low + high) / 2
    below = tf.math.betainc(tf.constant(alpha, tf.float64), tf.constant(alpha, tf.float64), middle).numpy() < wanted
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  high[0] = 0.0  # which bisection comes near, and does not reach
  return high.astype(np.float32)


def mix(batch: Mapping[str, Any], draws_B: tf.Tensor, table_Q: np.ndarray) -> dict[str, Any]:
  """Mixes neighbours.

  Args:
    batch: 'inputs' float [B, ...] and 'targets' [B, ...], and whatever else, which stays.
    draws_B: float32 [B] in [0, 1); 0.5 leaves an example as it is.
    table_Q: from `quantiles`.

  Returns:
    The batch with mixed inputs, and with 'mixed_targets', the neighbour's, and 'mixed_share' float32 [B], the share
    that is the example's own.

  Raises:
    ConfigError: B is odd, so that somebody has no neighbour.
  """
  if (batch['inputs'].shape[0] or 0) % 2:
    raise ConfigError(
      f'task.mixup mixes pairs of examples, but a replica has {batch["inputs"].shape[0]} of them in a batch: make '
      'train.global_batch_size a multiple of twice the replicas'
    )
  # Moved round by a half, so that a draw of 0.5 mixes nothing.
  place = ((draws_B + 0.5) % 1.0) * (len(table_Q) - 1)
  below = tf.floor(place)
  index = tf.cast(below, tf.int32)
  left, right = (tf.gather(table_Q, tf.minimum(index + step, len(table_Q) - 1)) for step in (0, 1))
  share_B = 1.0 - (left + (place - below) * (right - left))
  inputs = batch['inputs']
  share = tf.reshape(share_B, [-1] + [1] * (inputs.shape.rank - 1))
  mixed = share * inputs + (1.0 - share) * _neighbours(inputs)
  return {**batch, 'inputs': mixed, 'mixed_targets': _neighbours(batch['targets']), 'mixed_share': share_B}


def _neighbours(tensor: tf.Tensor) -> tf.Tensor:
  """[B, ...], with 2k and 2k + 1 in each other's place."""
  pairs = tf.reshape(tensor, [-1, 2, *tensor.shape[1:]])
  return tf.reshape(tf.reverse(pairs, [1]), [-1 if size is None else size for size in tensor.shape])
