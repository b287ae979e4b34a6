"""The objects in an image: a box and a class for each, learnt as in Tian et al., FCOS, 2019.

Images are resized to one size, aspect not kept, and their boxes with them. That changes no intersection over union, so
the average precision, which is that of COCO (Lin et al., Microsoft COCO, 2014; its own code computes it), is the one in
the original images. The loss of an image is its focal loss and the binary cross-entropy of the centre-ness, both over
the number of its places that have a box, and the generalised IoU loss, weighted by centre-ness; the paper divides by
the numbers of the batch instead.

Dimensions: B batch, M objects of an image, P places of all levels, K classes, D detections, N images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, above, at_least, fraction
from trainer.models import detector
from trainer.report import drawing
from trainer.report.gallery import Part
from trainer.tasks import augment, boxes
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet

# The number that COCO's average precision looks at.
DETECTIONS = 100
# Of an object that moves out of the image, so much must still be seen.
_VISIBLE = 0.25
# Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1.
_ALPHA, _GAMMA = 0.25, 2.0

FIELDS: dict[str, Field] = {
  **{name: field for name, field in inputs_lib.FIELDS.items() if name != 'keep_aspect'},
  'objects': Field('auto', 'feature with the objects, a sequence; auto: the only one that has boxes', fixed=True),
  'box': Field('bbox', 'part of an object that is its box', fixed=True),
  'label': Field('label', 'part of an object that is its class', fixed=True),
  'crowd': Field(
    'is_crowd', 'part of an object, if it is there: many in one box, neither learnt nor counted as missed', fixed=True
  ),
  'max_objects': Field(100, 'the most objects of an image', at_least(1), fixed=True),
  'levels': Field((), 'first and last level of a model of your own; empty: model.levels', fixed=True),
  'level_reach': Field(
    8.0, 'a level takes boxes whose farthest side is up to so many strides away, the last one all that are larger',
    above(0), fixed=True,
  ),
  'centre_radius': Field(
    1.5, 'places up to so many strides from the middle of a box learn it', above(0), fixed=True
  ),
  'candidates': Field(1000, 'places and classes of an image that may become detections, the likeliest', at_least(1)),
  'score': Field(0.05, 'lowest score of a detection', fraction),
  'overlap': Field(0.6, 'largest intersection over union of two detections of one class', fraction),
  **augment.FIELDS,
}  # fmt: skip


class Detection(Task):
  """Detection in one dataset's images."""

  prediction_modes = MappingProxyType({'map': 'max', 'map_50': 'max', 'map_75': 'max'})

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    self._fields = fields
    fitting = [name for name, feature in features.items() if _has_boxes(feature)]
    self._objects = inputs_lib.pick(
      'task.objects', fields.objects, fitting, features, 'a sequence of objects with boxes'
    )
    parts = features[self._objects].feature
    are_boxes = [name for name, part in parts.items() if isinstance(part, tfds.features.BBoxFeature)]
    are_labels = [n for n, part in parts.items() if isinstance(part, tfds.features.ClassLabel) and part.num_classes]
    self._box = inputs_lib.pick('task.box', fields.box, are_boxes, parts, 'a box')
    self._label = inputs_lib.pick('task.label', fields.label, are_labels, parts, 'a class label')
    self._crowd = fields.crowd if fields.crowd in parts else ''
    self._names = list(parts[self._label].names or [])
    self._classes = parts[self._label].num_classes
    self.units = self._classes + detector.BOX_UNITS
    # What is cut off for the aspect's sake would be missing in the results.
    whole = ml_collections.ConfigDict({**fields.to_dict(), 'keep_aspect': False})
    self._inputs = inputs_lib.Inputs(whole, features, self._objects, examples, saved and saved['inputs'])
    if not self._inputs.is_image:
      raise ConfigError(f'task.input={self._inputs.name!r} is not an image: take another task.input')
    self.input_spec, self.given = self._inputs.spec, self._inputs.name
    self._size = tuple(self.input_spec.shape[:2])
    levels = tuple(fields.levels) or tuple(config.model.get('levels', ()))
    if not levels:
      raise ConfigError("model.name is no detector: take model.name='detector', or say task.levels=(first, last)")
    self._places = boxes.places(detector.grids(levels, self._size), fields.level_reach)
    self.draws = augment.draws(fields)
    self.metrics = MetricSet({}, lambda kind, outputs, batch: (outputs, outputs, batch['weight']), np.zeros([4, 1]), {})

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """One raw example -> 'inputs' float32 of `input_spec`; 'targets': 'boxes' float32 [M, 4] in pixels, 'labels' int32
    [M], 'crowd' int32 [M], and 'objects' int32 [], how many there are."""
    objects, most = features[self._objects], self._fields.max_objects
    count = tf.shape(objects[self._label])[0]
    crowd = tf.cast(objects[self._crowd], tf.int32) if self._crowd else tf.zeros([count], tf.int32)

    def filled(values: tf.Tensor, empty: Any) -> tf.Tensor:
      rest = [[0, most - tf.minimum(count, most)], *[[0, 0]] * (values.shape.rank - 1)]
      return tf.ensure_shape(tf.pad(values[:most], rest, constant_values=empty), [most, *values.shape[1:]])

    pixels = tf.reshape(objects[self._box], [-1, 4]) * np.array([*self._size, *self._size], np.float32)
    targets = {
      'boxes': filled(pixels, 0.0),
      'labels': filled(tf.cast(objects[self._label], tf.int32), boxes.NONE),
      'crowd': filled(crowd, 0),
      'objects': count,
    }
    return {'inputs': self._inputs(features), 'targets': targets}

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    if not self.draws:
      return dict(batch)
    moves, targets = augment.transforms(self._fields, self._size, draws), batch['targets']
    moved, labels = boxes.move(targets['boxes'], targets['labels'], moves, self._size, _VISIBLE)
    inputs = augment.resample(self._fields, batch['inputs'], moves, self._inputs.black)
    return {**batch, 'inputs': inputs, 'targets': {**targets, 'boxes': moved, 'labels': labels}}

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    classes_BPK, logs_BP4, centre_BP = self._split(outputs)
    targets = batch['targets']
    wanted_BM = tf.where(targets['crowd'] > 0, boxes.NONE, targets['labels'])
    labels_BP, true_BP4, centre_true_BP = boxes.assign(
      targets['boxes'], wanted_BM, self._places, self._fields.centre_radius
    )
    taken_BP = tf.cast(labels_BP != boxes.NONE, tf.float32)
    count_B = tf.maximum(tf.reduce_sum(taken_BP, axis=1), 1.0)
    focal_B = tf.reduce_sum(focal(classes_BPK, tf.one_hot(labels_BP, self._classes)), [1, 2])
    off_BP = tf.nn.sigmoid_cross_entropy_with_logits(centre_true_BP, centre_BP)
    apart_BP = 1.0 - boxes.generalized_iou(boxes.from_distances(logs_BP4, self._places), true_BP4)
    box_B = tf.math.divide_no_nan(tf.reduce_sum(apart_BP * centre_true_BP, 1), tf.reduce_sum(centre_true_BP, 1))
    return (focal_B + tf.reduce_sum(off_BP * taken_BP, axis=1)) / count_B + box_B

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """The detections of each image, 'boxes' [B, D, 4], 'scores' and 'labels' [B, D]; and its objects."""
    classes_BPK, logs_BP4, centre_BP = self._split(outputs)
    # The geometric mean, as the authors' code has it; the order is that of the product, section 3.2.
    scores_BPK = tf.sqrt(tf.sigmoid(classes_BPK) * tf.sigmoid(centre_BP)[..., None])
    limit = np.array([*self._size, *self._size], np.float32)
    found = boxes.best(
      tf.clip_by_value(boxes.from_distances(logs_BP4, self._places), 0.0, limit),
      scores_BPK,
      candidates=self._fields.candidates,
      count=DETECTIONS,
      overlap=self._fields.overlap,
      least=self._fields.score,
    )
    true = {f'true_{name}': value for name, value in batch['targets'].items()}
    return {**dict(zip(('boxes', 'scores', 'labels'), found, strict=True)), **true}

  def prediction_results(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Average precision, the mean over classes: over overlaps of .50 to .95, of .50, and of .75. NaN without objects.

    Raises:
      ConfigError: an image has more objects than `max_objects`.
    """
    most = int(predictions['true_objects'].max())
    if most > self._fields.max_objects:
      raise ConfigError(
        f'an image of the evaluation split has {most} objects, more than task.max_objects={self._fields.max_objects}: '
        'raise it'
      )
    return dict(zip(self.prediction_modes, average_precision(predictions, self._classes), strict=True))

  def readable(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The detections, the likeliest first: class, score and box (upper, left, lower, right) in shares of the image."""
    size = np.array([*self._size, *self._size])
    rows = zip(prediction['labels'].tolist(), prediction['scores'].tolist(), prediction['boxes'] / size, strict=True)
    return {
      'objects': [
        {'label': self._names[label] if self._names else label, 'score': round(score, 4), 'box': box.round(4).tolist()}
        for label, score, box in rows
        if label != boxes.NONE
      ]
    }

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = self._inputs.look(example['inputs'])
    if 'targets' in example:
      true = example['targets']
      there = true['labels'] != boxes.NONE
      names = [self._name(label) for label in true['labels'][there].tolist()]
      parts.append(
        Part('objects', 'image', drawing.boxed(parts[0].value, true['boxes'][there], true['labels'][there], names))
      )
    return parts

  def draw(self, example: Mapping[str, Any], prediction: Mapping[str, np.ndarray]) -> list[Part]:
    """The boxes whose score is a half or more, or the best one."""
    there = (prediction['labels'] != boxes.NONE) & (prediction['scores'] >= min(0.5, prediction['scores'].max()))
    pairs = zip(prediction['labels'][there].tolist(), prediction['scores'][there].tolist(), strict=True)
    names = [f'{self._name(label)} {score:.2f}' for label, score in pairs]
    image = self._inputs.look(example['inputs'])[0].value
    drawn = drawing.boxed(image, prediction['boxes'][there], prediction['labels'][there], names)
    return [Part('found', 'image', drawn)]

  def _name(self, label: int) -> str:
    return str(self._names[label] if self._names else label)

  def state(self) -> dict[str, Any]:
    return {'objects': self._objects, 'classes': self._names or self._classes, 'inputs': self._inputs.state()}

  def _split(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits of the classes [B, P, K], logarithms of distances [B, P, 4], logits of the centre-ness [B, P]."""
    expected = (len(self._places.x), self.units)
    if tuple(outputs.shape[1:]) != expected:
      raise ConfigError(f'the model gives {tuple(outputs.shape[1:])} per image, but task.levels needs {expected}')
    classes, logs, centre = tf.split(tf.cast(outputs, tf.float32), [self._classes, 4, 1], axis=-1)
    return classes, logs, centre[..., 0]


def focal(logits: tf.Tensor, true: tf.Tensor) -> tf.Tensor:
  """The focal loss of each logit by itself: Lin et al., 2017, equation 5."""
  share = tf.sigmoid(logits)
  wrong = true * (1.0 - share) + (1.0 - true) * share
  weight = true * _ALPHA + (1.0 - true) * (1.0 - _ALPHA)
  return weight * wrong**_GAMMA * tf.nn.sigmoid_cross_entropy_with_logits(true, logits)


def average_precision(predictions: Mapping[str, np.ndarray], classes: int) -> tuple[float, float, float]:
  """COCO's average precision over overlaps of .50 to .95, of .50 and of .75, by its own code.

  Args:
    predictions: 'boxes' [N, D, 4], 'scores' and 'labels' [N, D]; 'true_boxes' [N, M, 4], 'true_labels' and 'true_crowd'
      [N, M]; a label of NONE is no box.
    classes: K.
  """
  # It imports a library of plots if there is one, and takes its time.
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  images = len(predictions['labels'])
  true: list[dict[str, Any]] = []
  found: list[dict[str, Any]] = []
  for image in range(images):
    for box, label, crowd in zip(*(predictions[f'true_{n}'][image] for n in ('boxes', 'labels', 'crowd')), strict=True):
      if label != boxes.NONE:
        sides = _sides(box)
        area = sides[2] * sides[3]
        entry = {'id': len(true) + 1, 'image_id': image, 'category_id': int(label), 'bbox': sides, 'area': area}
        true.append({**entry, 'iscrowd': int(crowd)})
    for box, label, score in zip(*(predictions[name][image] for name in ('boxes', 'labels', 'scores')), strict=True):
      if label != boxes.NONE:
        found.append({'image_id': image, 'category_id': int(label), 'bbox': _sides(box), 'score': float(score)})
  if not true:
    return np.nan, np.nan, np.nan
  if not found:
    return 0.0, 0.0, 0.0
  with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO()
    truth.dataset = {
      'info': {},
      'images': [{'id': image} for image in range(images)],
      'categories': [{'id': label} for label in range(classes)],
      'annotations': true,
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  whole, half, quarter = evaluation.stats[:3].tolist()
  return whole, half, quarter


def _sides(box: np.ndarray) -> list[float]:
  """(upper, left, lower, right) as COCO has it: left, upper, width, height."""
  upper, left, lower, right = box.tolist()
  return [left, upper, right - left, lower - upper]


def _has_boxes(feature: Any) -> bool:
  parts = getattr(feature, 'feature', None)
  return isinstance(parts, tfds.features.FeaturesDict) and any(
    isinstance(part, tfds.features.BBoxFeature) for part in parts.values()
  )


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Detection:
  """See `trainer.tasks.create`."""
  return Detection(config, features, examples, saved)
