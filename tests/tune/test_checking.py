"""Mistakes of a sweep, all found before anything runs, in one line."""

import pytest

from trainer.errors import ConfigError
from trainer.tune import checking, record, space
from trainer.tune.checking import Checker

DIGITS = 'configs/digits_mlp.py'
LIKE = '--config.train.steps=20', '--config.optimizer.warmup_steps=5'


@pytest.fixture(scope='module')
def checker():
  return Checker(DIGITS, LIKE)


def test_a_sweep_that_can_run(checker):
  found = checker.check([{'optimizer.learning_rate': 1, 'model.hidden': (8,)}, {'model.hidden': [8, 8]}])
  # Values have the types of their fields, so that a point is known again however it was written.
  assert found.points == [{'optimizer.learning_rate': 1.0, 'model.hidden': [8]}, {'model.hidden': [8, 8]}]
  assert (found.metric, found.mode, found.steps, found.eval_every) == ('accuracy', 'max', 20, 1000)
  assert found.base['model.hidden'] == [128, 128] and found.base['train.steps'] == 20


def test_all_mistakes_are_named_by_point(checker):
  points = [
    {'optimizer.learning_rate': 1e-3},
    {'optimizer.learning_rat': 1e-3},
    {'optimizer.learning_rate': -1.0},
    {'optimizer.learning_rate': 'fast'},
    {'optimizer.name': 'adamx'},
    {'optimizer.schedule': 'piecewise'},
    {'optimizer.learning_rate': 1e-3},
    {'train.steps': 10},
    {'model.hiden': (3,)},
  ]
  with pytest.raises(ConfigError) as caught:
    checker.check(points)
  said = str(caught.value)
  assert '\n' not in said and said.startswith('8 of 9 points cannot run: ')
  for part in (
    "unknown config field 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?",
    'point 2 (optimizer.learning_rate=-1.0): optimizer.learning_rate=-1.0 must be above 0',
    'point 3 (optimizer.learning_rate=fast): ',
    "did you mean 'adam",
    'point 5 (optimizer.schedule=piecewise): optimizer.boundaries is empty',
    'point 6 (optimizer.learning_rate=0.001): is the same as point 0',
    "point 7 (train.steps=10): train.steps is swept, and set behind '--' too",
    "unknown config field 'model.hiden'; did you mean 'model.hidden'?",
  ):
    assert part in said


def test_what_only_the_model_knows():
  gpt = Checker('configs/shakespeare_gpt.py:smoke', [])
  with pytest.raises(ConfigError) as caught:
    gpt.check([{'model.heads': 2}, {'model.heads': 3}])
  assert str(caught.value).startswith('1 of 2 points cannot run: point 1 (model.heads=3): ')
  assert gpt.check([{'model.heads': 2}, {'model.dropout': 0.1}]).metric == 'bits_per_byte'


def test_points_of_one_kind_are_built_once(checker, monkeypatch):
  checker.check([{'model.hidden': (8,)}])
  monkeypatch.setattr(Checker, '_build', lambda self, config: pytest.fail('built again'))
  checker.check([{'model.hidden': (8,), 'model.dropout': rate, 'optimizer.name': 'sgd'} for rate in (0.2, 0.3)])


def test_the_metric_of_the_user():
  checked = Checker(DIGITS, LIKE, 'loss').check([{'model.hidden': (8,)}])
  assert (checked.metric, checked.mode) == ('loss', 'min')


@pytest.mark.parametrize(
  ('flags', 'metric', 'says'),
  [
    (['--workdir=x'], '', "'--workdir=x' behind '--' is the sweep's to give"),
    (['--mode=eval'], '', "is the sweep's to give"),
    (['--config.train.pause_at_step=3'], '', 'for --halving to set'),
    (['--config.train.steps', '3'], '', 'must be as in'),
    (['--config.train.stepz=3'], '', 'Did you mean "steps"'),
    (['--config.eval.best_metric='], '', 'nothing to compare points by'),
    (['--config.train.steps=200'], 'acuracy', "did you mean 'accuracy'"),
  ],
)
def test_mistakes_of_the_command_line(flags, metric, says):
  with pytest.raises(ConfigError) as caught:
    Checker(DIGITS, flags, metric).check([{'model.hidden': (8,)}])
  assert says in str(caught.value) and '\n' not in str(caught.value)


def test_what_a_config_file_says(tmp_path):
  assert len(checking.swept(DIGITS).points) == 8
  assert isinstance(checking.swept('configs/shakespeare_gpt.py:smoke'), space.Space)
  assert checking.swept('configs/digits_cnn.py') is None
  for text, says in (
    ('def sweep(): return 3', 'returned int'),
    ('def sweep(): return {}["x"]', 'KeyError'),
    ('from trainer.tune import space\ndef sweep(): return space.uniform(1, 0)', 'the smaller first'),
    ('def sweep(', 'SyntaxError'),
  ):
    (tmp_path / 'own.py').write_text(text)
    with pytest.raises(ConfigError, match=says):
      checking.swept(str(tmp_path / 'own.py'))
  with pytest.raises(ConfigError, match='cannot be used'):
    checking.swept(str(tmp_path / 'none.py'))


def test_a_point_as_flags_and_as_a_folder():
  point = {'model.hidden': [64, 32], 'optimizer.name': 'adamw', 'deterministic': True, 'optimizer.options': '{"a": 1}'}
  assert record.as_flags(point) == [
    '--config.model.hidden=(64, 32)', '--config.optimizer.name=adamw', '--config.deterministic=True',
    '--config.optimizer.options={"a": 1}',
  ]  # fmt: skip
  assert record.name(point) == 'hidden=64x32,name=adamw,deterministic=True,options=_a_1'
  assert record.name({}) == 'as_it_is'


def test_what_may_change_between_two_sweeps():
  before = {'train.steps': 5, 'checkpoint.every_steps': 3, 'data.data_dir': '/a'}
  assert not checking.changed(before, {**before, 'checkpoint.every_steps': 9, 'data.data_dir': '/b'})
  assert checking.changed(before, {**before, 'train.steps': 9}) == ['train.steps was 5 and is now 9']
