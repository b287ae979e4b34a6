"""What a method says of one example."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Of fewer places a rank correlation is far from 0 by chance.
FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Attribution:
  """How much each number or place of the inputs speaks for the target.

  Attributes:
    values: float64, of the shape that the method says.
    check: what the method says of itself, ready for JSON.
  """

  values: np.ndarray
  check: dict[str, Any]


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
  """Spearman's rank correlation of two attributions; None where one is constant, or FEWEST places are not there.

  Places where both are exactly 0, as integrated gradients are where inputs and baseline agree, say nothing of the model
  and are left out.
  """
  from scipy import stats

  there = (first != 0) | (second != 0)
  a, b = first[there], second[there]
  if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
    return None
  return float(stats.spearmanr(a, b).statistic)
