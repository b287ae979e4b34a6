"""SmoothGrad: Smilkov, Thorat, Kim, Viégas and Wattenberg, SmoothGrad: removing noise by adding noise, 2017, section 2.

Dimensions: S noisy copies that are computed together.
"""

from __future__ import annotations

import numpy as np

from trainer.explain.attribution import Attribution, correlation
from trainer.explain.network import Call, Target, gradients


def smoothgrad(
  call: Call, inputs: np.ndarray, target: Target, *, noise: float, samples: int, seed: tuple[int, ...], together: int
) -> Attribution:
  """The gradient's mean over copies of the inputs with Gaussian noise.

  Args:
    call: from inputs to outputs.
    inputs: float32 [1, ...].
    target: from outputs to a number each.
    noise: standard deviation as a share of the range of the inputs.
    samples: copies, at least 2.
    seed: of the noise.
    together: copies that are computed together.

  Returns:
    Attributions of the shape of the inputs, without the first dimension. The check: 'halves', the rank correlation of
    the means over two halves of the copies; near 1 the noise has been averaged out.
  """
  random = np.random.default_rng(seed)
  deviation = noise * float(np.ptp(inputs))
  halves = np.zeros((2, *inputs.shape[1:]), np.float64)
  counts = [samples - samples // 2, samples // 2]
  for half, count in enumerate(counts):
    for begin in range(0, count, together):
      size = min(together, count - begin)
      drawn = random.standard_normal((size, *inputs.shape[1:]), np.float32) * np.float32(deviation)
      halves[half] += gradients(call, target, inputs + drawn).astype(np.float64).sum(axis=0)
  values = halves.sum(axis=0) / samples
  return Attribution(values, {'halves': correlation(halves[0] / counts[0], halves[1] / counts[1]), 'samples': samples})
