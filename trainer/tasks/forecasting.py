"""Values of a time series at several horizons after the history that the model sees.

An example of the dataset is a window of the series, [T, C], cut by time; its end is forecast from its beginning. What
is learnt is the change since the last value seen, divided by how large that is at each horizon, so that near and far
horizons count alike and a model that has learnt nothing is as good as persistence. Errors are reported in standard
deviations of the series. All statistics are of the training split.

Dimensions: B batch, T steps of a window, C channels, H horizons, U = H C outputs (horizon by horizon).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least
from trainer.report.gallery import Part
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet


def _check_horizons(horizons: tuple[int, ...]) -> str:
  good = all(isinstance(step, int) and step >= 1 for step in horizons) and sorted(set(horizons)) == list(horizons)
  return '' if good and horizons else 'must be rising numbers of steps, each at least 1'


FIELDS: dict[str, Field] = {
  'series': Field('auto', 'feature [time, channels] that is forecast; auto: the only one of that rank', fixed=True),
  'horizons': Field((1,), 'steps after the last one seen that are forecast, rising', _check_horizons, fixed=True),
  'history': Field(0, 'steps that the model sees; 0: all but the last horizon', at_least(0), fixed=True),
  'every': Field(1, 'of the history each so-manieth step is seen, counted back from the last', at_least(1), fixed=True),
}


# Steps of a window that are shown.
_SHOWN = 12


class HorizonErrors(MetricSet):
  """Root mean square error of each horizon over all channels, in standard deviations of the series: `rmse_30`.

  The state is the sum of weights, and for each output the weighted sum of squared errors: float32 [1 + U].
  """

  def __init__(self, horizons: tuple[int, ...], channels: int, scale_U: np.ndarray):
    self._horizons, self._channels, self._scale_U = horizons, channels, scale_U.astype(np.float32)
    self.size = 1 + len(scale_U)
    self.names = tuple(f'rmse_{step}' for step in horizons)
    self.modes = dict.fromkeys(reversed(self.names), 'min')  # the farthest says which checkpoint is best

  def values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    errors_BU = (tf.cast(outputs, tf.float32) - batch['targets']) * self._scale_U
    weight_B1 = tf.cast(batch['weight'], tf.float32)[:, None]
    # A padded row may hold anything: left out rather than multiplied by 0, which would keep a NaN.
    squares_U = tf.reduce_sum(tf.where(weight_B1 > 0, errors_BU**2 * weight_B1, 0.0), axis=0)
    return tf.concat([tf.reduce_sum(weight_B1, axis=0), squares_U], axis=0)

  def results(self, totals: np.ndarray) -> dict[str, float]:
    assert totals.shape == (self.size,)
    squares_H = totals[1:].reshape(len(self._horizons), self._channels).mean(axis=1)
    means_H = squares_H / totals[0] if totals[0] else np.full_like(squares_H, np.nan)
    return {name: float(np.sqrt(mean)) for name, mean in zip(self.names, means_H, strict=True)}


class Forecasting(Task):
  """Forecasting on windows of a series."""

  references = ('true',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    fitting = [n for n, f in features.items() if inputs_lib.is_numeric(f) and len(f.shape) == 2]
    self._series = inputs_lib.pick('task.series', fields.series, fitting, features, 'a series [time, channels]')
    length, channels = features[self._series].shape
    if length is None or channels is None:
      raise ConfigError(
        f'feature {self._series!r} has the shape {(length, channels)}, which differs between examples: cut the series '
        'into windows of one length'
      )
    horizons = tuple(fields.horizons)
    history = fields.history or length - horizons[-1]
    if history < 1 or history + horizons[-1] > length:
      raise ConfigError(
        f'task.history={fields.history} and task.horizons={horizons} need more than the {length} steps of a window: '
        'lower one of them'
      )
    self._last = history - 1
    self.steps_given = history
    # In time: the last of them is the last step seen.
    self._seen = np.arange(self._last, -1, -fields.every)[::-1].copy()
    self._ahead = self._last + np.array(horizons)
    self.units, self.given, self._horizons = len(horizons) * channels, self._series, horizons
    self.input_spec = tf.TensorSpec((len(self._seen), channels), tf.float32)
    mean, deviation, scale = np.zeros([channels]), np.ones([channels]), np.ones([self.units])
    if saved is not None:
      mean, deviation, scale = (np.array(saved[name]) for name in ('mean', 'deviation', 'scale'))
    elif examples is not None:
      mean, deviation = inputs_lib.moments(examples().map(self._window, tf.data.AUTOTUNE, deterministic=True), keep=1)
      changes = examples().map(lambda row: self._change(row) / self._repeated(deviation), deterministic=True)
      middle, spread = inputs_lib.moments(changes, keep=1)
      scale = np.sqrt(middle**2 + spread**2)
    self._mean, self._deviation, self._scale = mean, deviation, scale
    self.metrics = HorizonErrors(horizons, channels, scale)

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """A window -> 'inputs' float32 [seen, C] in standard deviations, 'targets' float32 [U], scaled changes."""
    seen = tf.gather(self._window(features), self._seen)
    inputs = (seen - self._mean.astype(np.float32)) / self._deviation.astype(np.float32)
    targets = self._change(features) / self._repeated(self._deviation) / self._scale.astype(np.float32)
    return {'inputs': tf.ensure_shape(inputs, self.input_spec.shape), 'targets': tf.ensure_shape(targets, [self.units])}

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    return tf.reduce_mean((tf.cast(outputs, tf.float32) - batch['targets']) ** 2, axis=-1)

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """'values' at the horizons and the 'true' ones, float32 [B, U], in the unit of the series."""
    repeat = self.units // len(self._mean)
    last_BU = tf.tile(batch['inputs'][:, -1] * _f32(self._deviation) + _f32(self._mean), [1, repeat])
    unit_U = self._repeated(self._deviation) * _f32(self._scale)
    changes = {'values': tf.cast(outputs, tf.float32), 'true': batch['targets']}
    return {name: last_BU + change * unit_U for name, change in changes.items()}

  def readable(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By horizon a value for each channel, in the unit of the series."""

    def by_horizon(values_U: np.ndarray) -> dict[str, list[float]]:
      values = values_U.astype(float).reshape(len(self._horizons), -1).tolist()
      return dict(zip(map(str, self._horizons), values, strict=True))

    return {'forecast': by_horizon(prediction['values']), 'true': by_horizon(prediction['true'])}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    values_TC = example['inputs'] * self._deviation + self._mean
    rows = '\n'.join(' '.join(f'{value:.6g}' for value in row) for row in values_TC[-_SHOWN:].tolist())
    return [Part(f'the last {min(_SHOWN, len(values_TC))} steps that are seen', 'text', rows)]

  def state(self) -> dict[str, Any]:
    return {
      'series': self._series,
      'mean': self._mean.tolist(),
      'deviation': self._deviation.tolist(),
      'scale': self._scale.tolist(),
    }

  def _window(self, features: Mapping[str, Any]) -> tf.Tensor:
    return tf.cast(features[self._series], tf.float32)

  def _change(self, features: Mapping[str, Any]) -> tf.Tensor:
    """From the last value seen to each horizon, in the dataset's unit, float32 [U]."""
    window = self._window(features)
    return tf.reshape(tf.gather(window, self._ahead) - window[self._last], [self.units])

  def _repeated(self, per_channel: np.ndarray) -> np.ndarray:
    return np.tile(per_channel, self.units // len(per_channel)).astype(np.float32)


def _f32(statistic: np.ndarray) -> np.ndarray:
  return statistic.astype(np.float32)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Forecasting:
  """See `trainer.tasks.create`."""
  return Forecasting(config, features, examples, saved)
