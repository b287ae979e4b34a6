"""Which candidate is chosen, out of made-up windows: the fastest by more than the noise that may be."""

import math

import pytest

from trainer.measure import candidates
from trainer.measure.candidates import LOSS_TOLERANCE, Candidate
from trainer.measure.summary import Window, of_windows
from trainer.modes import benchmark_search

QUIET = {'quota_periods': 0, 'quota_seconds': 0.0, 'thermal_events': None, 'frequency': None, 'gpu_reasons': None}


def round_of(times, losses=(2.0, 1.0), **changes):
  speed = of_windows([Window(10, 10 * time, math.nan) for time in times], 64, 1)
  about = {'settled': True, 'others': 0.0, 'workers': 1, 'throttling': QUIET, 'first_step': {'compile_seconds': 1.0}}
  return {'speed': speed, 'first_losses': list(losses), **about, **changes}


def one(policy='float32', xla='off', rounds=((1.0, 1.01, 0.99), (1.0, 0.99, 1.01)), **changes):
  return Candidate(policy, xla, tuple(round_of(times, **changes) for times in rounds))


FAST = ((0.5, 0.51, 0.49), (0.5, 0.49, 0.51))


def test_the_fastest_is_chosen():
  first, faster = one(), one('mixed_bfloat16', rounds=FAST)
  fastest = one('mixed_bfloat16', 'on', rounds=((0.3, 0.31, 0.3), (0.3, 0.31, 0.3)))
  assert candidates.best([first, faster, fastest]) is fastest
  assert candidates.best([first, fastest, faster]) is fastest
  assert candidates.best([first]) is first


@pytest.mark.parametrize(
  'rounds',
  [
    ((0.99, 1.0, 0.98), (1.0, 0.98, 0.99)),  # within the noise
    ((0.5, 0.51, 0.49), (1.01, 1.02, 1.03)),  # in one round only: something else was going on
    ((0.5, 2.0, 0.5), (0.5, 2.5, 0.5)),  # its windows do not agree with each other
  ],
)
def test_noise_does_not_decide(rounds):
  first = one()
  assert candidates.best([first, one('mixed_bfloat16', rounds=rounds)]) is first


@pytest.mark.parametrize('losses', [(2.2, 1.0), (math.nan, 1.0), (2.0, math.inf)])
def test_what_learns_something_else_is_not_chosen(losses):
  first, other = one(), one('mixed_bfloat16', rounds=FAST, losses=losses)
  assert candidates.best([first, other]) is first
  near = one('mixed_bfloat16', rounds=FAST, losses=(2.0 + LOSS_TOLERANCE, 1.0))
  assert near.loss_difference(first) == pytest.approx(LOSS_TOLERANCE / 3)
  assert candidates.best([first, near]) is near


def test_what_could_not_be_measured_is_not_chosen():
  first = one()
  assert candidates.best([first, Candidate('float32', 'on', (), 'no memory')]) is first


def test_what_must_not_be_believed():
  calm = one()
  assert benchmark_search.why_not_valid([calm], 0.1) == []
  busy, moving = one('mixed_bfloat16', others=0.4), one('float32', 'on', settled=False)
  assert benchmark_search.why_not_valid([busy, moving], 0.1) == [
    'the speed of float32 with XLA had not settled',
    'other programs took up to 40% of the cores (benchmark.largest_foreign_load)',
  ]
  assert benchmark_search.why_not_valid([one(others=0.4, workers=2)], 0.1) == []  # each other's others
  held = one(throttling={**QUIET, 'quota_periods': 2, 'quota_seconds': 0.1})
  assert benchmark_search.why_not_valid([calm, held], 0.1) == [
    'a CPU quota held the process back 2 times, 0.1 s in all'
  ]
