"""Numbers for an image or a vector of numbers: one target, or a vector of them.

The loss is taken of standardised targets, so that a learning rate means the same on any unit; metrics are in the
dataset's own unit.

Dimensions: B batch, U targets of an example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, each
from trainer.report.gallery import Part
from trainer.tasks import catalogue
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet

# These are taken of standardised targets and of the outputs as they are; the others of values in the dataset's unit,
# because what they say depends on where zero is.
_STANDARDIZED = ('CosineSimilarity', 'Huber', 'LogCosh', 'MeanAbsoluteError', 'MeanSquaredError')
LOSSES = (
  'cosine_similarity', 'huber', 'log_cosh', 'mean_absolute_error', 'mean_absolute_percentage_error',
  'mean_squared_error', 'mean_squared_logarithmic_error', 'poisson',
)  # fmt: skip
METRICS = (
  'concordance_correlation', 'cosine_similarity', 'log_cosh_error', 'mean_absolute_error',
  'mean_absolute_percentage_error', 'mean_squared_error', 'mean_squared_logarithmic_error', 'pearson_correlation',
  'poisson', 'r2_score', 'root_mean_squared_error',
)  # fmt: skip
# Compare the targets of one example with each other, and so need several.
_OF_VECTORS = ('concordance_correlation', 'cosine_similarity', 'pearson_correlation')


def _check_loss(name: str) -> str:
  return catalogue.check_loss(name, LOSSES, 'regression')


def _check_metric(name: str) -> str:
  return catalogue.check_metric(name, METRICS, 'regression')


FIELDS: dict[str, Field] = {
  **inputs_lib.FIELDS,
  'target': Field(
    'auto', "feature that is learnt; auto: the one named 'target', else the only numeric scalar", fixed=True
  ),
  'standardize_target': Field(True, 'learn (target - mean) / deviation of the training split', fixed=True),
  'loss': Field(
    'mean_squared_error',
    'a Keras loss; poisson: counts, of which the model gives the logarithm',
    _check_loss,
    fixed=True,
  ),
  'loss_options': Field(
    '', 'further arguments of the loss as JSON, e.g. \'{"delta": 0.5}\'', catalogue.check_json, fixed=True
  ),
  'metrics': Field(
    ('rmse', 'mae', 'r2'), 'Keras metrics; the first is what the best checkpoint is chosen by', each(_check_metric)
  ),
  'metric_options': Field(
    '', 'further arguments of metrics by name, as JSON, e.g. \'{"r2": {"num_regressors": 3}}\'', catalogue.check_json
  ),
}


class Regression(Task):
  """Regression on one dataset's examples."""

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    self._target = _choose_target(fields.target, features)
    shape = tuple(features[self._target].shape)
    if None in shape:
      raise ConfigError(
        f'feature {self._target!r} has the shape {shape}, which differs between examples: set task.target'
      )
    self.units = int(np.prod(shape))
    self._inputs = self._make_inputs(fields, features, examples, saved and saved['inputs'])
    self.input_spec, self.given, self.references = self._inputs.spec, self._inputs.name, (f'true {self._target}',)
    self._poisson = catalogue.loss_name(fields.loss) == 'poisson'
    mean, deviation = np.zeros([self.units]), np.ones([self.units])
    if fields.standardize_target and saved is not None:
      mean, deviation = np.array(saved['mean']), np.array(saved['deviation'])
    elif fields.standardize_target and examples is not None:
      targets = examples().map(self._raw_target, tf.data.AUTOTUNE, deterministic=True)
      mean, deviation = inputs_lib.moments(targets, keep=1)
    if self._poisson and fields.standardize_target and examples is not None and not np.all(mean > 0):
      raise ConfigError(
        f"task.loss='poisson' is for counts, but {self._target!r} has the mean {mean.min():g}: take another loss"
      )
    self._mean, self._deviation = mean, deviation
    self._loss = self._make_loss(fields)
    self.metrics = self._make_metrics(fields)

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """One raw example -> 'inputs' float32 of `input_spec`, 'targets' float32 [U], in the dataset's unit."""
    return {'inputs': self._inputs(features), 'targets': self._raw_target(features)}

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    outputs = tf.cast(outputs, tf.float32)
    if type(self._loss).__name__ in _STANDARDIZED:
      y_true, y_pred = (batch['targets'] - self._f32(self._mean)) / self._f32(self._deviation), outputs
    else:
      y_true, y_pred = batch['targets'], self._values(outputs)
    return tf.ensure_shape(self._loss(y_true, y_pred), outputs.shape[:1])

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """'values' and the 'true' ones, float32 [B, U], in the dataset's unit."""
    return {'values': self._values(tf.cast(outputs, tf.float32)), 'true': batch['targets']}

  def readable(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A number, or a list of them, under the name of the target; in the dataset's unit."""
    told = [prediction[name].astype(float).tolist() for name in ('values', 'true')]
    told = [value[0] if self.units == 1 else value for value in told]
    return dict(zip((self._target, *self.references), told, strict=True))

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = self._inputs.look(example['inputs'])
    if 'targets' in example:
      parts.append(Part(self._target, 'text', ', '.join(f'{value:.6g}' for value in example['targets'].tolist())))
    return parts

  def state(self) -> dict[str, Any]:
    return {
      'inputs': self._inputs.state(),
      'target': self._target,
      'mean': self._mean.tolist(),
      'deviation': self._deviation.tolist(),
    }

  def _make_inputs(
    self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None
  ) -> Any:
    return inputs_lib.Inputs(fields, features, self._target, examples, saved)

  def _raw_target(self, features: Mapping[str, Any]) -> tf.Tensor:
    return tf.reshape(tf.cast(features[self._target], tf.float32), [self.units])

  def _values(self, outputs_BU: tf.Tensor) -> tf.Tensor:
    """The model's outputs in the dataset's unit, [B, U]."""
    if self._poisson:
      # The canonical link of Poisson regression; times the mean, so that outputs of 0 stand for the mean as elsewhere.
      return tf.exp(outputs_BU) * self._f32(np.where(self._mean > 0, self._mean, 1.0))
    return outputs_BU * self._f32(self._deviation) + self._f32(self._mean)

  @staticmethod
  def _f32(statistic: np.ndarray) -> np.ndarray:
    return statistic.astype(np.float32)

  def _make_loss(self, fields: Any) -> Any:
    name = catalogue.loss_name(fields.loss)
    self._refuse_vectors('task.loss', name)
    fixed = {'reduction': 'none', 'dtype': 'float32', 'axis': -1}
    given = json.loads(fields.loss_options or '{}')
    return catalogue.make(catalogue.losses()[name], 'task.loss_options', given, defaults={}, fixed=fixed)

  def _make_metrics(self, fields: Any) -> MetricSet:
    for name in fields.metrics:
      self._refuse_vectors('task.metrics', catalogue.metric_name(name))
      if catalogue.metric_name(name) == 'poisson' and not self._poisson:
        raise ConfigError(
          "task.metrics has 'poisson', the logarithm of predictions that may be negative: set task.loss too"
        )
    metrics = catalogue.make_metrics(fields, {}, {}, {'dtype': 'float32', 'axis': -1})
    random = np.random.default_rng(0)
    outputs, noise = random.normal(size=(2, 12, self.units))
    # Positive, because logarithms and counts are; standard deviations around 3 keep them so.
    targets = self._deviation * np.abs(outputs + noise / 2 + 3) + np.abs(self._mean)
    return MetricSet(metrics, self._view, outputs.astype(np.float32), {'targets': targets.astype(np.float32)})

  def _view(self, kind: str, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Targets, predictions and weights as the Keras metric of class `kind` wants them: in the dataset's unit."""
    y_true, y_pred = batch['targets'], self._values(tf.cast(outputs, tf.float32))
    if kind == 'R2Score':
      # It subtracts two sums of squares, which keep their digits around a mean of 0; moving both changes nothing else.
      y_true, y_pred = y_true - self._f32(self._mean), y_pred - self._f32(self._mean)
    return y_true, y_pred, batch['weight']

  def _refuse_vectors(self, field: str, name: str) -> None:
    if name in _OF_VECTORS and self.units == 1:
      raise ConfigError(
        f'{field} has {name!r}, which compares the targets of one example, but there is only one: leave it out'
      )


def _choose_target(wanted: str, features: Mapping[str, Any]) -> str:
  numeric = [name for name, feature in features.items() if inputs_lib.is_numeric(feature)]
  if wanted == 'auto':
    numeric = ['target'] if 'target' in numeric else [n for n in numeric if tuple(features[n].shape) == ()]
  return inputs_lib.pick('task.target', wanted, numeric, features, 'a number to learn')


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Regression:
  """See `trainer.tasks.create`."""
  return Regression(config, features, examples, saved)
