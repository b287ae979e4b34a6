"""Keras metrics as sums: any metric on any topology, without a variable being written.

The state of a Keras metric, started from zeros, is a sum over examples (a total and a count, confusion counts, sums of
squares). So each batch on each replica gives the state that its own examples make, all metrics' states in one vector;
the harness adds the vectors up, over replicas and batches, and Keras computes the results from the totals. That each
metric is such a sum, and counts an example of weight 0 as none, is not taken on trust but tried on a few made-up
examples when the set is created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError

# (name of the metric's class, outputs, batch) -> (y_true, y_pred, sample_weight) as that metric wants them
View = Callable[[str, tf.Tensor, Mapping[str, Any]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


class MetricSet:
  """Some Keras metrics and their joint state, float32 [M].

  Attributes:
    size: M.
    names: what `results` has, in the order of the metrics.
    modes: 'max' or 'min' by name, whichever is better; a count, which is neither, has no entry.
  """

  def __init__(
    self, metrics: Mapping[str, keras.metrics.Metric], view: View, outputs: np.ndarray, batch: Mapping[str, np.ndarray]
  ):
    """Builds and tries the metrics.

    Args:
      metrics: by the name that they are reported under.
      view: gives a metric its arguments.
      outputs: made-up outputs of the model, [B, ...], B at least 4.
      batch: made-up 'targets' for them.

    Raises:
      ConfigError: a metric does not fit the task, or is not a sum over examples.
    """
    self._metrics = dict(metrics)
    self._view = view
    for name, metric in self._metrics.items():
      try:
        _try(metric, self._state, outputs, batch)
      except (ValueError, TypeError, tf.errors.OpError) as error:
        raise ConfigError(f'metric {name!r} does not work here: {str(error).strip().splitlines()[0]}') from error
    self._shapes = [(tuple(v.shape), v.dtype) for metric in self._metrics.values() for v in metric.variables]
    self._sizes = [int(np.prod(shape)) for shape, _ in self._shapes]
    self.size = sum(self._sizes)
    self.names = tuple(self.results(np.zeros([self.size])))
    self.modes = {}
    for name, metric in self._metrics.items():
      mode = {'up': 'max', 'down': 'min'}.get(getattr(metric, '_direction', None) or '')
      if mode:
        self.modes.update({n: mode for n in self.names if n == name or n.rpartition('_')[0] == name})

  def values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """The state that this batch makes, float32 [M]; add those of several batches up.

    Args:
      outputs: raw outputs of the model, [B, ...].
      batch: 'targets' and 'weight' of the same examples.
    """
    states = [s for metric in self._metrics.values() for s in self._state(metric, _zeros(metric), outputs, batch)]
    return tf.concat([tf.reshape(tf.cast(s, tf.float32), [-1]) for s in states] or [tf.zeros([0])], axis=0)

  def results(self, totals: np.ndarray) -> dict[str, float]:
    """The metrics' values from the summed states, [M]; a metric with several values gives name_0, name_1, ..."""
    assert totals.shape == (self.size,), f'{totals.shape} is not the shape of the state, {(self.size,)}'
    parts = np.split(totals, np.cumsum(self._sizes)[:-1]) if self._sizes else []
    state = iter([tf.constant(p.reshape(s), d) for p, (s, d) in zip(parts, self._shapes, strict=True)])
    results: dict[str, float] = {}
    for name, metric in self._metrics.items():
      value = np.asarray(metric.stateless_result([next(state) for _ in metric.variables]))
      results.update(
        {name: float(value)} if value.ndim == 0 else {f'{name}_{i}': float(v) for i, v in enumerate(value)}
      )
    return results

  def _state(
    self, metric: keras.metrics.Metric, before: list[Any], outputs: Any, batch: Mapping[str, Any]
  ) -> list[Any]:
    y_true, y_pred, weight = self._view(type(metric).__name__, outputs, batch)
    return metric.stateless_update_state(before, y_true, y_pred, sample_weight=weight)


def _try(metric: keras.metrics.Metric, update: Callable, outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> None:
  """Holds a metric to what the module says of it.

  Args:
    metric: the metric; afterwards it has all its variables.
    update: (metric, state before, outputs, batch) -> state after.
    outputs: as for `MetricSet`.
    batch: as for `MetricSet`.

  Raises:
    ValueError: its state is not a sum over examples, or counts examples of weight 0, or it gives no finite value.
  """

  def state(before: list[np.ndarray] | None, begin: int, end: int, weight: float = 1.0) -> list[np.ndarray]:
    rows = {name: tf.constant(value[begin:end]) for name, value in batch.items()}
    rows['weight'] = tf.fill([end - begin], weight)
    after = update(
      metric, _tensors(metric, before) if before else _zeros(metric), tf.constant(outputs[begin:end]), rows
    )
    return [np.asarray(value, np.float64) for value in after]

  def result(values: list[np.ndarray]) -> np.ndarray:
    return np.asarray(metric.stateless_result(_tensors(metric, values)), np.float64)

  half, count = len(outputs) // 2, len(outputs)
  # Some metrics make variables when they first see data; made in this call, they are not made again in each trace.
  state(None, 0, half)
  if any(np.any(tf.convert_to_tensor(variable.value).numpy()) for variable in metric.variables):
    raise ValueError('its state does not start from zeros, so states cannot be added up')
  whole, first, second = state(None, 0, count), state(None, 0, half), state(None, half, count)
  if not (_close(_add(first, second), whole) and _close(state(first, half, count), whole)):
    raise ValueError('its state is not a sum over examples')
  padding = state(None, half, count, weight=0.0)
  if not _close([result(_add(first, padding))], [result(first)]):
    raise ValueError('it counts examples of weight 0, which fill up the last batch')
  if not np.all(np.isfinite(result(whole))):
    raise ValueError('it has no finite value for such targets and predictions')


def _zeros(metric: keras.metrics.Metric) -> list[tf.Tensor]:
  return [tf.zeros(variable.shape, variable.dtype) for variable in metric.variables]


def _tensors(metric: keras.metrics.Metric, values: list[np.ndarray]) -> list[tf.Tensor]:
  return [tf.constant(value, variable.dtype) for value, variable in zip(values, metric.variables, strict=True)]


def _add(left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
  return [a + b for a, b in zip(left, right, strict=True)]


def _close(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
  return all(np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(left, right, strict=True))
