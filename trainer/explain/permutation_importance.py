"""Permutation importance: Breiman, Random Forests, 2001, section 10; Fisher, Rudin and Dominici, All Models are Wrong,
but Many are Useful, 2019, section 3, for any model.

Dimensions: N examples, F numbers of an example, R repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np


def permutation_importance(
  measures: Callable[[np.ndarray], Mapping[str, float]],
  inputs: np.ndarray,
  groups: Mapping[str, Sequence[int]],
  *,
  repeats: int,
  seed: int,
) -> tuple[dict[str, float], dict[str, dict[str, tuple[float, float]]]]:
  """By how much each measure changes where one feature is shuffled among the examples, so that it tells nothing.

  A feature that says what another says too may be missed by the model little: importance is that of the model as it is,
  not of what could be learnt without the feature.

  Args:
    measures: from inputs [N, F] to the loss and metrics of all of them by name.
    inputs: float32 [N, F].
    groups: feature -> its columns, which move together, as do those of a category.
    repeats: R, at least 1.
    seed: of the shuffles.

  Returns:
    (measures as they are; feature -> measure -> (mean change, its standard deviation over the repeats)); the change is
    that of the shuffled inputs less that of the true ones.
  """
  base = dict(measures(inputs))
  found: dict[str, dict[str, tuple[float, float]]] = {}
  for number, (name, columns) in enumerate(groups.items()):
    changes: dict[str, list[float]] = {measure: [] for measure in base}
    for repeat in range(repeats):
      order = np.random.default_rng((seed, number, repeat)).permutation(len(inputs))
      shuffled = inputs.copy()
      shuffled[:, list(columns)] = inputs[order][:, list(columns)]
      for measure, value in measures(shuffled).items():
        changes[measure].append(value - base[measure])
    found[name] = {
      measure: (float(np.mean(each)), float(np.std(each, ddof=1)) if repeats > 1 else 0.0)
      for measure, each in changes.items()
    }
  return base, found
