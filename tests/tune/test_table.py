"""The table, best first, and what it says of seeds."""

import pytest

from trainer.tune import record, table
from trainer.tune.record import Point, Record


def sweep(points, mode='max'):
  return Record('runs/sweep', 'configs/x.py', ['--config.train.steps=9'], {}, 'accuracy', mode, 9, {}, points)


def point(number, overrides, metric, state=record.COMPLETE, **more):
  return Point(number, overrides, f'points/{number:03d}-x', state, 0, 1, metric, 5, 9, 61.0, **more)


POINTS = [
  point(0, {'optimizer.learning_rate': 1e-3, 'seed': 0}, 0.5),
  point(1, {'optimizer.learning_rate': 1e-3, 'seed': 1}, 0.7),
  point(2, {'optimizer.learning_rate': 3e-3, 'seed': 0}, 0.8),
  point(3, {'optimizer.learning_rate': 3e-3, 'seed': 1}, None, record.DIVERGED, message='diverged: at step 3'),
]


@pytest.mark.parametrize(('mode', 'order'), [('max', [2, 1, 0, 3]), ('min', [0, 1, 2, 3])])
def test_best_first_and_what_has_no_metric_last(mode, order):
  assert [each.number for each in table.ranked(sweep(POINTS, mode))] == order


def test_all_of_it():
  assert table.render(sweep(POINTS), report='scripts/report').splitlines() == [
    '4 points of configs/x.py, by accuracy (most is best):',
    '  point  learning_rate  seed  accuracy  at step  steps  state     attempts  time',
    '  2      0.003          0     0.8000    5        9      complete  1         1 min 01 s',
    '  1      0.001          1     0.7000    5        9      complete  1         1 min 01 s',
    '  0      0.001          0     0.5000    5        9      complete  1         1 min 01 s',
    '  3      0.003          1     n/a       5        9      diverged  1         1 min 01 s',
    'point 3 diverged: diverged: at step 3',
    '',
    'accuracy over seeds, mean and standard deviation:',
    '  learning_rate  accuracy         seeds',
    '  0.003          0.8000           1',
    '  0.001          0.6000 ± 0.1414  2',
    '',
    'best: point 2, accuracy 0.8000 at step 5',
    '  evaluate  python -m trainer --config=configs/x.py --workdir=runs/sweep/points/002-x --config.train.steps=9 '
    '--config.optimizer.learning_rate=0.003 --config.seed=0 --mode=eval --checkpoint=best',
    '  again     python -m trainer --config=configs/x.py --workdir=runs/sweep/again --config.train.steps=9 '
    '--config.optimizer.learning_rate=0.003 --config.seed=0',
    '  compare   scripts/report runs/sweep/points/002-x runs/sweep/points/001-x runs/sweep/points/000-x',
  ]


def test_fields_of_one_name_are_told_apart():
  found = sweep([point(0, {'task.name': 'a', 'model.name': 'b', 'seed': 1}, None, record.OPEN, in_sweep=False)])
  lines = table.render(found).splitlines()
  assert lines[1].split()[:4] == ['point', 'task.name', 'model.name', 'seed']
  assert 'unfinished, not in the sweep' in lines[2] and len(lines) == 3
