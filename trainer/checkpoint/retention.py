"""Which checkpoints to delete: a pure function of the steps, their metrics and the limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping


def surplus(
  metrics: Mapping[int, float | None], *, keep: int, keep_best: int, best_mode: str, protected: Collection[int] = ()
) -> list[int]:
  """The steps that are neither among the newest, nor among the best, nor protected; ascending.

  Args:
    metrics: the metric of each complete step; None where it was saved without one.
    keep: how many of the newest stay.
    keep_best: how many of the best stay, counted apart from the newest: a step that is both fills both places.
    best_mode: 'max' or 'min'.
    protected: steps that stay whatever the limits say.
  """
  newest = sorted(metrics, reverse=True)[:keep]
  kept = {*newest, *best(metrics, best_mode)[:keep_best], *protected}
  return sorted(step for step in metrics if step not in kept)


def best(metrics: Mapping[int, float | None], mode: str) -> list[int]:
  """The steps that have a metric, best first; of equals the newer first. A metric that is NaN is no metric."""
  assert mode in ('max', 'min'), mode
  sign = -1 if mode == 'max' else 1
  ranked = {step: sign * metric for step, metric in metrics.items() if metric is not None and not math.isnan(metric)}
  return sorted(ranked, key=lambda step: (ranked[step], -step))
