"""Changes to frames: what each does, by numbers; and what none may do, for any numbers."""

import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.tasks import recordings
from trainer.tasks import specaugment

FRAMES, BANDS = 16, 8
ALL = {
  'warp': 0.2, 'pace': 0.3, 'later_frames': 4, 'gain_db': 6.0, 'tilt_db': 3.0, 'time_masks': 2, 'time_mask_frames': 5,
  'frequency_masks': 1, 'frequency_mask_bins': 3,
}  # fmt: skip


def fields(**changes):
  return recordings.made_up.config('ctc', **{**recordings.FIELDS, **changes}).task


@pytest.fixture(scope='module')
def mel():
  return recordings.task('ctc')._mel


def frames(lengths, seed=0):
  values = np.random.default_rng(seed).normal(size=(len(lengths), FRAMES, BANDS)).astype(np.float32) + 3
  return np.where(np.arange(FRAMES)[:, None] < np.array(lengths)[:, None, None], values, 0).astype(np.float32)


def change(mel, x, lengths, draws, **changes):
  out, length = specaugment.frames(
    fields(**changes), mel, tf.constant(x), tf.constant(lengths, tf.int32), tf.constant(draws, tf.float32)
  )
  return out.numpy(), length.numpy()


def test_a_draw_for_each_change():
  assert specaugment.draws(fields()) == 0
  assert specaugment.draws(fields(**ALL)) == 5 + 2 * 3
  for name, count in (('warp', 1), ('gain_db', 1), ('time_masks', 4), ('frequency_masks', 2)):
    assert specaugment.draws(fields(**{name: ALL[name]})) == count


@hypothesis.settings(max_examples=25)
@hypothesis.given(
  lengths=st.lists(st.integers(1, FRAMES), min_size=1, max_size=3),
  seed=st.integers(0, 2**31),
  extreme=st.sampled_from([None, 0.0, 1 - 2**-24]),
)
def test_a_recording_stays_whole_whatever_the_draws(mel, lengths, seed, extreme):
  random = np.random.default_rng(seed)
  draws = random.random((len(lengths), 11)) if extreme is None else np.full((len(lengths), 11), extreme)
  x = frames(lengths, seed)
  out, length = change(mel, x, lengths, draws, **ALL)
  assert out.shape == x.shape and np.all(np.isfinite(out))
  assert np.all((length >= 1) & (length <= FRAMES))
  for row, end in zip(out, length, strict=True):
    assert np.all(row[end:] == 0), 'nothing behind the end'
  half = np.full_like(draws, 0.5)
  same, unchanged = change(mel, x, lengths, half, **ALL)
  np.testing.assert_allclose(same, x, atol=1e-4)
  assert unchanged.tolist() == lengths


def test_pace_is_interpolation_and_the_end_is_kept(mel):
  x, u = frames([9]), math.log(2.0) / math.log1p(0.999) / 2 + 0.5
  faster, length = change(mel, x, [9], [[min(u, 1 - 2**-24)]], pace=0.999)
  assert length == 5
  np.testing.assert_allclose(faster[0, :5], x[0, 0:9:2], atol=0.05)
  slower, length = change(mel, x, [9], [[0.0]], pace=0.999)
  assert length == 16, 'twice as long would not fit'
  np.testing.assert_allclose(slower[0, 15], x[0, 8], atol=1e-5)
  np.testing.assert_allclose(slower[0, 0], x[0, 0], atol=1e-5)


@pytest.mark.parametrize(('draw', 'later'), [(0.5, 0), (0.51, 0), (0.71, 1), (0.0, 2), (0.499, 4)])
def test_a_recording_may_begin_later(mel, draw, later):
  x = frames([9])
  out, length = change(mel, x, [9], [[draw]], later_frames=4)
  assert length == 9 + later
  np.testing.assert_allclose(out[0, later : 9 + later], x[0, :9], atol=1e-6)
  assert np.all(out[0, :later] == 0)
  _, length = change(mel, frames([15]), [15], [[draw]], later_frames=4)
  assert length == 15 + min(later, 1)


def test_gain_and_tilt_are_decibels_of_what_is_heard(mel):
  x = frames([9])
  louder, _ = change(mel, x, [9], [[1.0]], gain_db=6.0)
  np.testing.assert_allclose(louder[0, :9] - x[0, :9], 0.6 * math.log(10), atol=1e-5)
  assert np.all(louder[0, 9:] == 0)
  tilted, _ = change(mel, x, [9], [[1.0]], tilt_db=6.0)
  expected = np.tile(np.linspace(-0.6, 0.6, BANDS) * math.log(10), (9, 1))
  np.testing.assert_allclose(tilted[0, :9] - x[0, :9], expected, atol=1e-5)


def test_another_voice_is_the_bands_stretched(mel):
  """A peak at a band's frequency is found at the band of the warped frequency."""
  hertz = mel.hertz_F
  x = np.zeros((1, FRAMES, BANDS), np.float32)
  x[0, :, 2] = 1.0
  warped, _ = change(mel, x, [FRAMES], [[1.0]], warp=0.2)
  centre = float((warped[0, 0] * hertz).sum() / warped[0, 0].sum())
  assert centre == pytest.approx(1.2 * hertz[2], rel=0.05)
  lower, _ = change(mel, x, [FRAMES], [[0.0]], warp=0.2)
  assert float((lower[0, 0] * hertz).sum() / lower[0, 0].sum()) == pytest.approx(0.8 * hertz[2], rel=0.08)
  flat, _ = change(mel, np.ones_like(x), [FRAMES], [[0.9]], warp=0.2)
  np.testing.assert_allclose(flat, 1.0, atol=1e-5)


def test_masks_have_the_width_and_place_that_are_drawn(mel):
  x = frames([10])

  def blank(axis, draws, **changes):
    out, _ = change(mel, x, [10], [draws], **changes)
    return np.flatnonzero(np.all(out[0, :10] == 0, axis=axis)).tolist()

  settings = {'time_masks': 1, 'time_mask_frames': 4}
  assert blank(1, [0.5, 0.9], **settings) == []
  assert blank(1, [0.49, 0.0], **settings) == [0, 1, 2, 3]
  assert blank(1, [0.49, 0.99], **settings) == [6, 7, 8, 9], 'inside of the recording'
  assert blank(1, [0.49, 0.0], **settings, time_mask_share=0.2) == [0, 1]
  assert blank(0, [0.49, 0.99], frequency_masks=1, frequency_mask_bins=3) == [5, 6, 7]
  assert blank(0, [0.49, 0.0], frequency_masks=1, frequency_mask_bins=30) == list(range(BANDS))


def test_more_of_a_change_is_drawn_more_often(mel):
  """Widths from 0 to the widest are alike in frequency."""
  count = 600
  draws = np.stack([(np.arange(count) + 0.5) / count, np.full(count, 0.3)], axis=1)
  out, _ = change(mel, frames([10] * count), [10] * count, draws, time_masks=1, time_mask_frames=5)
  widths = np.all(out[:, :10] == 0, axis=2).sum(axis=1)
  assert np.bincount(widths).tolist() == [100] * 6
