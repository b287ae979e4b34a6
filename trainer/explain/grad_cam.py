"""Grad-CAM: Selvaraju et al., Visual Explanations from Deep Networks via Gradient-based Localization, 2017, section 3.

Dimensions: h, w places of a convolutional layer, K its channels; H, W places of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.explain.attribution import Attribution
from trainer.explain.network import Call, Called, Target, gradients
from trainer.fields import nearest

_CONVOLUTIONS = (
  keras.layers.Conv1D,
  keras.layers.Conv2D,
  keras.layers.DepthwiseConv1D,
  keras.layers.DepthwiseConv2D,
  keras.layers.SeparableConv1D,
  keras.layers.SeparableConv2D,
)
# Behind a convolution these belong to it, where they keep its shape.
_PARTS = (
  keras.layers.Activation,
  keras.layers.Add,
  keras.layers.BatchNormalization,
  keras.layers.Dropout,
  keras.layers.GroupNormalization,
  keras.layers.LayerNormalization,
  keras.layers.ReLU,
  keras.layers.SpatialDropout2D,
)


def grad_cam(call: Call, activations: np.ndarray, target: Target, *, size: tuple[int, int]) -> Attribution:
  """Where a convolutional layer sees what speaks for the target: equations 1 and 2, enlarged by straight lines.

  Args:
    call: from what the layer gives, [1, h, w, K], to outputs (`Network.beyond`).
    activations: float32 [1, h, w, K], or [1, h, K] of a sequence.
    target: from outputs to a number each.
    size: (H, W); of a sequence (H, W) too, where H is its length and each place is repeated W times.

  Returns:
    [H, W], not below 0. The check: the 'size' of the layer, and 'negative', the share of the map that equation 2 cuts
    off because it speaks against.
  """
  slope = gradients(call, target, activations).astype(np.float64)
  places = tuple(range(1, activations.ndim - 1))
  weights_K = slope.mean(axis=places)[0]
  raw = activations[0].astype(np.float64) @ weights_K
  raw_hw = raw if raw.ndim == 2 else raw[:, np.newaxis]
  above_hw = np.maximum(raw_hw, 0.0)
  total = np.abs(raw_hw).sum()
  values = tf.image.resize(above_hw[..., np.newaxis].astype(np.float32), size, 'bilinear')[..., 0].numpy()
  negative = float(1.0 - above_hw.sum() / total) if total else 0.0
  return Attribution(values.astype(np.float64), {'size': list(raw_hw.shape), 'negative': negative})


def layer(calls: Sequence[Called], name: str) -> Called | None:
  """The call whose output is looked at: that of the named layer; else the last convolution, with its activation.

  A convolution over patches that do not overlap is how a transformer begins, and the last layer of all gives the
  outputs: neither counts.

  Args:
    calls: of one example.
    name: of a layer; empty: found by itself.

  Returns:
    None where there is none.

  Raises:
    ConfigError: there is no layer of that name, or it is called several times, or gives no [h, w, K].
  """
  if name:
    named = [each for each in calls if each.layer.name == name]
    if not named:
      known = [each.layer.name for each in calls if _is_map(each.output)]
      raise ConfigError(f'explain.layer={name!r} is no layer of the model{nearest(name, known)}')
    if len(named) > 1 or not _is_map(named[0].output):
      raise ConfigError(
        f'explain.layer={name!r} is called {len(named)} times, with outputs of shape '
        f'{tuple(getattr(named[0].output, "shape", ()))}: name a layer that gives channels at each place once'
      )
    return named[0]
  leaves = [each for each in calls if not each.layer._layers]
  found: int | None = None
  for place, each in enumerate(leaves[:-1]):
    if isinstance(each.layer, _CONVOLUTIONS) and _is_map(each.output) and not _cuts_patches(each.layer):
      found = place
  if found is None:
    return None
  while (
    found + 2 < len(leaves)
    and isinstance(leaves[found + 1].layer, _PARTS)
    and tuple(leaves[found + 1].output.shape) == tuple(leaves[found].output.shape)
  ):
    found += 1
  return leaves[found]


def _is_map(output: object) -> bool:
  """Whether a layer gives floats [1, h, w, K] or [1, h, K] at more than one place."""
  shape = tuple(getattr(output, 'shape', ()))
  return (
    isinstance(output, tf.Tensor)
    and output.dtype.is_floating
    and len(shape) in (3, 4)
    and int(np.prod(shape[1:-1])) > 1
  )


def _cuts_patches(layer: keras.layers.Layer) -> bool:
  return tuple(layer.kernel_size) == tuple(layer.strides) and int(np.prod(layer.kernel_size)) > 1
