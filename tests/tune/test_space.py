"""What a config file or a command line may say is tried."""

import pytest

from trainer.errors import ConfigError
from trainer.tune import space
from trainer.tune.space import Choice, Points, Range, Space


def test_a_grid_is_each_value_with_each_other():
  found = space.of({'optimizer.learning_rate': [1e-3, 3e-3], 'model.dropout': [0.0, 0.1]})
  assert found.kind == 'grid' and found.points == (
    {'optimizer.learning_rate': 1e-3, 'model.dropout': 0.0},
    {'optimizer.learning_rate': 1e-3, 'model.dropout': 0.1},
    {'optimizer.learning_rate': 3e-3, 'model.dropout': 0.0},
    {'optimizer.learning_rate': 3e-3, 'model.dropout': 0.1},
  )


def test_points_stay_as_they_are():
  each = [{'optimizer.learning_rate': 1e-3}, {'train.steps': 5}, {}]
  assert space.of(each) == Points(tuple(each))


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    (['optimizer.learning_rate=1e-3,3e-3'], [{'optimizer.learning_rate': 1e-3}, {'optimizer.learning_rate': 3e-3}]),
    (['optimizer.name=adamw,lion'], [{'optimizer.name': 'adamw'}, {'optimizer.name': 'lion'}]),
    (['config.model.hidden=(64,), (32, 32)'], [{'model.hidden': (64,)}, {'model.hidden': (32, 32)}]),
    (['seed=0,1', 'deterministic=True'], [{'seed': 0, 'deterministic': True}, {'seed': 1, 'deterministic': True}]),
    (['precision.policy=float32'], [{'precision.policy': 'float32'}]),
  ],
)
def test_values_of_the_command_line(settings, expected):
  assert list(space.from_settings(settings, 0, -1).points) == expected


def test_ranges_of_the_command_line():
  settings = ['optimizer.learning_rate=log_uniform(1e-4, 1e-2)', 'model.dropout=0.0,0.1', 'seed=integer(0, 9)']
  assert space.from_settings(settings, 7, 2) == Space(
    {
      'optimizer.learning_rate': Range(1e-4, 1e-2, log=True),
      'model.dropout': Choice((0.0, 0.1)),
      'seed': Range(0, 9, whole=True),
    },
    7,
    2,
  )


def test_a_grid_as_a_space():
  found = space.as_space(space.of({'model.dropout': [0.0, 0.1, 0.2], 'seed': [0, 1]}), 4, 1)
  assert found == Space({'model.dropout': Choice((0.0, 0.1, 0.2)), 'seed': Choice((0, 1))}, 4, 1)


@pytest.mark.parametrize(
  ('make', 'says'),
  [
    (lambda: space.log_uniform(0, 1), 'above 0'),
    (lambda: space.uniform(1, 1), 'the smaller first'),
    (lambda: space.integer(0, 3, log=True), 'above 0'),
    (lambda: space.integer(0.5, 3), 'whole'),
    (lambda: space.choice(1), 'two values'),
    (lambda: space.space({}, 3), 'at least one field'),
    (lambda: space.space({'seed': [1, 2]}, 0), 'count=0'),
    (lambda: space.space({'seed': 1}, 3), 'seed=1 must be'),
    (lambda: space.of({'seed': space.integer(0, 3)}), 'not how often'),
    (lambda: space.of({'seed': 3}), 'list of the values'),
    (lambda: space.of({}), 'over no field'),
    (lambda: space.of([]), 'no points'),
    (lambda: space.of([3]), 'point 0'),
    (lambda: space.of(3), 'returned int'),
    (lambda: space.of([{3: 4}]), '3 is no path'),
    (lambda: space.from_settings(['seed'], 0, -1), "--set='seed'"),
    (lambda: space.from_settings(['seed=1', 'seed=2'], 0, -1), 'twice'),
    (lambda: space.from_settings(['seed=integer(0, 9)'], 0, -1), '--count'),
    (lambda: space.from_settings(['model.dropout=unifrom(0, 1)'], 3, -1), "did you mean 'uniform'"),
    (lambda: space.from_settings(['model.dropout=uniform(0)'], 3, -1), 'missing 1 required'),
    (lambda: space.as_space(space.of([{'seed': 1}]), 3, 0), 'nothing to draw from'),
    (lambda: space.as_space(space.of({'seed': [1, 2]}), 0, 0), '--count'),
    (lambda: space.as_space(space.of({'seed': [1]}), 2, 0), 'one value only'),
  ],
)
def test_mistakes(make, says):
  with pytest.raises(ConfigError) as caught:
    make()
  assert says in str(caught.value) and '\n' not in str(caught.value)
