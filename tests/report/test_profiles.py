"""When a trace is made, what it shows, and that asking for one can do no harm."""

import ml_collections
import pytest
import tensorflow as tf

from trainer import config as config_lib
from trainer.report import profiles
from trainer.runtime.phases import Phases


@pytest.fixture
def made(tmp_path, monkeypatch):
  """Makes profilers whose traces only note that they were begun ('start') and ended."""
  calls = []
  monkeypatch.setattr(tf.profiler.experimental, 'start', lambda folder: calls.append('start'))
  monkeypatch.setattr(tf.profiler.experimental, 'stop', lambda: calls.append('stop'))

  def make(asked=lambda: False, **changes):
    return profiles.Profiler(
      str(tmp_path / 'tensorboard'), fields(**changes), Phases(0.0), workdir=str(tmp_path), asked=asked
    )

  make.calls = calls
  return make


def fields(**changes):
  defaults = {name: field.default for name, field in config_lib.SECTIONS['profile'].items()}
  return ml_collections.ConfigDict({**defaults, **changes})


def blocks(profiler, first, count, steps=5, seconds=1.0):
  for block in range(count):
    traced = profiler.before(first + block * steps, steps)
    profiler.after(first + (block + 1) * steps, steps, seconds, counts=not traced)


def test_nothing_is_traced_unasked(made):
  blocks(made(), 0, 50)
  assert made.calls == []


@pytest.mark.parametrize(('at_step', 'before'), [(1, 0), (5, 0), (6, 1), (12, 2)])
def test_the_block_of_a_step_and_the_next_are_traced_once(made, at_step, before):
  profiler = made(at_step=at_step, steps=7)
  blocks(profiler, 0, before)
  assert made.calls == []
  blocks(profiler, 5 * before, 1)
  assert made.calls == ['start']
  blocks(profiler, 5 * before + 5, 1)
  assert made.calls == ['start', 'stop'], 'seven steps are two blocks of five'
  blocks(profiler, 5 * before + 10, 9)
  assert made.calls == ['start', 'stop']


def test_a_run_that_goes_on_behind_the_step_does_not_trace_it(made):
  blocks(made(at_step=12), 15, 5)
  assert made.calls == []


def test_a_file_and_a_signal_ask_for_one_trace_each(made, tmp_path):
  wishes = [False, True, False, False, False]
  profiler = made(asked=lambda: wishes.pop(0) if wishes else False, steps=5)
  blocks(profiler, 0, 2)
  assert made.calls == ['start', 'stop']
  (tmp_path / profiles.PROFILE_FILE).touch()
  blocks(profiler, 10, 3)
  assert made.calls == 2 * ['start', 'stop']
  assert not (tmp_path / profiles.PROFILE_FILE).exists()


def test_slow_steps_are_traced_rarely(made, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(profiles.time, 'monotonic', lambda: now[0])
  profiler = made(slow_factor=3.0, slow_every_seconds=100.0, slow_most=2, steps=5)
  blocks(profiler, 0, 20)
  blocks(profiler, 100, 1, seconds=2.9)
  blocks(profiler, 105, 1)
  assert made.calls == []
  for at, traces in ((0.0, 1), (99.0, 1), (100.0, 2), (300.0, 2)):
    now[0] = at
    blocks(profiler, 110, 1, seconds=3.5)
    blocks(profiler, 115, 1)
    assert made.calls == traces * ['start', 'stop']


def test_a_block_that_does_not_count_is_no_measure(made):
  profiler = made(slow_factor=3.0, steps=5)
  blocks(profiler, 0, 20)
  profiler.before(100, 5)
  profiler.after(105, 5, 30.0, counts=False)
  blocks(profiler, 105, 2)
  assert made.calls == []


def test_a_profiler_that_is_busy_stops_no_training(made, monkeypatch):
  def busy(folder):
    raise tf.errors.AlreadyExistsError(None, None, 'Another profiler is running.')

  monkeypatch.setattr(tf.profiler.experimental, 'start', busy)
  blocks(made(at_step=1), 0, 3)
  assert made.calls == []


def test_a_trace_that_is_under_way_is_ended_with_the_run(made):
  profiler = made(at_step=1, steps=100)
  blocks(profiler, 0, 1)
  profiler.close()
  assert made.calls == ['start', 'stop']


def test_a_trace_shows_our_phases_and_steps(tmp_path):
  phases = Phases(0.0)
  profiler = profiles.Profiler(str(tmp_path), fields(at_step=1, steps=2), phases)
  phases.enter('step')
  profiler.before(0, 1)
  tf.function(lambda matrix: tf.linalg.matmul(matrix, matrix))(tf.random.normal([8, 8])).numpy()
  profiler.after(1, 1, 0.1, counts=True)
  phases.enter('eval')
  phases.enter('step')
  profiler.before(1, 1)
  profiler.after(2, 1, 0.1, counts=True)
  profiler.close()
  (file,) = tmp_path.glob('plugins/profile/*/*.xplane.pb')
  contents = file.read_bytes()
  for name in (b'block of steps', b'phase step', b'phase eval', b'MatMul'):
    assert name in contents, name
