"""Which steps are deleted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import retention

METRICS = st.dictionaries(st.integers(0, 60), st.none() | st.sampled_from([0.0, 1.0, 2.0, math.inf, math.nan]))


@pytest.mark.parametrize(
  ('keep', 'keep_best', 'mode', 'expected'),
  [
    (1, 0, 'max', [1, 2, 3, 4]),
    (2, 0, 'max', [1, 2, 3]),
    (1, 1, 'max', [1, 3, 4]),
    (1, 1, 'min', [1, 2, 4]),
    (2, 2, 'max', [1, 3]),
    (9, 0, 'max', []),
  ],
)
def test_newest_and_best_stay(keep, keep_best, mode, expected):
  metrics = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.8, 5: None}
  assert retention.surplus(metrics, keep=keep, keep_best=keep_best, best_mode=mode) == expected


def test_of_equal_metrics_the_newer_is_better():
  assert retention.best({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.4}, 'max') == [3, 2, 1, 4]
  assert retention.best({1: 0.5, 2: 0.5, 3: 0.4}, 'min') == [3, 2, 1]


def test_a_metric_that_is_nan_is_no_metric():
  assert retention.best({1: math.nan, 2: 0.1, 3: None}, 'max') == [2]
  assert retention.best({1: math.nan, 2: 0.1, 3: None}, 'min') == [2]


@settings(deadline=None, max_examples=60)
@given(METRICS, st.integers(1, 5), st.integers(0, 5), st.sampled_from(['max', 'min']), st.sets(st.integers(0, 60)))
def test_properties(metrics, keep, keep_best, mode, protected):
  deleted = retention.surplus(metrics, keep=keep, keep_best=keep_best, best_mode=mode, protected=protected)
  kept = metrics.keys() - set(deleted)
  assert deleted == sorted(set(deleted)) and set(deleted) <= metrics.keys()
  assert set(sorted(metrics)[-keep:]) <= kept
  assert protected & metrics.keys() <= kept
  assert len(kept - protected) <= keep + keep_best
  if metrics:
    assert max(metrics) in kept
  ranked = {step: value for step, value in metrics.items() if value is not None and not math.isnan(value)}
  if keep_best and ranked:
    top = (max if mode == 'max' else min)(ranked.values())
    assert max(step for step, value in ranked.items() if value == top) in kept
  # A second look finds nothing more to do, and the order of the dict decides nothing.
  again = {step: metrics[step] for step in kept}
  assert not retention.surplus(again, keep=keep, keep_best=keep_best, best_mode=mode, protected=protected)
  backwards = dict(reversed(metrics.items()))
  assert retention.surplus(backwards, keep=keep, keep_best=keep_best, best_mode=mode, protected=protected) == deleted
