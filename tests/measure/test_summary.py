"""The numbers of a measurement follow from its windows."""

import math
import statistics

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from trainer.measure import summary
from trainer.measure.load import Load
from trainer.measure.summary import Window

SECONDS = strategies.floats(1e-4, 100)


@hypothesis.given(strategies.lists(strategies.tuples(strategies.integers(1, 500), SECONDS), min_size=2, max_size=30))
def test_windows(pairs):
  windows = [Window(steps, seconds, seconds / 4) for steps, seconds in pairs]
  found = summary.of_windows(windows, batch_size=32, replicas=4)
  steps, seconds = (sum(part) for part in zip(*pairs, strict=True))
  assert math.isclose(found['examples_per_second'], 32 * steps / seconds)
  assert math.isclose(found['examples_per_second_per_replica'] * 4, found['examples_per_second'])
  each = [s / n for n, s in pairs]
  step = found['step_seconds']
  assert math.isclose(step['mean'], np.mean(each)) and step['median'] == statistics.median(each)
  assert math.isclose(step['standard_error'], np.std(each, ddof=1) / len(each) ** 0.5, abs_tol=1e-12)
  assert step['least'] <= step['median'] <= step['most']
  assert math.isclose(found['waited_share'], 0.25) and found['windows'][0] == [*pairs[0], pairs[0][1] / 4]


def test_what_is_not_measured_is_none():
  found = summary.of_windows([Window(3, 1.0, math.nan)], 8, 1)
  assert found['waited_share'] is None and found['windows'] == [[3, 1.0, None]]
  assert found['step_seconds']['standard_error'] is None


@hypothesis.given(strategies.lists(SECONDS, min_size=6, max_size=20), strategies.floats(0.5, 2))
def test_a_warm_up_ends_when_the_speed_stays(times, factor):
  assert not summary.settled(times[:5])
  assert summary.settled([*times, *[1.0] * 6])
  assert summary.settled([*times, 1.0, 1.0, 1.0, factor, factor, factor]) == (abs(factor - 1) <= 0.03)


def test_percentiles_and_shares():
  found = summary.of_single_steps([*range(1, 100), 1000])
  assert found['p50'] == 50.5 and found['p90'] == pytest.approx(90.1) and found['p99'] == pytest.approx(108.01, rel=0.1)
  assert found['jitter'] == pytest.approx(90.1 / 50.5 - 1)
  real, repeated = ({'step_seconds': {'median': seconds}} for seconds in (0.5, 0.4))
  assert summary.input_share(real, repeated) == pytest.approx(0.2)


def test_own_work_is_not_the_load_of_others(monkeypatch):
  moments = iter([(100.0, 10.0, 1000.0), (160.0, 40.0, 1100.0), (60.0, 60.0, 1000.0)])
  monkeypatch.setattr(Load, '_now', lambda self: next(moments))
  assert Load().others() == pytest.approx(0.3)
  monkeypatch.undo()
  assert 0 <= Load().others() <= 1
