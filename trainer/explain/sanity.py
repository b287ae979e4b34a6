"""Do explanations depend on what was learnt? Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3.1.

An explanation that stays the same where the weights are drawn anew is one of the inputs, not of the model.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from trainer.explain.network import Called, Network

# Rank correlations of so much with explanations of weights drawn anew: what is explained is not what was learnt.
TOO_MUCH = 0.5


def drawn_anew(trained: Sequence[np.ndarray], fresh: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
  """First weights in the place of trained ones.

  Where a kernel begins as a constant, such as the zeros of a last layer, a network of it would say nothing at all: it
  is drawn from a normal distribution with the deviation of the trained one.

  Args:
    trained: the weights.
    fresh: those of the same model, built with another seed.
    seed: of the normal distributions.
  """
  random = np.random.default_rng(seed)
  return [
    random.normal(0.0, after.std(), after.shape).astype(after.dtype)
    if after.ndim > 1 and np.ptp(before) == 0 and np.ptp(after) > 0
    else before
    for after, before in zip(trained, fresh, strict=True)
  ]


def last_layer(network: Network, calls: Sequence[Called]) -> list[int]:
  """Which of the trainable variables are those of the last layer that has a kernel, in the order of calls."""
  places = {id(variable): place for place, variable in enumerate(network.model.trainable_variables)}
  for called in reversed(calls):
    own = [variable for variable in called.layer.trainable_variables if id(variable) in places]
    if not called.layer._layers and any(len(variable.shape) > 1 for variable in own):
      return [places[id(variable)] for variable in own]
  return list(places.values())


def strength(correlations: Sequence[float | None]) -> float | None:
  """The mean size of rank correlations, of those that are defined; None where none is.

  Whatever their sign: with weights drawn anew a map often turns round as a whole, and is the same picture to the eye.
  """
  known = [abs(each) for each in correlations if each is not None]
  return round(statistics.fmean(known), 4) if known else None


def verdict(strength: float | None) -> str:
  """What that says of a method, where all weights were drawn anew."""
  if strength is None:
    return 'cannot be told'
  return 'does not depend on the weights' if strength > TOO_MUCH else 'depends on the weights'
