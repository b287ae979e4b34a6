"""Integrated gradients: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017, section 3.

Dimensions: S points of the path that are computed together.
"""

from __future__ import annotations

import functools

import numpy as np

from trainer.explain.attribution import Attribution
from trainer.explain.network import Call, Target, gradients, scores

# By how much, of the difference that they explain, attributions may miss it.
TOLERANCE = 0.01


def integrated_gradients(
  call: Call, inputs: np.ndarray, target: Target, *, baseline: np.ndarray, steps: int, most_steps: int, together: int
) -> Attribution:
  """The gradient's mean on the straight path from the baseline to the inputs, times the difference of the two.

  The integral is that of Gauss and Legendre. By the axiom of completeness (proposition 1) the attributions add up to
  the difference of the target at both ends; until they do, within TOLERANCE, the number of points is doubled. What is
  added up is float64. The target itself is as precise as the model computes: in bfloat16 it has two or three digits,
  and completeness may fail on that account alone. It fails too where a normalisation of each example by itself (group,
  layer) makes the target jump beside an empty baseline: the mean image is a better one there.

  Args:
    call: from inputs to outputs.
    inputs: float32 [1, ...].
    target: from outputs to a number each.
    baseline: float32 [1, ...].
    steps: points at first.
    most_steps: points at most.
    together: points that are computed together.

  Returns:
    Attributions of the shape of the inputs, without the first dimension. The check: 'sum' of the attributions,
    'difference' of the target, 'gap' between them as a share of the difference, 'steps', and whether it is 'complete'.
  """
  before, after = scores(call, target, np.concatenate([baseline, inputs]), together)
  difference = after - before
  way = inputs.astype(np.float64) - baseline
  while True:
    values = (way * _mean_gradient(call, inputs, target, baseline, steps, together))[0]
    gap = abs(float(values.sum()) - difference)
    complete = gap <= TOLERANCE * abs(difference)
    if complete or 2 * steps > most_steps:
      break
    steps *= 2
  check = {
    'sum': float(values.sum()),
    'difference': float(difference),
    'gap': float(gap / abs(difference)) if difference else float(gap),
    'steps': steps,
    'complete': bool(complete),
  }
  return Attribution(values, check)


def _mean_gradient(
  call: Call, inputs: np.ndarray, target: Target, baseline: np.ndarray, steps: int, together: int
) -> np.ndarray:
  """float64 [1, ...]: the integral of the gradient over the path, whose length is 1."""
  places, weights = _points(steps)
  total = np.zeros(inputs.shape, np.float64)
  for begin in range(0, steps, together):
    share = places[begin : begin + together].reshape(-1, *[1] * (inputs.ndim - 1)).astype(np.float32)
    found = gradients(call, target, baseline + share * (inputs - baseline))
    total += np.tensordot(weights[begin : begin + together], found.astype(np.float64), 1)[np.newaxis]
  return total


@functools.cache
def _points(steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Places between 0 and 1 and their weights, which add up to 1."""
  places, weights = np.polynomial.legendre.leggauss(steps)
  return (places + 1) / 2, weights / 2
