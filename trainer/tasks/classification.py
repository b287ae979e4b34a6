"""One of several classes for an image or a vector of numbers.

Dimensions: B batch, C classes. The model gives C logits, or one with `task.single_logit`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, each, fraction
from trainer.report.gallery import Part
from trainer.tasks import augment, catalogue, mixup, randaugment
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet

# What a Keras loss or metric is given as (y_true, y_pred), by class name; those not named get _OTHERS. Logits are of
# C classes even if the model gives one. 'raw' are the model's outputs as they are: each against its own 0 or 1.
_VIEWS = {
  'SparseCategoricalCrossentropy': ('labels', 'logits'),
  'CategoricalCrossentropy': ('one_hot', 'logits'),
  'CategoricalFocalCrossentropy': ('one_hot', 'logits'),
  'CategoricalHinge': ('one_hot', 'logits'),
  'BinaryCrossentropy': ('raw', 'raw'),
  'BinaryFocalCrossentropy': ('raw', 'raw'),
  'Hinge': ('raw', 'raw'),
  'SquaredHinge': ('raw', 'raw'),
  'CategoricalGeneralizedCrossEntropy': ('labels', 'floored'),
  'SparseCategoricalAccuracy': ('labels', 'probabilities'),
  'SparseTopKCategoricalAccuracy': ('labels', 'probabilities'),
  'Accuracy': ('labels', 'class'),
  'IoU': ('labels', 'class'),
  'MeanIoU': ('labels', 'class'),
  # Of two classes, how well the second is told from the first; of more, each against the rest, all counted together.
  **dict.fromkeys(
    (
      'AUC', 'BinaryAccuracy', 'BinaryIoU', 'FalseNegatives', 'FalsePositives', 'Precision', 'PrecisionAtRecall',
      'Recall', 'RecallAtPrecision', 'SensitivityAtSpecificity', 'SpecificityAtSensitivity', 'TrueNegatives',
      'TruePositives',
    ),
    ('positive', 'positive'),
  ),
}  # fmt: skip
_OTHERS = ('one_hot', 'probabilities')

# Not here: CTC (sequences), circle (embeddings), the percentage error, which divides by the zeros of a one-hot, and
# whatever a later Keras adds before it is known what it must be given.
LOSSES = (
  'binary_crossentropy', 'binary_focal_crossentropy', 'categorical_crossentropy', 'categorical_focal_crossentropy',
  'categorical_generalized_cross_entropy', 'categorical_hinge', 'cosine_similarity', 'dice', 'hinge', 'huber',
  'kl_divergence', 'log_cosh', 'mean_absolute_error', 'mean_squared_error', 'mean_squared_logarithmic_error', 'poisson',
  'sparse_categorical_crossentropy', 'squared_hinge', 'tversky',
)  # fmt: skip
METRICS = tuple(catalogue.metrics())
# So many classes are named with their probabilities.
_LIKELIEST = 5


def _check_loss(name: str) -> str:
  return '' if name == 'auto' else catalogue.check_loss(name, LOSSES, 'classification')


def _check_metric(name: str) -> str:
  return catalogue.check_metric(name, METRICS, 'classification')


FIELDS: dict[str, Field] = {
  **inputs_lib.FIELDS,
  'label': Field('auto', 'feature that is learnt; auto: the only class label', fixed=True),
  'single_logit': Field(False, 'two classes as one logit and a sigmoid, not as two and a softmax', fixed=True),
  'loss': Field(
    'auto',
    'a Keras loss; auto: cross-entropy, binary with single_logit and categorical without',
    _check_loss,
    fixed=True,
  ),
  'loss_options': Field(
    '', 'further arguments of the loss as JSON, e.g. \'{"gamma": 2.0}\'', catalogue.check_json, fixed=True
  ),
  'label_smoothing': Field(0.0, 'share of the label that is spread evenly over all classes', fraction, fixed=True),
  'metrics': Field(
    ('accuracy',), 'Keras metrics; the first is what the best checkpoint is chosen by', each(_check_metric)
  ),
  'metric_options': Field(
    '',
    'further arguments of metrics by name, as JSON, e.g. \'{"sensitivity_at_specificity": {"specificity": 0.9}}\'',
    catalogue.check_json,
  ),
  **augment.FIELDS,
  **randaugment.FIELDS,
  **mixup.FIELDS,
}


class Classification(Task):
  """Classification of one dataset's examples."""

  references = ('label',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    fitting = [n for n, f in features.items() if isinstance(f, tfds.features.ClassLabel) and f.num_classes]
    self._label = inputs_lib.pick('task.label', fields.label, fitting, features, 'a class label')
    self._classes = features[self._label].num_classes
    self._names = list(features[self._label].names or [])
    if fields.single_logit and self._classes != 2:
      raise ConfigError(f'task.single_logit needs two classes, {self._label!r} has {self._classes}: set it to False')
    self.units = 1 if fields.single_logit else self._classes
    self.activation = 'sigmoid' if fields.single_logit else 'softmax'
    self._inputs = self._make_inputs(fields, features, examples, saved and saved['inputs'])
    self.input_spec, self.given = self._inputs.spec, self._inputs.name
    self._augmentation, self._uncropped = fields, None
    if fields.get('crop_area') and self._inputs.has_parts:
      self.crops, self._uncropped = self._inputs.name, augment.uncropped(fields)
    # Uniform numbers for each of: move, change colours, mix.
    self._draws = self._count_draws(fields)
    self.draws = sum(self._draws)
    self._beta = mixup.quantiles(fields.mixup) if self._draws[2] else np.zeros(0)
    self._loss = self._make_loss(fields)
    self.metrics = self._make_metrics(fields)

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """One raw example -> 'inputs' float32 of `input_spec`, 'targets' int32 []."""
    return {**self._target(features), 'inputs': self._inputs(features)}

  def _target(self, features: Mapping[str, Any]) -> dict[str, Any]:
    return {'targets': tf.ensure_shape(tf.cast(features[self._label], tf.int32), [])}

  def cropped(self, features: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """See the base class."""

    def window(size: tf.Tensor) -> tf.Tensor:
      return augment.window(self._augmentation, size, self._inputs.spec.shape[:2], draws[: self._draws[0]])

    return {**self._target(features), 'inputs': self._inputs.part(features[self.crops], window)}

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """Moves, changes and mixes the images; see the base class.

    Raises:
      ConfigError: examples are mixed, and the batch of a replica is odd.
    """
    return self._augmented(self._augmentation, batch, draws)

  def augment_cropped(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """See the base class; raises as `augment`."""
    return self._augmented(self._uncropped, batch, draws)

  def _augmented(self, moves: Any, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """Args:
    moves: values of augment.FIELDS.
    batch: as for `augment`.
    draws: likewise.
    """
    if not self.draws:
      return dict(batch)
    move, change, mix = tf.split(draws, self._draws, axis=1)
    fields, inputs = self._augmentation, batch['inputs']
    if count := augment.draws(moves):
      inputs = augment.images(moves, inputs, move[:, :count], self._inputs.black)
    if self._draws[1]:
      raw = self._inputs.raw(inputs) * (255.0 / fields.max_value)
      inputs = self._inputs.normalized(randaugment.images(fields, raw, change) * (fields.max_value / 255.0))
    batch = {**batch, 'inputs': inputs}
    return mixup.mix(batch, mix[:, 0], self._beta) if self._draws[2] else batch

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """See the base class. The loss of a mixture is that of its labels, in the shares in which they are mixed."""
    losses_B = self._losses(outputs, batch)
    if 'mixed_share' not in batch:
      return losses_B
    others_B = self._losses(outputs, {**batch, 'targets': batch['mixed_targets']})
    return batch['mixed_share'] * losses_B + (1.0 - batch['mixed_share']) * others_B

  def _losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    y_true, y_pred = self._view(type(self._loss).__name__, outputs, batch)
    return tf.ensure_shape(self._loss(y_true, y_pred), outputs.shape[:1])

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """'probabilities' float32 [B, C]; 'label' int32 [B], the right class."""
    return {'probabilities': tf.nn.softmax(self._logits(outputs)), 'label': batch['targets']}

  def readable(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The likeliest class, the probabilities of the likeliest five, and the right class."""
    probabilities_C = prediction['probabilities']
    best = np.argsort(-probabilities_C, kind='stable')[:_LIKELIEST].tolist()
    return {
      'class': self._class(best[0]),
      'probabilities': {str(self._class(i)): round(float(probabilities_C[i]), 6) for i in best},
      'label': self._class(int(prediction['label'])),
    }

  def wording(self) -> dict[str, dict[str, Any]]:
    return {'probabilities': {'classes': [str(self._class(i)) for i in range(self._classes)]}}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = self._inputs.look(example['inputs'])
    if 'targets' in example:
      parts.append(Part('label', 'text', str(self._class(int(example['targets'])))))
    if 'mixed_share' in example:
      others, share = self._class(int(example['mixed_targets'])), 1.0 - float(example['mixed_share'])
      parts.append(Part('mixed in', 'text', f'{share:.2f} of {others}'))
    return parts

  def draw(self, example: Mapping[str, Any], prediction: Mapping[str, np.ndarray]) -> list[Part]:
    return [Part('prediction', 'shares', self.readable(prediction)['probabilities'])]

  def mistake(self, prediction: Mapping[str, np.ndarray]) -> tuple[str, str]:
    return str(self._class(int(prediction['label']))), str(self._class(int(prediction['probabilities'].argmax())))

  def _class(self, label: int) -> str | int:
    return self._names[label] if self._names else label

  def state(self) -> dict[str, Any]:
    return {'inputs': self._inputs.state(), 'label': self._label, 'classes': self._classes, 'names': self._names}

  def _make_inputs(
    self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None
  ) -> Any:
    return inputs_lib.Inputs(fields, features, self._label, examples, saved)

  def _count_draws(self, fields: Any) -> tuple[int, int, int]:
    draws = augment.draws(fields), randaugment.draws(fields), mixup.draws(fields)
    if any(draws[:2]) and not self._inputs.is_image:
      names = ', '.join([*augment.FIELDS, 'randaugment_layers'])
      raise ConfigError(f'task.input={self._inputs.name!r} is not an image: set {names} to 0 or False')
    return draws

  def _make_loss(self, fields: Any) -> Any:
    name = catalogue.loss_name(fields.loss)
    if fields.loss == 'auto':
      sparse = 'categorical_crossentropy' if fields.label_smoothing else 'sparse_categorical_crossentropy'
      name = 'binary_crossentropy' if fields.single_logit else sparse
    smooth = {'label_smoothing': fields.label_smoothing}
    # Dice and Tversky sum over `axis`: by default over the batch too, which would not be a loss per example.
    fixed = {'reduction': 'none', 'dtype': 'float32', 'from_logits': True, 'axis': -1, **smooth}
    given = json.loads(fields.loss_options or '{}')
    loss = catalogue.make(catalogue.losses()[name], 'task.loss_options', given, defaults={}, fixed=fixed)
    if fields.label_smoothing and not hasattr(loss, 'label_smoothing'):
      raise ConfigError(
        f'task.loss={fields.loss!r} takes no task.label_smoothing={fields.label_smoothing}: set it to 0, or take '
        'categorical_crossentropy or binary_crossentropy'
      )
    return loss

  def _make_metrics(self, fields: Any) -> MetricSet:
    count = self._classes
    defaults = {'num_classes': count, 'target_class_ids': list(range(count)), 'average': 'macro', 'k': min(5, count)}
    fixed = {'dtype': 'float32', 'from_logits': True}
    # 'accuracy' is Keras' name for exact equality, and everybody's name for how often the likeliest class is right.
    if count != 2 and 'binary_iou' in map(catalogue.metric_name, fields.metrics):
      raise ConfigError(
        f"task.metrics has 'binary_iou', but {self._label!r} has {count} classes, not two: take mean_iou"
      )
    metrics = catalogue.make_metrics(fields, {'accuracy': 'sparse_categorical_accuracy'}, defaults, fixed)
    random = np.random.default_rng(0)
    labels = np.arange(max(12, 2 * count), dtype=np.int32) % count
    outputs = random.normal(size=(len(labels), self.units)).astype(np.float32)
    return MetricSet(metrics, self._weighted_view, outputs, {'targets': labels})

  def _weighted_view(self, kind: str, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tuple[tf.Tensor, ...]:
    return *self._view(kind, outputs, batch), batch['weight']

  def _logits(self, outputs: tf.Tensor) -> tf.Tensor:
    """float32 [B, C]; a sigmoid of z is the softmax of (0, z)."""
    outputs = tf.cast(outputs, tf.float32)
    return tf.concat([tf.zeros_like(outputs), outputs], axis=1) if self.units == 1 else outputs

  def _view(self, kind: str, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Targets and outputs as the Keras loss or metric of class `kind` wants them."""
    want_true, want_pred = _VIEWS.get(kind, _OTHERS)
    labels_B, outputs = batch['targets'], tf.cast(outputs, tf.float32)
    if (want_true == 'raw' and self.units == 1) or (want_true == 'positive' and self._classes == 2):
      y_true = tf.cast(labels_B, tf.float32)[:, None]
    elif want_true == 'labels':
      y_true = labels_B
    else:
      y_true = tf.one_hot(labels_B, self._classes)
    logits_BC = self._logits(outputs)
    match want_pred:
      case 'raw':
        return y_true, outputs
      case 'logits':
        return y_true, logits_BC
      case 'class':
        return y_true, tf.argmax(logits_BC, axis=1, output_type=tf.int32)
    probabilities_BC = tf.nn.softmax(logits_BC)
    if want_pred == 'floored':
      # Its gradient is a power of the probability below 0: infinite where a softmax underflows.
      return y_true, tf.maximum(probabilities_BC, keras.backend.epsilon())
    return y_true, probabilities_BC[:, 1:] if want_pred == 'positive' and self._classes == 2 else probabilities_BC


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Classification:
  """See `trainer.tasks.create`."""
  return Classification(config, features, examples, saved)
