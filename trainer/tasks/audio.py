"""Recordings as log-mel frames: how strong each band of frequencies is, in short windows one after the other.

Davis and Mermelstein, Comparison of Parametric Representations, 1980, without the cosine transform at the end. The
mel scale and its triangles are those of `tf.signal.linear_to_mel_weight_matrix`.

Dimensions: N samples, T frames, F mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, above, at_least
from trainer.report.gallery import Part, heat
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Examples

FIELDS: dict[str, Field] = {
  'input': Field('auto', 'feature that the model hears; auto: the only recording', fixed=True),
  'sample_rate': Field(0, 'samples per second; 0: as the dataset says', at_least(0), fixed=True),
  'seconds': Field(1.0, 'what is heard of a recording, from its beginning', above(0), fixed=True),
  'frame_ms': Field(25.0, 'length of a window, in milliseconds', above(0), fixed=True),
  'hop_ms': Field(10.0, 'from one window to the next, in milliseconds', above(0), fixed=True),
  'mel_bins': Field(40, 'bands of frequencies', at_least(1), fixed=True),
  'lower_hertz': Field(20.0, 'where the lowest band begins', at_least(0), fixed=True),
  'upper_hertz': Field(0.0, 'where the highest band ends; 0: half the sample rate', at_least(0), fixed=True),
  'equal_loudness': Field(False, 'each recording is brought to a mean square of 1 first', fixed=True),
  'statistics_examples': Field(
    10_000, 'examples of the training split, from its beginning, that statistics are taken of', at_least(1), fixed=True
  ),
}

# 16 bits, the depth of sound files; the scale of float recordings is 1 already.
_FULL_SCALE = 2.0**15
# Added to the power of a band: some 100 dB below a sine of full scale.
_FLOOR = 1e-6


class LogMel:
  """Turns recordings into log-mel frames of mean 0 and deviation 1 per band, over the training split.

  Attributes:
    name: of the feature.
    rate: samples per second.
    frames: T, as many as there are in `seconds`.
    bins: F.
    hertz_F: float64, the middle of each band.
    deviation_F: float64, the deviation of each band's natural logarithm, by which it is divided.
  """

  def __init__(self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None):
    """Chooses the feature and takes its statistics.

    Args:
      fields: the values of FIELDS.
      features: the dataset's features by name.
      examples: the training split's examples; None for synthetic input, which is left as if of mean 0, deviation 1.
      saved: `state()` of an earlier attempt, whose statistics are used instead of the split's.

    Raises:
      ConfigError: there is no such recording, its sample rate is not known, or the windows or bands do not fit.
    """
    fitting = [name for name, feature in features.items() if isinstance(feature, tfds.features.Audio)]
    self.name = inputs_lib.pick('task.input', fields.input, fitting, features, 'a recording')
    self.rate = rate = _sample_rate(fields.sample_rate, self.name, features[self.name].sample_rate)
    self._samples, self._window, self._hop = (
      round(rate * seconds) for seconds in (fields.seconds, fields.frame_ms / 1000, fields.hop_ms / 1000)
    )
    if not 1 <= self._hop <= self._window <= self._samples:
      raise ConfigError(
        f'task.hop_ms={fields.hop_ms}, frame_ms={fields.frame_ms} and seconds={fields.seconds} are {self._hop}, '
        f'{self._window} and {self._samples} samples: each must be at least the one before it, and 1'
      )
    upper = fields.upper_hertz or rate / 2
    if not fields.lower_hertz < upper <= rate / 2:
      raise ConfigError(
        f'task.lower_hertz={fields.lower_hertz} and upper_hertz={upper} must be rising, and at most {rate / 2}, half '
        'the sample rate: change them'
      )
    self.frames, self.bins = 1 + (self._samples - self._window) // self._hop, fields.mel_bins
    self._fft = 1 << (self._window - 1).bit_length()
    self._mel = tf.signal.linear_to_mel_weight_matrix(
      self.bins, self._fft // 2 + 1, rate, fields.lower_hertz, upper
    ).numpy()
    edges = np.linspace(to_mel(fields.lower_hertz), to_mel(upper), self.bins + 2)
    self.hertz_F, self.nyquist = to_hertz(edges[1:-1]), rate / 2
    self._equal_loudness = fields.equal_loudness
    mean, deviation = np.zeros([self.bins]), np.ones([self.bins])
    if saved is not None:
      mean, deviation = np.array(saved['mean']), np.array(saved['deviation'])
    elif examples is not None:
      some = examples().take(fields.statistics_examples)
      mean, deviation = inputs_lib.moments(some.map(self._heard, tf.data.AUTOTUNE, deterministic=True), keep=1)
    self._mean, self.deviation_F = mean, deviation

  def __call__(self, features: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One recording.

    Returns:
      Frames float32 [T, F], 0 behind the end of the recording; how many of them are the recording's, int32 [], at
      least 1; whether it was heard to its end, bool [].
    """
    raw = self._heard(features)
    samples = tf.shape(features[self.name])[0]
    length = tf.reduce_sum(tf.cast(~tf.math.is_nan(raw[:, 0]), tf.int32))
    frames = (raw - self._mean.astype(np.float32)) / self.deviation_F.astype(np.float32)
    return tf.where(tf.math.is_nan(raw), 0.0, frames), length, samples <= self._samples

  def look(self, frames_TF: np.ndarray) -> list[Part]:
    """The frames as a picture, time to the right and high bands above."""
    values = np.clip((np.asarray(frames_TF, np.float64).T[::-1] + 2.0) / 4.0, 0.0, 1.0)
    return [Part('log-mel frames', 'image', heat(values))]

  def hear(self, features: Mapping[str, Any]) -> list[Part]:
    """The recording."""
    samples = np.asarray(features[self.name])
    if not np.issubdtype(samples.dtype, np.integer):
      samples = np.clip(samples, -1.0, 1.0) * (_FULL_SCALE - 1)
    samples = samples.mean(axis=1) if samples.ndim == 2 else samples
    return [Part('recording', 'sound', (np.clip(samples, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16), self.rate))]

  def state(self) -> dict[str, Any]:
    """The choice and the statistics, ready for JSON."""
    return {'feature': self.name, 'mean': self._mean.tolist(), 'deviation': self.deviation_F.tolist()}

  def _heard(self, features: Mapping[str, Any]) -> tf.Tensor:
    """Natural logarithms of the bands' powers, float32 [T, F]; NaN behind the end of the recording."""
    audio = features[self.name]
    scale = _FULL_SCALE if audio.dtype.is_integer else 1.0
    audio = tf.cast(audio, tf.float32) / scale
    audio = tf.reduce_mean(audio, axis=1) if audio.shape.rank == 2 else audio
    audio = audio[: self._samples]
    if self._equal_loudness:
      audio *= tf.math.rsqrt(tf.reduce_mean(audio**2) + _FLOOR)
    samples = tf.shape(audio)[0]
    audio = tf.ensure_shape(tf.pad(audio, [[0, self._samples - samples]]), [self._samples])
    power = tf.abs(tf.signal.stft(audio, self._window, self._hop, self._fft)) ** 2
    logs = tf.math.log(tf.matmul(power, self._mel) + _FLOOR)
    length = tf.maximum((samples - self._window) // self._hop, 0) + 1
    return tf.where((tf.range(self.frames) < length)[:, tf.newaxis], logs, np.nan)


def to_mel(hertz: Any) -> Any:
  """The mel scale of `tf.signal`: O'Shaughnessy, Speech Communication, 1987."""
  return 1127.0 * np.log1p(hertz / 700.0)


def to_hertz(mel: Any) -> Any:
  """The inverse of `to_mel`."""
  return 700.0 * np.expm1(mel / 1127.0)


def _sample_rate(asked: int, name: str, known: int | None) -> int:
  """Samples per second, from the field and what the feature says."""
  if asked and known and asked != known:
    raise ConfigError(f'task.sample_rate={asked}, but the dataset has {name!r} at {known}: set it to 0')
  if not (asked or known):
    raise ConfigError(f'the dataset does not say how many samples per second {name!r} has: set task.sample_rate')
  return asked or int(known or 0)
