"""Which points are promoted, for any values; and a sweep followed to its end without a run."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.tune import halving
from trainer.tune.halving import Standing

ETAS = st.integers(2, 5)
MODES = st.sampled_from(['max', 'min'])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(st.integers(0, 40), st.one_of(st.none(), st.just(math.nan), NUMBERS), min_size=1)


@given(VALUES, ETAS, MODES)
def test_none_that_stays_behind_is_better_than_one_that_goes_on(values, eta, mode):
  chosen = halving.promoted(values, eta, mode)
  good = {number: value for number, value in values.items() if halving.counts(value)}
  assert set(chosen) <= good.keys() and len(chosen) == min(len(good), max(1, len(values) // eta))
  sign = -1 if mode == 'max' else 1
  for goes_on in chosen:
    for stays in good.keys() - set(chosen):
      assert (sign * good[goes_on], goes_on) < (sign * good[stays], stays)


@given(VALUES, ETAS, MODES, st.randoms())
def test_the_order_of_arrival_does_not_count(values, eta, mode, random):
  shuffled = list(values.items())
  random.shuffle(shuffled)
  assert halving.promoted(dict(shuffled), eta, mode) == halving.promoted(values, eta, mode)


@given(VALUES, ETAS)
def test_less_of_a_loss_is_more_of_its_negative(values, eta):
  negated = {number: None if value is None else -value for number, value in values.items()}
  assert halving.promoted(values, eta, 'min') == halving.promoted(negated, eta, 'max')


@given(st.integers(1, 10_000), st.integers(1, 500), ETAS, st.integers(1, 300))
def test_rungs(steps, every, eta, count):
  rungs = halving.rungs(steps, every, eta, count)
  assert rungs == sorted(set(rungs)) and rungs[-1] == steps
  assert all(rung % every == 0 and 0 < rung < steps for rung in rungs[:-1])
  assert eta ** (len(rungs) - 1) <= count
  for rung, later in itertools.pairwise(rungs):
    assert eta * rung <= later + eta * every  # about eta times the steps, for an evaluation is where it is


def test_rungs_of_the_papers():
  # Li et al., 2018, table 1: R = 81, eta = 3, the bracket s = 4 has 81 configurations and begins with 1 unit.
  assert halving.rungs(81, 1, 3, 81) == [1, 3, 9, 27, 81]
  assert halving.rungs(2000, 500, 3, 16) == [500, 2000]
  assert halving.rungs(100, 10, 3, 2) == [100]


@pytest.mark.parametrize(('given_rungs', 'says'), [((15,), '15 must be'), ((100,), '100 must be'), ((20, 20), 'rise')])
def test_rungs_that_make_no_sense(given_rungs, says):
  with pytest.raises(ConfigError, match=says):
    halving.check_rungs(given_rungs, 100, 10)


@given(
  st.lists(st.tuples(st.lists(NUMBERS, min_size=5, max_size=5), st.one_of(st.none(), st.integers(0, 4)))),
  ETAS, MODES, st.randoms(),
)  # fmt: skip
def test_a_sweep_to_its_end(runs, eta, mode, random):
  """Points with a value per rung, some of which end at one, are trained one after another in any order."""
  rungs = [1, 3, 9, 27, 81]
  standings = {number: Standing({}) for number in range(len(runs))}
  trained = []
  while waiting := halving.due(standings, rungs, eta, mode):
    number = random.choice(sorted(waiting))
    values, ends_at = runs[number]
    rung = waiting[number]
    place = rungs.index(rung)
    assert rung not in standings[number].values and not standings[number].ended
    assert set(rungs[:place]) == standings[number].values.keys(), 'a rung is left out'
    trained.append(rung)
    if place == ends_at:
      standings[number] = Standing(standings[number].values, ended=True)
    else:
      standings[number] = Standing({**standings[number].values, rung: values[place]})
  assert trained == sorted(trained), 'a rung began before the one below it was decided'
  left = len(runs)
  for place, rung in enumerate(rungs):
    there = [n for n, s in standings.items() if rung in s.values or (s.ended and runs[n][1] == place)]
    assert len(there) == left
    alive = sum(rung in standings[n].values for n in there)
    left = min(alive, max(1, left // eta))
