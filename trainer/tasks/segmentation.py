"""A class for each pixel of an image.

The image and its mask are resized, moved and mirrored together: the image's pixels are mixed, a class is that of the
nearest pixel. Pixels of no class, and those that come in from outside the image, are not learnt and not counted.

Dimensions: B batch, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, each
from trainer.report import drawing
from trainer.report.gallery import Part
from trainer.tasks import augment
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet

NO_CLASS = -1


def _check_classes(names: tuple[str, ...]) -> str:
  return '' if len(set(names)) == len(names) and len(names) != 1 else 'must be two different names or more, or empty'


FIELDS: dict[str, Field] = {
  **inputs_lib.FIELDS,
  'mask': Field(
    'auto', 'feature [height, width(, 1)] with the class of each pixel; auto: the only one', fixed=True
  ),
  'classes': Field((), 'names of the classes, in order; empty: those of the dataset', _check_classes, fixed=True),
  'first_label': Field(0, 'value of the first class in the mask', fixed=True),
  'ignore_label': Field(-1, 'value in the mask that is no class, as each outside the classes', fixed=True),
  'class_weights': Field(
    (), 'what a pixel of each class counts in the cross-entropy; empty: 1', each(at_least(0)), fixed=True
  ),
  'dice': Field(
    0.0, 'the loss is the cross-entropy and so many times the dice loss, the mean over the classes of an image',
    at_least(0), fixed=True,
  ),
  **augment.FIELDS,
}  # fmt: skip


class Overlaps(MetricSet):
  """Intersection over union of each class, their mean over the classes that there are, and the share of right pixels.

  The state is the confusion matrix, float32 [C * C]: pixels of true class i that are taken for class j, row by row.
  """

  def __init__(self, names: tuple[str, ...]):
    self._classes = len(names)
    self.size = self._classes**2
    self.names = ('mean_iou', 'pixel_accuracy', *(f'iou_{name}' for name in names))
    self.modes = dict.fromkeys(self.names, 'max')

  def values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    true_BHW, taken_BHW = batch['targets'], tf.argmax(outputs, axis=-1, output_type=tf.int32)
    weight_B11 = tf.cast(batch['weight'], tf.float32)[:, None, None]
    # By selection, not by multiplication: a padded row may hold anything. A class that is none is one-hot nowhere.
    true_BHWC = tf.where(weight_B11[..., None] > 0, tf.one_hot(true_BHW, self._classes), 0.0) * weight_B11[..., None]
    taken_BHWC = tf.one_hot(taken_BHW, self._classes)
    pairs = tf.reshape(true_BHWC, [-1, self._classes]), tf.reshape(taken_BHWC, [-1, self._classes])
    return tf.reshape(tf.matmul(*pairs, transpose_a=True), [self.size])

  def results(self, totals: np.ndarray) -> dict[str, float]:
    assert totals.shape == (self.size,)
    confusion_CC = totals.astype(np.float64).reshape(self._classes, self._classes)
    right_C, union_C = np.diag(confusion_CC), confusion_CC.sum(0) + confusion_CC.sum(1) - np.diag(confusion_CC)
    iou_C = np.divide(right_C, union_C, out=np.full(self._classes, np.nan), where=union_C > 0)
    seen, count = iou_C[union_C > 0], confusion_CC.sum()
    mean = float(seen.mean()) if len(seen) else np.nan
    accuracy = float(right_C.sum() / count) if count else np.nan
    return dict(zip(self.names, (mean, accuracy, *iou_C.tolist()), strict=True))


class Segmentation(Task):
  """Segmentation of one dataset's images."""

  activation = 'softmax'

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    fitting = [name for name, feature in features.items() if _is_mask(feature)]
    self._mask = inputs_lib.pick('task.mask', fields.mask, fitting, features, 'a mask [height, width(, 1)]')
    self._inputs = inputs_lib.Inputs(fields, features, self._mask, examples, saved and saved['inputs'])
    if not self._inputs.is_image:
      raise ConfigError(f'task.input={self._inputs.name!r} is not an image: take another task.input')
    self.input_spec, self.given = self._inputs.spec, self._inputs.name
    self._size = tuple(self.input_spec.shape[:2])
    self._resizes, self._keep_aspect = bool(fields.image_size), fields.keep_aspect
    self._first, self._ignored = fields.first_label, fields.ignore_label
    named = tuple(getattr(features[self._mask], 'names', None) or ())
    self._names = tuple(fields.classes) or named
    if not self._names:
      raise ConfigError(f'the dataset has no names for the classes of {self._mask!r}: set task.classes')
    self.units = len(self._names)
    if len(fields.class_weights) not in (0, self.units):
      raise ConfigError(
        f'task.class_weights={tuple(fields.class_weights)!r} has {len(fields.class_weights)} numbers: give one for '
        f'each of the {self.units} classes, or none'
      )
    self._class_weights = np.array(fields.class_weights or [1.0] * self.units, np.float32)
    self._dice = fields.dice
    self._augmentation, self.draws = fields, augment.draws(fields)
    self.metrics = Overlaps(self._names)

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """One raw example -> 'inputs' float32 of `input_spec`, 'targets' int32 [H, W], NO_CLASS where there is none."""
    mask = tf.cast(features[self._mask], tf.int32)
    mask = mask if mask.shape.rank == 3 else mask[..., None]
    if self._resizes:
      mask = inputs_lib.middle(mask, self._size) if self._keep_aspect else mask
      mask = tf.image.resize(mask, self._size, 'nearest')
    targets = mask[..., 0] - self._first
    known = (mask[..., 0] != self._ignored) & (targets >= 0) & (targets < self.units)
    targets = tf.where(known, targets, NO_CLASS)
    return {'inputs': self._inputs(features), 'targets': tf.ensure_shape(targets, self._size)}

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    if not self.draws:
      return dict(batch)
    moves = augment.transforms(self._augmentation, self._size, draws)
    inputs = augment.resample(self._augmentation, batch['inputs'], moves, self._inputs.black)
    mask = augment.resample(
      self._augmentation, tf.cast(batch['targets'], tf.float32)[..., None], moves, float(NO_CLASS), 'NEAREST'
    )
    return {**batch, 'inputs': inputs, 'targets': tf.cast(tf.round(mask[..., 0]), tf.int32)}

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """Cross-entropy, the mean over the pixels of a class, and the dice loss where it is asked for."""
    targets_BHW, logits_BHWC = batch['targets'], tf.cast(outputs, tf.float32)
    known_BHW = tf.cast(targets_BHW >= 0, tf.float32)
    each_BHW = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets_BHW, 0), logits_BHWC)
    true_BHWC = tf.one_hot(targets_BHW, self.units)
    counts_BHW = tf.reduce_sum(true_BHWC * self._class_weights, axis=-1)
    losses_B = tf.math.divide_no_nan(tf.reduce_sum(each_BHW * counts_BHW, [1, 2]), tf.reduce_sum(known_BHW, [1, 2]))
    if not self._dice:
      return losses_B
    # Milletari et al., V-Net, 2016, section 3, for each class and image, with squares left out.
    share_BHWC = tf.nn.softmax(logits_BHWC) * known_BHW[..., None]
    common_BC = tf.reduce_sum(share_BHWC * true_BHWC, [1, 2])
    both_BC = tf.reduce_sum(share_BHWC + true_BHWC, [1, 2])
    there_BC = tf.cast(tf.reduce_any(true_BHWC > 0, [1, 2]), tf.float32)
    apart_BC = (1.0 - 2.0 * tf.math.divide_no_nan(common_BC, both_BC)) * there_BC
    dice_B = tf.math.divide_no_nan(tf.reduce_sum(apart_BC, axis=-1), tf.reduce_sum(there_BC, axis=-1))
    return losses_B + self._dice * dice_B

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    """The number of pixels that have a class."""
    pixels_B = tf.reduce_sum(tf.cast(batch['targets'] >= 0, tf.float32), [1, 2])
    return tf.cast(batch['weight'], tf.float32) * pixels_B

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """The likeliest class of each pixel, int32 [B, H, W]."""
    return tf.argmax(outputs, axis=-1, output_type=tf.int32)

  def readable(self, prediction: np.ndarray) -> dict[str, Any]:
    """The classes row by row, and which share of the image each has."""
    shares_C = np.bincount(prediction.ravel(), minlength=self.units) / prediction.size
    return {'classes': prediction.tolist(), 'shares': dict(zip(self._names, shares_C.round(6).tolist(), strict=True))}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = self._inputs.look(example['inputs'])
    if 'targets' in example:
      parts.append(Part('mask', 'image', drawing.masked(parts[0].value, example['targets'])))
    return parts

  def draw(self, example: Mapping[str, Any], prediction: np.ndarray) -> list[Part]:
    image = self._inputs.look(example['inputs'])[0].value
    shares_C = self.readable(prediction)['shares']
    mask = Part('predicted mask', 'image', drawing.masked(image, prediction))
    return [mask, Part('of the image', 'shares', shares_C)]

  def state(self) -> dict[str, Any]:
    return {'mask': self._mask, 'classes': list(self._names), 'inputs': self._inputs.state()}


def _is_mask(feature: Any) -> bool:
  if isinstance(feature, tfds.features.Image):
    return feature.shape[-1] == 1 and tf.as_dtype(feature.np_dtype).is_integer
  plane = inputs_lib.is_numeric(feature) and tf.as_dtype(feature.np_dtype).is_integer
  return plane and (len(feature.shape) == 2 or (len(feature.shape) == 3 and feature.shape[-1] == 1))


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Segmentation:
  """See `trainer.tasks.create`."""
  return Segmentation(config, features, examples, saved)
