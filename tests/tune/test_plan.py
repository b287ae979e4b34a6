"""A sweep that is killed at any moment ends with the same table; and what a changed one makes of what is there."""

import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tune.world import EVERY, STEPS, Killed, World, rows, value
from trainer.errors import ConfigError
from trainer.tune import point, record, space
from trainer.tune.plan import Options

GRID = space.of({'optimizer.learning_rate': [1e-3, 3e-3, 1e-2, 3e-2], 'model.dropout': [0.0, 0.1]})
SPACE = space.space({'optimizer.learning_rate': space.log_uniform(1e-4, 1e-1), 'seed': space.integer(0, 3)}, count=8)
WAYS = {
  'grid': (GRID, Options()),
  'halving': (GRID, Options(halving=True, eta=2)),
  'own rungs': (GRID, Options(halving=True, eta=3, rungs=(20, 50))),
  'random': (SPACE, Options()),
  'tpe': (SPACE, Options(search='tpe')),
}
FATES = st.dictionaries(st.integers(0, 7), st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, STEPS)), max_size=4)


@pytest.fixture(scope='module', autouse=True)
def without_sync():
  """What survives a lost machine is not asked here, and a disk takes its time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('os.fsync', lambda handle: None)
    yield


@pytest.mark.parametrize('way', WAYS)
@settings(max_examples=8)
@given(fates=FATES, kills=st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_killed_at_any_moment(way, fates, kills):
  swept, options = WAYS[way]
  with tempfile.TemporaryDirectory() as folder:
    whole, hit = (World(pathlib.Path(folder, name), fates) for name in ('whole', 'hit'))
    for world in (whole, hit):
      world.folder.mkdir()
    unbroken = whole.sweep(swept, options)
    whole.follow(unbroken)
    for moments in kills:
      hit.moments_left = moments
      try:
        hit.follow(hit.sweep(swept, options))
      except Killed:
        continue
      break
    hit.moments_left = None
    resumed = hit.sweep(swept, options)
    hit.follow(resumed)
    assert rows(resumed) == rows(unbroken)
    assert rows(hit.sweep(swept, options))[0][:2] == rows(unbroken)[0][:2]
    assert set(whole.steps_done.values()) <= {1}, 'a step was done twice, without a kill'


def follow(tmp_path, swept, options=None, fates=()):
  world = World(tmp_path, dict(fates))
  sweep = world.sweep(swept, options)
  world.follow(sweep)
  return sweep, world


def states(sweep):
  return {point.number: point.state for point in sweep.record.points}


def test_promoted_points_go_on_where_they_were(tmp_path):
  sweep, world = follow(tmp_path, GRID, Options(halving=True, eta=2, rungs=(20, 50)))
  at_20 = sorted(range(8), key=lambda number: -value(number, 20))[:4]
  at_50 = sorted(at_20, key=lambda number: -value(number, 50))[:2]
  assert states(sweep) == {n: record.COMPLETE if n in at_50 else record.NOT_PROMOTED for n in range(8)}
  assert {point.number: point.step for point in sweep.record.points} == {
    n: STEPS if n in at_50 else 50 if n in at_20 else 20 for n in range(8)
  }
  assert len(world.steps_done) == (8 * 20 + 4 * 30 + 2 * 40) // EVERY and set(world.steps_done.values()) == {1}
  assert [p.attempts for p in sweep.record.points] == [3 if n in at_50 else 2 if n in at_20 else 1 for n in range(8)]


def test_ends_without_a_result_do_not_stop_the_sweep(tmp_path):
  sweep, _ = follow(tmp_path, GRID, fates={1: (2, 0), 2: (3, 50), 3: (-9, 30)})
  assert states(sweep) == {
    **dict.fromkeys(range(8), record.COMPLETE), 1: record.FAILED, 2: record.DIVERGED, 3: record.CRASHED
  }  # fmt: skip
  assert [sweep.record.points[n].message for n in range(4)] == ['', *['the last line'] * 3]
  assert [sweep.record.points[n].metric for n in (1, 2)] == [None, value(2, 40)]
  # The same command runs nothing again, until it is asked to.
  again = World(tmp_path).sweep(GRID)
  assert again.next(()) is None
  assert [point.number for point in again.retry_ended()] == [1, 3]
  World(tmp_path).follow(again)
  assert states(again) == {**dict.fromkeys(range(8), record.COMPLETE), 2: record.DIVERGED}


def test_without_halving_what_was_not_promoted_goes_on(tmp_path):
  follow(tmp_path, GRID, Options(halving=True))
  sweep, world = follow(tmp_path, GRID)
  assert sweep.said == ['search was kind=grid rungs=[30, 90] eta=3 and is now kind=grid']
  assert set(states(sweep).values()) == {record.COMPLETE} and len(world.steps_done) == 6 * 60 // EVERY


def test_a_changed_sweep(tmp_path):
  first, _ = follow(tmp_path, space.of({'optimizer.learning_rate': [1e-3, 3e-3]}))
  other = space.of([{'optimizer.learning_rate': 3e-3}, {'optimizer.learning_rate': 1e-2}])
  sweep, world = follow(tmp_path, other)
  assert sweep.said[1:] == [
    'new in the sweep: 2 (optimizer.learning_rate=0.01)',
    'no longer in the sweep, and kept: 0 (optimizer.learning_rate=0.001)',
  ]
  assert {number for number, _ in world.steps_done} == {2}
  assert rows(sweep)[:2] == rows(first) and [point.in_sweep for point in sweep.record.points] == [False, True, True]


def test_more_points_of_a_space(tmp_path):
  follow(tmp_path, SPACE, Options(count=3))
  sweep, world = follow(tmp_path, SPACE, Options(count=5))
  assert {number for number, _ in world.steps_done} == {3, 4} and len(sweep.record.points) == 5
  assert sweep.said[0] == 'search was kind=random count=3 and is now kind=random count=5' and len(sweep.said) == 2


def test_a_space_with_less_points_than_asked_for(tmp_path):
  sweep, _ = follow(tmp_path, space.space({'seed': [1, 2]}, count=4))
  assert sweep.said == ['the space holds 2 different points only'] and len(sweep.record.points) == 2


def test_another_config_in_the_same_directory(tmp_path, monkeypatch):
  follow(tmp_path, GRID)
  monkeypatch.setattr('tests.tune.world.STEPS', 50)
  with pytest.raises(ConfigError, match=r'train\.steps was 90 and is now 50'):
    World(tmp_path).sweep(GRID)


@pytest.mark.parametrize(
  ('swept', 'options', 'says'),
  [
    (SPACE, Options(search='grid'), '--search=grid is for lists'),
    (GRID, Options(count=3), '--count=3 is for'),
    (GRID, Options(search='random'), '--count=20'),
    (space.of([{'seed': 1}]), Options(search='random', count=1), 'nothing to draw from'),
    (SPACE, Options(search='tpe', halving=True), '--halving needs all points'),
    (GRID, Options(halving=True, eta=1), '--eta=1 must be at least 2'),
    (GRID, Options(halving=True, rungs=(15,)), 'multiple of eval.every_steps=10'),
  ],
)
def test_options_that_do_not_fit(tmp_path, swept, options, says):
  with pytest.raises(ConfigError) as caught:
    World(tmp_path).sweep(swept, options)
  assert says in str(caught.value) and '\n' not in str(caught.value)


def test_a_point_as_a_task_of_an_array(tmp_path):
  sweep, _ = follow(tmp_path, GRID, fates={1: (2, 0)})
  point.prepare(sweep.record, [1, 3])
  assert sorted(path.name for path in (tmp_path / 'array').iterdir()) == ['1', '3']
  assert (tmp_path / 'array' / '3' / 'metrics.jsonl').exists()
  argv = ['--config=configs/some.py', f'--workdir={tmp_path}/array/3', '--config.train.steps=9']
  assert point.arguments(argv) == [
    '--config=configs/some.py', '--config.train.steps=9', f'--workdir={sweep.record.workdir(sweep.record.points[3])}',
    '--config.optimizer.learning_rate=0.003', '--config.model.dropout=0.1',
  ]  # fmt: skip
  for wrong in (f'{tmp_path}/array/8', f'{tmp_path}/array/x', f'{tmp_path}/array', f'{tmp_path}/points/3'):
    with pytest.raises(ConfigError, match='is no point of a sweep'):
      point.arguments([f'--workdir={wrong}'])


def test_what_ended_unseen_is_not_run_again(tmp_path):
  world = World(tmp_path)
  sweep = world.sweep(GRID)
  first = sweep.next(())
  sweep.begun(first)
  world.train(sweep, first)
  again = World(tmp_path).sweep(GRID)
  assert again.record.points[0].state == record.COMPLETE and again.next(()).point.number == 1


def test_two_sweeps_in_one_directory(tmp_path):
  with record.claim(str(tmp_path / 'sweep')), pytest.raises(ConfigError, match='is in use by process'):
    record.claim(str(tmp_path / 'sweep'))
  record.claim(str(tmp_path / 'sweep')).close()
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'thesis.tex').touch()
  with pytest.raises(ConfigError, match='holds no sweep'):
    record.claim(str(tmp_path / 'other'))


def test_a_damaged_record(tmp_path):
  (tmp_path / record.FILE).write_text('{"version": 1, "points": [')
  with pytest.raises(ConfigError, match='cannot be read'):
    record.read(str(tmp_path))
  (tmp_path / record.FILE).write_text('{"version": 99}')
  with pytest.raises(ConfigError, match='another version'):
    record.read(str(tmp_path))
