"""Random changes to log-mel frames, a pure function of given uniform numbers.

Masks: Park et al., SpecAugment, 2019, section 2, and the share of Park et al., SpecAugment on Large Scale Datasets,
2020, section 2. Another speaker: the frequencies warped, Jaitly and Hinton, Vocal Tract Length Perturbation, 2013,
section 3, here by interpolation between bands rather than by other bands. Another pace, after Ko et al., Audio
Augmentation for Speech Recognition, 2015, section 2.1 (tempo).

Dimensions: B batch, T frames, F mel bands.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.fields import Field, at_least, fraction
from trainer.tasks import audio

FIELDS: dict[str, Field] = {
  'warp': Field(0.0, 'frequencies grow or shrink by up to this share', fraction),
  'pace': Field(0.0, 'recordings get faster or slower by up to this share', fraction),
  'later_frames': Field(0, 'recordings begin up to so many frames later, as long as they stay whole', at_least(0)),
  'gain_db': Field(0.0, 'recordings get louder or softer by up to so many decibels', at_least(0)),
  'tilt_db': Field(
    0.0, 'the highest band gets louder or softer by up to so many decibels, the lowest the reverse', at_least(0)
  ),
  'time_masks': Field(0, 'stretches of time that are blanked', at_least(0)),
  'time_mask_frames': Field(10, 'longest of them, in frames', at_least(1)),
  'time_mask_share': Field(1.0, 'longest of them, as a share of the recording', at_least(0)),
  'frequency_masks': Field(0, 'stretches of bands that are blanked', at_least(0)),
  'frequency_mask_bins': Field(8, 'widest of them, in bands', at_least(1)),
}

# Where the warped scale bends back, as a share of the highest frequency: 4,800 of 8,000 hertz in the paper.
_BEND = 0.6


def draws(fields: Any) -> int:
  """Uniform numbers that one recording takes."""
  ones = sum(bool(fields[name]) for name in ('warp', 'pace', 'later_frames', 'gain_db', 'tilt_db'))
  return ones + 2 * (fields.time_masks + fields.frequency_masks)


def frames(
  fields: Any, mel: audio.LogMel, frames_BTF: tf.Tensor, length_B: tf.Tensor, draws: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """The frames warped, at another pace, later, louder and masked, in this order.

  Args:
    fields: the values of FIELDS.
    mel: what made the frames.
    frames_BTF: float32, 0 behind the end of a recording.
    length_B: int32, frames of each recording.
    draws: float32 [B, draws(fields)] in [0, 1). A row of 0.5 leaves its recording as it is.

  Returns:
    Frames and lengths of the same shapes. Recording b depends on itself and on row b of `draws` alone.
  """
  columns = iter(tf.unstack(draws, axis=1))
  x, bins = frames_BTF, mel.bins

  def symmetric() -> tf.Tensor:
    """The next column of draws, stretched to [-1, 1)."""
    return 2.0 * next(columns) - 1.0

  def from_nothing() -> tf.Tensor:
    """The next column of draws, moved round so that 0.5 is 0."""
    return (next(columns) + 0.5) % 1.0

  if fields.warp:
    x = tf.matmul(x, _warping(mel, 1.0 + fields.warp * symmetric()))
  if fields.pace or fields.later_frames:
    pace = tf.exp(math.log1p(fields.pace) * symmetric()) if fields.pace else tf.ones_like(draws[:, 0])
    later = tf.floor((fields.later_frames + 1) * from_nothing()) if fields.later_frames else 0.0 * pace
    x, length_B = _moved(x, length_B, pace, later)
  places_T, length_B1 = tf.range(x.shape[1]), length_B[:, tf.newaxis]
  if fields.gain_db or fields.tilt_db:
    decibels_BF = tf.zeros([1, bins])
    if fields.gain_db:
      decibels_BF += fields.gain_db * symmetric()[:, tf.newaxis]
    if fields.tilt_db:
      decibels_BF += fields.tilt_db * symmetric()[:, tf.newaxis] * tf.linspace(-1.0, 1.0, bins)
    nepers_BF = decibels_BF * (math.log(10.0) / 10.0) / mel.deviation_F.astype(np.float32)
    sounds_BT1 = tf.reduce_any(x != 0, axis=2, keepdims=True)
    x = tf.where(sounds_BT1, x + nepers_BF[:, tf.newaxis], x)
  for _ in range(fields.time_masks):
    longest = tf.minimum(float(fields.time_mask_frames), fields.time_mask_share * tf.cast(length_B, tf.float32))
    x = tf.where(_mask(from_nothing(), next(columns), longest, length_B1, places_T)[:, :, tf.newaxis], 0.0, x)
  for _ in range(fields.frequency_masks):
    widest = min(float(fields.frequency_mask_bins), float(bins))
    x = tf.where(_mask(from_nothing(), next(columns), widest, bins, tf.range(bins))[:, tf.newaxis], 0.0, x)
  return x, length_B


def _warping(mel: audio.LogMel, factor_B: tf.Tensor) -> tf.Tensor:
  """What takes frames to those of a voice whose frequencies are `factor_B` times as high, float32 [B, F, F].

  Equation 1 of Jaitly and Hinton: beyond the bend the highest frequency stays where it is.
  """
  nyquist, hertz_F = mel.nyquist, mel.hertz_F.astype(np.float32)
  # From the frequency that is heard to the one that was said, so by the inverse of the factor.
  factor_B1 = 1.0 / factor_B[:, tf.newaxis]
  image_B1 = _BEND * nyquist * tf.minimum(factor_B1, 1.0)
  bend_B1 = image_B1 / factor_B1
  beyond_BF = nyquist - (nyquist - image_B1) / (nyquist - bend_B1) * (nyquist - hertz_F)
  said_BF = tf.where(hertz_F <= bend_B1, factor_B1 * hertz_F, beyond_BF)
  mels = audio.to_mel(mel.hertz_F).astype(np.float32)
  step = float(mels[1] - mels[0]) if mel.bins > 1 else 1.0
  place_BF = tf.clip_by_value((1127.0 * tf.math.log1p(said_BF / 700.0) - mels[0]) / step, 0.0, mel.bins - 1.0)
  # Between two bands, the share of each.
  return tf.nn.relu(1.0 - tf.abs(place_BF[:, tf.newaxis] - tf.range(mel.bins, dtype=tf.float32)[:, tf.newaxis]))


def _moved(x_BTF: tf.Tensor, length_B: tf.Tensor, pace_B: tf.Tensor, later_B: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Recordings `pace_B` times as fast that begin `later_B` frames later, and their lengths; none loses its end."""
  count = x_BTF.shape[1]
  last_B = tf.cast(length_B - 1, tf.float32)
  pace_B = tf.maximum(pace_B, last_B / max(count - 1, 1))
  # A rounding error must not cost a frame.
  long_B = tf.minimum(tf.floor(last_B / pace_B + 1e-3) + 1.0, float(count))
  later_B = tf.minimum(later_B, count - long_B)
  steps_BT = tf.range(count, dtype=tf.float32) - later_B[:, tf.newaxis]
  place_BT = tf.clip_by_value(steps_BT * pace_B[:, tf.newaxis], 0.0, last_B[:, tf.newaxis])
  before_BT = tf.floor(place_BT)
  share_BT1 = (place_BT - before_BT)[:, :, tf.newaxis]
  index_BT = tf.cast(before_BT, tf.int32)
  first, second = (tf.gather(x_BTF, tf.minimum(index_BT + i, count - 1), batch_dims=1) for i in (0, 1))
  heard_BT = (steps_BT >= 0) & (steps_BT < long_B[:, tf.newaxis])
  moved_BTF = tf.where(heard_BT[:, :, tf.newaxis], first + share_BT1 * (second - first), 0.0)
  return moved_BTF, tf.cast(long_B + later_B, tf.int32)


def _mask(size_B: tf.Tensor, begin_B: tf.Tensor, most: Any, of: Any, places: tf.Tensor) -> tf.Tensor:
  """A stretch of 0 to `most` places among the first `of`, anywhere, bool [B, places]."""
  size_B1 = tf.floor(size_B * (most + 1.0))[:, tf.newaxis]
  room_B1 = tf.maximum(tf.cast(of, tf.float32) - size_B1, 0.0)
  begin_B1 = tf.floor(begin_B[:, tf.newaxis] * (room_B1 + 1.0))
  places = tf.cast(places, tf.float32)
  return (places >= begin_B1) & (places < begin_B1 + size_B1)
