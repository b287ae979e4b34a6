"""Steps that are not finite, and spikes: told by the step, judged on the host, described in a file."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from tests.train import small_run
from trainer.errors import DivergedError
from trainer.train import guard, step
from trainer.train.state import Progress
from trainer.train.step import FACTS, FIXED_SUMS, Rows

NAN = float('nan')


@pytest.mark.parametrize('xla', [False, True])
@pytest.mark.parametrize(('spike_at', 'replica'), [(325, 0), (341, 1)])  # batch 10: rows 0 to 15 and 16 to 31
def test_the_row_names_the_replica_and_the_gradients(spike_at, replica, xla):
  run = small_run.train(2, steps=12, spike=NAN, spike_at=spike_at, xla=xla)
  assert np.flatnonzero(run.rows.fact('finite') == 0).tolist() == [10]
  assert np.argwhere(run.rows.faults > 0).tolist() == [[10, replica]]
  assert np.isfinite(np.delete(run.rows.squares, 10, axis=0)).all()
  assert not np.isfinite(run.rows.squares[10]).all()


def test_one_replica_needs_no_flag():
  run = small_run.train(1, steps=12, spike=NAN)
  assert run.rows.faults.shape == (12, 0)
  assert run.rows.squares.shape == (12, len(run.state.trainable))


def test_the_parts_of_the_norm_make_the_norm():
  run = small_run.train(2, steps=3)
  total = np.sqrt(2 * run.rows.squares.sum(axis=1)) * small_run.BATCH / run.rows.sum('weight')
  np.testing.assert_allclose(run.rows.fact('gradient_norm'), total, rtol=1e-5)


def test_a_skipped_step_leaves_everything_as_it_was():
  before, after = small_run.train(2, steps=10), small_run.train(2, steps=11, spike=NAN)
  for name, value in before.state.snapshot().items():
    np.testing.assert_array_equal(after.state.snapshot()[name], value, err_msg=name)


@pytest.mark.parametrize('replicas', [1, 2])
def test_a_spike_is_told_and_skipped(replicas, monkeypatch):
  """One image of batch 10 is 1,000 times too bright; the guard is awake from step 8 on."""
  monkeypatch.setattr(step, 'SPIKE_STEPS', 8)
  settings = {'spike_deviations': 8.0, 'clip_norm': 0.01}
  assert not small_run.train(replicas, steps=11, **settings).rows.fact('spike').any()
  after = small_run.train(replicas, steps=11, spike=1e3, **settings)
  assert np.flatnonzero(after.rows.fact('spike')).tolist() == [10]
  before = small_run.train(replicas, steps=10, spike=1e3, **settings)
  for name, value in before.state.snapshot().items():
    if not name.startswith('spike/'):
      np.testing.assert_array_equal(after.state.snapshot()[name], value, err_msg=name)
  early = small_run.train(replicas, steps=8, spike=1e3, spike_at=5 + 7 * 32, **settings)
  assert not early.rows.fact('spike').any(), 'there is no mean to hold it against yet'


def test_the_guard_follows_the_losses_whatever_the_blocks():
  whole = small_run.train(1, steps=24, spike_deviations=8.0, block=24)
  parts = small_run.train(1, steps=24, spike_deviations=8.0, block=7)
  losses = whole.rows.sum('loss') / whole.rows.sum('weight')
  for run in (whole, parts):
    mean, variance, count = (float(variable.numpy()) for variable in run.state.spike)
    assert count == 24
    np.testing.assert_allclose(mean, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(variance, losses.var(), rtol=1e-4)


# -- what is made of a row -----------------------------------------------------------------------------------------


def session(policy='skip', spikes='skip', most_skipped=3, most_rollbacks=2, chief=True):
  variables = [SimpleNamespace(path=f'model/layer{i}/kernel') for i in range(3)]
  parts = [(np.arange(4), np.zeros(4, bool)), (np.arange(4, 8), np.array([False, True, False, False]))]
  return SimpleNamespace(
    config=SimpleNamespace(
      train=SimpleNamespace(
        on_nonfinite=policy,
        on_spike=spikes,
        spike_deviations=5.0,
        max_skipped_steps=most_skipped,
        max_rollbacks=most_rollbacks,
      )
    ),
    state=SimpleNamespace(progress=Progress(), trainable=variables),
    cluster=SimpleNamespace(is_chief=chief),
    pipeline=SimpleNamespace(examples_of=lambda batch: parts),
  )


def rows(*kinds, loss_scale=1.0):
  """A row per kind: 'good', 'nan' (on replica 1, of the second gradient) or 'spike'."""
  main = np.zeros([len(kinds), len(FIXED_SUMS) + len(FACTS)], np.float32)
  faults, squares = np.zeros([len(kinds), 2], np.float32), np.ones([len(kinds), 3], np.float32)
  found = Rows(main, faults, squares)
  for place, kind in enumerate(kinds):
    main[place, FIXED_SUMS.index('loss')] = NAN if kind == 'nan' else 8.0
    main[place, FIXED_SUMS.index('weight')] = 8.0
    values = {'finite': float(kind != 'nan'), 'spike': float(kind == 'spike'), 'loss_scale': loss_scale}
    for name, value in values.items():
      main[place, FACTS.index(name) - len(FACTS)] = value
    if kind == 'nan':
      faults[place, 1], squares[place, 1] = 1.0, NAN
  return found


def test_good_steps_cost_nothing(tmp_path):
  run = session()
  applied, rollback = guard.Guard(run, str(tmp_path / 'bad')).judge(rows('good', 'good'), 7)
  assert applied.tolist() == [True, True] and rollback is None
  assert run.state.progress == Progress()
  assert not (tmp_path / 'bad').exists()


def test_raise_says_step_replica_gradients_and_examples(tmp_path):
  path = str(tmp_path / 'bad')
  with pytest.raises(DivergedError) as caught:
    guard.Guard(session('raise'), path).judge(rows('good', 'nan'), 7)
  text = str(caught.value)
  for part in ('step 8', 'replica 1', 'gradients of model/layer1/kernel', 'not finite: 5', path, 'learning_rate'):
    assert part in text, text
  (entry,) = guard.read(path)
  assert entry['examples'] == {'1': [4, 5, 6, 7]} and entry['examples_not_finite'] == [5]
  assert entry['replicas'] == [1] and entry['batch'] == 7 and entry['loss'] == 'nan'


def test_skipped_steps_are_counted_and_bounded(tmp_path, caplog):
  run = session('skip')
  judge = guard.Guard(run, str(tmp_path / 'bad')).judge
  with caplog.at_level(logging.WARNING):
    applied, rollback = judge(rows('nan', 'good', 'spike'), 1)
  assert applied.tolist() == [False, True, False] and rollback is None
  assert run.state.progress.skipped_steps == 2
  judge(rows('nan'), 4)
  with pytest.raises(DivergedError, match='3 steps were skipped'):
    judge(rows('nan'), 5)


def test_a_loss_scale_that_is_too_large_is_no_fault(tmp_path):
  run = session('raise', most_skipped=0)
  applied, _ = guard.Guard(run, str(tmp_path / 'bad')).judge(rows('nan', 'good', loss_scale=2.0), 1)
  assert applied.tolist() == [False, True]
  assert run.state.progress.overflowed_steps == 1 and run.state.progress.skipped_steps == 0


def test_rollback_ends_the_block_there_and_is_bounded(tmp_path):
  run = session('rollback', most_rollbacks=1)
  judge = guard.Guard(run, str(tmp_path / 'bad')).judge
  assert judge(rows('good', 'nan', 'nan'), 11)[1] == 12
  run.state.progress.rollbacks = 1
  with pytest.raises(DivergedError, match='after 1 rollbacks'):
    judge(rows('nan'), 13)


def test_spikes_and_non_finite_steps_have_policies_of_their_own(tmp_path):
  judge = guard.Guard(session('skip', spikes='rollback'), str(tmp_path / 'bad')).judge
  assert judge(rows('nan', 'spike'), 1)[1] == 2
  with pytest.raises(DivergedError, match='is a spike'):
    guard.Guard(session('skip', spikes='raise'), str(tmp_path / 'other')).judge(rows('spike'), 1)


def test_the_same_step_met_again_is_described_once(tmp_path):
  path = str(tmp_path / 'bad')
  for _ in range(2):
    guard.Guard(session('skip'), path).judge(rows('nan'), 5)
  assert [entry['step'] for entry in guard.read(path)] == [5]


def test_only_the_chief_writes(tmp_path):
  guard.Guard(session('skip', chief=False), str(tmp_path / 'bad')).judge(rows('nan'), 5)
  assert not (tmp_path / 'bad').exists()
