"""Attention rollout: Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020, section 3.

Dimensions: N heads, T places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.explain.attribution import Attribution
from trainer.explain.network import Called
from trainer.models.attention import Attention


def rollout(layers: Sequence[np.ndarray], rows: np.ndarray) -> Attribution:
  """How much of each place of the inputs the last layer's places are made of, if attention were all that mixes them.

  Heads are averaged; half of a place is what it was, for the residual connection; layers are multiplied.

  Args:
    layers: shares [N, T, T] of each layer, the first next to the inputs; each row of T adds up to 1.
    rows: float [T]: which of the last layer's places are asked for, in which shares; they add up to 1.

  Returns:
    [T], shares that add up to 1. The check: 'layers', and 'off', by how much a row of attention misses 1 at most.
  """
  places = layers[0].shape[-1]
  mixed = np.eye(places)
  off = 0.0
  for shares in layers:
    off = max(off, float(np.abs(shares.sum(axis=-1) - 1).max()))
    mean = shares.astype(np.float64).mean(axis=0)
    mixed = (0.5 * mean + 0.5 * np.eye(places)) @ mixed
  return Attribution(rows.astype(np.float64) @ mixed, {'layers': len(layers), 'off': off})


def shares(calls: Sequence[Called]) -> list[tf.Tensor]:
  """float32 [N, T, T] of each self-attention of trainer/models/attention.py that is called, for the first example."""
  found = []
  for each in calls:
    if isinstance(each.layer, Attention):
      masks = {name: each.keywords[name] for name in ('key_mask', 'bias') if name in each.keywords}
      found.append(each.layer.shares(each.args[0], **masks)[0])
  return found
