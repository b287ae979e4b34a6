"""Points drawn from a space: the same each time, whoever asks, and of the space."""

import pytest

from trainer.errors import ConfigError
from trainer.tune import search, space
from trainer.tune.search import RANDOM, TPE, Known

SPACE = space.space(
  {
    'optimizer.learning_rate': space.log_uniform(1e-4, 1e-1),
    'model.hidden': space.choice((16,), (32, 32)),
    'train.micro_batches': space.integer(1, 8, log=True),
    'model.dropout': space.uniform(0.0, 0.5),
  },
  count=12,
  seed=3,
)


def loss(point):
  return abs(point['optimizer.learning_rate'] - 1e-2) + len(point['model.hidden'])


def follow(sampler, count, known=()):
  known = list(known)
  while len(known) < count:
    point = search.draw(SPACE, sampler, len(known), 'min', known)
    known.append(Known(point, loss(point)))
  return known


@pytest.mark.parametrize('sampler', [RANDOM, TPE])
def test_a_search_that_is_interrupted_draws_the_same(sampler):
  whole = follow(sampler, 14)
  # As tune.json gives them back: tuples are lists.
  half = [
    Known({**each.overrides, 'model.hidden': list(each.overrides['model.hidden'])}, each.value) for each in whole[:11]
  ]
  assert follow(sampler, 14, half)[11:] == whole[11:]
  assert all(search.fits(SPACE, each.overrides) for each in whole)


def test_random_points_are_the_first_of_more():
  found = search.all_at_once(SPACE)
  assert len(found) == 12
  assert search.all_at_once(space.Space(SPACE.dimensions, 5, 3)) == found[:5]
  assert search.all_at_once(space.Space(SPACE.dimensions, 5, 4)) != found[:5]


def test_tpe_comes_nearer_than_chance():
  def best(sampler):
    return sum(sorted(each.value for each in follow(sampler, 30))[:5])

  assert best(TPE) < best(RANDOM)


def test_tpe_keeps_away_from_what_runs_and_from_what_diverged():
  known = follow(TPE, 12)
  beside = [Known(known[0].overrides, None, running=True), Known(known[1].overrides, None)]
  point = search.draw(SPACE, TPE, 14, 'min', [*known[2:], *beside])
  assert point not in [each.overrides for each in known]


def test_a_small_space_is_not_drawn_twice():
  small = space.space({'model.dropout': [0.0, 0.1], 'seed': [0, 1]}, count=20)
  found = search.all_at_once(small)
  assert sorted(found, key=str) == sorted(space.grid({'model.dropout': [0.0, 0.1], 'seed': [0, 1]}).points, key=str)


@pytest.mark.parametrize(
  ('overrides', 'is_of_it'),
  [
    ({'optimizer.learning_rate': 0.01}, True),
    ({'optimizer.learning_rate': 1.0}, False),
    ({'optimizer.learning_rate': 0.01, 'seed': 1}, False),
    ({'seed': 1}, False),
  ],
)
def test_which_points_are_of_a_space(overrides, is_of_it):
  assert search.fits(space.space({'optimizer.learning_rate': space.log_uniform(1e-3, 1e-1)}, 3), overrides) == is_of_it


def test_without_optuna(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
  with pytest.raises(ConfigError, match='pip install'):
    search.check_installed()
