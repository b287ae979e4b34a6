"""Occlusion: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.2.

Dimensions: M regions.
"""

from __future__ import annotations

import numpy as np

from trainer.explain.attribution import Attribution
from trainer.explain.network import Call, Target, scores


def occlusion(
  call: Call, inputs: np.ndarray, target: Target, *, baseline: np.ndarray, regions: np.ndarray, together: int
) -> Attribution:
  """By how much the target falls where a region of the inputs is covered.

  Args:
    call: from inputs to outputs.
    inputs: [1, ...], numbers or ids.
    target: from outputs to a number each.
    baseline: what covers, [1, ...] of the same dtype.
    regions: bool [M, ...] with the first dimensions of the inputs; the others are covered together.
    together: inputs that are computed together.

  Returns:
    Of the shape of a region: the mean fall over the regions that cover a place, 0 where none does. The check: 'largest'
    fall and 'regions'.
  """
  after = scores(call, target, inputs, together)[0]
  wide = regions.reshape(*regions.shape, *[1] * (inputs.ndim - regions.ndim))
  fall = np.concatenate(
    [
      after - scores(call, target, np.where(wide[i : i + together], baseline, inputs), together)
      for i in range(0, len(regions), together)
    ]
  )
  total = np.tensordot(fall, regions.astype(np.float64), 1)
  values = total / np.maximum(regions.sum(axis=0), 1)
  return Attribution(values, {'largest': float(fall.max()), 'regions': len(regions)})


def windows(shape: tuple[int, ...], size: int, stride: int) -> np.ndarray:
  """bool [M, ...]: a window of `size` in each dimension at each place of a grid; all of the shape is covered."""
  starts = []
  for side in shape:
    last = max(side - size, 0)
    starts.append(sorted({*range(0, last + 1, stride), last}))
  grid = np.stack(np.meshgrid(*starts, indexing='ij'), axis=-1).reshape(-1, len(shape))
  regions = np.zeros((len(grid), *shape), bool)
  for region, start in zip(regions, grid, strict=True):
    region[tuple(slice(begin, begin + size) for begin in start)] = True
  return regions
