"""The feature that the model sees, as a normalised float tensor: which one, of which shape, by which statistics.

A table's row becomes a vector: numbers as they are, categories as one-hot. A number that is missing (NaN) is the mean
of the training split, and a category that is missing (-1) is none of them.

Dimensions: H height, W width, C channels, F numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, above, each, nearest, one_of
from trainer.report.gallery import Part
from trainer.tasks.base import Examples


def _check_size(size: tuple[int, ...]) -> str:
  good = len(size) in (0, 2) and all(isinstance(side, int) and side >= 1 for side in size)
  return '' if good else 'must be (height, width) in pixels, or empty'


FIELDS: dict[str, Field] = {
  'input': Field('auto', 'feature that the model sees; auto: the only image, else the only numeric one', fixed=True),
  'image_size': Field(
    (), 'images are resized to (height, width), aspect not kept; empty: they stay', _check_size, fixed=True
  ),
  'keep_aspect': Field(
    False, 'with image_size: the largest part of its aspect, in the middle of the image, is resized', fixed=True
  ),
  'normalize': Field(
    'auto',
    'scale: divide by max_value; standardize: mean 0 and deviation 1 over the training split, per channel of an image '
    'or number of a vector; given: by the fields mean and deviation; auto: scale for integer images, none for float '
    'images, standardize for vectors',
    one_of('auto', 'none', 'scale', 'standardize', 'given'),
    fixed=True,
  ),
  'max_value': Field(255.0, 'what scale divides by', above(0), fixed=True),
  'mean': Field((0.0,), "what is subtracted with normalize='given': one number, or one per channel", fixed=True),
  'deviation': Field(
    (1.0,), "what is divided by with normalize='given': one number, or one per channel", each(above(0)), fixed=True
  ),
}

STATISTICS_BATCH = 1024
# Of a vector, as many numbers are shown.
_SHOWN = 64
# What libjpeg can divide the sides of an image by as it decodes it; and top, left, height and width at least.
_JPEG_RATIOS, _LEAST = (1, 2, 4, 8), (0, 0, 1, 1)


class Inputs:
  """Turns raw features into the model's inputs.

  Attributes:
    spec: tf.TensorSpec of one example's inputs: float32 [H, W, C] or [F], or whatever shape the feature has.
    is_image: whether the feature is an image.
    has_parts: whether `part` can be had: of images of bytes that are resized, of as many channels as a JPEG can have.
  """

  def __init__(
    self,
    fields: Any,
    features: Mapping[str, Any],
    target: str,
    examples: Examples,
    saved: Mapping[str, Any] | None,
  ):
    """Chooses the feature and takes its statistics.

    Args:
      fields: the values of FIELDS.
      features: the dataset's features by name.
      target: name of the feature that is learnt, and so is not an input.
      examples: the training split's examples; None for synthetic input, which is left as if of mean 0, deviation 1.
      saved: `state()` of an earlier attempt, whose statistics are used instead of the split's.

    Raises:
      ConfigError: no feature fits, or several do; or the feature has no static shape, or the training split is empty.
    """
    self.name = _choose(fields.input, features, target)
    feature = features[self.name]
    self.is_image = isinstance(feature, tfds.features.Image)
    self._size, self._keep_aspect = tuple(fields.image_size), fields.keep_aspect
    self._parts = row_parts(self.name, feature) if isinstance(feature, tfds.features.FeaturesDict) else {}
    shape = self._shape(feature)
    self.spec = tf.TensorSpec(shape, tf.float32)
    of_bytes = self.is_image and tf.as_dtype(feature.np_dtype) == tf.uint8
    self.has_parts = of_bytes and bool(self._size) and shape[-1] in (1, 3)
    self._how = fields.normalize
    if self._how == 'auto':
      self._how = ('scale' if tf.as_dtype(feature.np_dtype).is_integer else 'none') if self.is_image else 'standardize'
    mean, deviation = np.zeros(()), np.ones(())
    # What is white in a picture.
    self._largest = 1.0 if self.is_image and tf.as_dtype(feature.np_dtype).is_floating else 255.0
    if self._how == 'scale':
      self._largest = fields.max_value
      deviation = np.array(fields.max_value)
    elif self._how == 'given':
      mean, deviation = (self._given(fields, name) for name in ('mean', 'deviation'))
    elif self._how == 'standardize' and saved is not None:
      mean, deviation = np.array(saved['mean']), np.array(saved['deviation'])
    elif self._how == 'standardize' and examples is not None:
      mean, deviation = moments(
        examples().map(self._raw, tf.data.AUTOTUNE, deterministic=True), keep=1 if self.is_image else len(shape)
      )
    self._mean, self._deviation = mean, deviation

  def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
    """The inputs of one raw example: float32 of the shape of `spec`."""
    inputs = self.normalized(self._raw(features))
    return tf.where(tf.math.is_nan(inputs), 0.0, inputs) if self._how == 'standardize' else inputs

  def normalized(self, raw: tf.Tensor) -> tf.Tensor:
    """Raw values as the model sees them: float32 of the same shape."""
    mean, deviation = self._statistics(raw.shape)
    return (raw - mean) / deviation

  def raw(self, inputs: tf.Tensor) -> tf.Tensor:
    """The inverse of `normalized`."""
    mean, deviation = self._statistics(inputs.shape)
    return inputs * deviation + mean

  def _statistics(self, shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, float32, for what has this shape."""
    mean, deviation = (along_rows(part.astype(np.float32), shape) for part in (self._mean, self._deviation))
    return mean, deviation

  def look(self, inputs: np.ndarray) -> list[Part]:
    """One example's inputs as people see them: a picture, or numbers by name."""
    values = np.asarray(inputs, np.float64) * self._deviation + self._mean
    if self.is_image:
      return [Part(self.name, 'image', pixels(values, self._largest))]
    names = self._number_names() or [str(i) for i in range(values.size)]
    numbers = [round(value, 6) for value in values.ravel()[:_SHOWN].tolist()]
    return [Part(self.name, 'numbers', dict(zip(names, numbers, strict=False)))]

  def _number_names(self) -> list[str]:
    found = []
    for path, (feature, width) in self._parts.items():
      classes = feature.names if isinstance(feature, tfds.features.ClassLabel) else range(width)
      found += ['/'.join(path)] if width == 1 else [f'{"/".join(path)}={part}' for part in classes]
    return found

  def part(self, encoded: tf.Tensor, window: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """A part of an image as the model sees it, resized to all of `spec`; of a JPEG no other part is decoded.

    A JPEG from which less than every other pixel is wanted is decoded at a half, a quarter or an eighth of its size,
    where each pixel is the mean of those that it stands for.

    Args:
      encoded: string scalar, the file.
      window: from the size of the image (int32 [2], height and width) to top, left, height and width of the part.
    """
    channels = self.spec.shape[-1]

    def of_jpeg() -> tf.Tensor:
      place = window(tf.image.extract_jpeg_shape(encoded)[:2])
      smaller = tf.reduce_min(place[2:] // self._size)
      decoders = [
        lambda ratio=ratio: tf.io.decode_and_crop_jpeg(encoded, tf.maximum(place // ratio, _LEAST), channels, ratio)
        for ratio in _JPEG_RATIOS
      ]
      return tf.switch_case(tf.reduce_sum(tf.cast(smaller >= _JPEG_RATIOS[1:], tf.int32)), decoders)

    def of_others() -> tf.Tensor:
      image = tf.io.decode_image(encoded, channels, expand_animations=False)
      top, left, height, width = tf.unstack(window(tf.shape(image)[:2]))
      return image[top : top + height, left : left + width]

    part = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_others)
    resized = tf.image.resize(tf.ensure_shape(part, [None, None, channels]), self._size)
    return self.normalized(tf.ensure_shape(resized, self.spec.shape))

  @property
  def black(self) -> np.ndarray:
    """What a raw 0 is after normalisation: float32, a scalar or one value per channel."""
    return (-self._mean / self._deviation).astype(np.float32)

  def state(self) -> dict[str, Any]:
    """The choice and the statistics, ready for JSON."""
    return {
      'feature': self.name,
      'normalize': self._how,
      'mean': self._mean.tolist(),
      'deviation': self._deviation.tolist(),
    }

  def _shape(self, feature: Any) -> tuple[int, ...]:
    if self._parts:
      return (sum(width for _, width in self._parts.values()),)
    shape = tuple(feature.shape)
    if self._size:
      if not self.is_image:
        raise ConfigError(
          f'task.image_size={self._size!r}, but task.input={self.name!r} is not an image: leave it empty'
        )
      shape = (*self._size, shape[-1])
    if None in shape:
      fix = 'set task.image_size=(height, width)' if self.is_image else 'take another task.input'
      raise ConfigError(f'feature {self.name!r} has the shape {shape}, which differs between examples: {fix}')
    return shape

  def _given(self, fields: Any, name: str) -> np.ndarray:
    values = np.array(fields[name], np.float64)
    if values.size not in (1, self.spec.shape[-1]):
      raise ConfigError(
        f'task.{name}={tuple(fields[name])!r} has {values.size} numbers: give one, or one for each of the '
        f'{self.spec.shape[-1]} channels of {self.name!r}'
      )
    return values

  def _raw(self, features: Mapping[str, Any]) -> tf.Tensor:
    """The inputs of one example, not normalised."""
    value = features[self.name]
    if self._parts:
      parts = [_part(value, path, feature, width) for path, (feature, width) in self._parts.items()]
      return tf.ensure_shape(tf.concat(parts, axis=0), self.spec.shape)
    if self._size:
      value = middle(value, self._size) if self._keep_aspect else value
      # Bytes are resized as they are, to the same bits; a cast would be another pass over all of the image.
      value = value if value.dtype == tf.uint8 else tf.cast(value, tf.float32)
      value = tf.image.resize(value, self._size, antialias=True)
    return tf.ensure_shape(tf.cast(value, tf.float32), self.spec.shape)


def along_rows(channels: np.ndarray, shape: Any) -> np.ndarray:
  """What is to be combined with images [..., W, C], a number per channel, as [W, C].

  The results are the same; TensorFlow takes a third of the time for the inner dimensions at once.

  Args:
    channels: scalar or [C]; a scalar stays one.
    shape: of the images.
  """
  if channels.size == 1 or channels.ndim != 1 or len(shape) < 3 or shape[-2] is None:
    return channels
  return np.broadcast_to(channels, (shape[-2], channels.size))


def pixels(values_HWC: np.ndarray, largest: float) -> np.ndarray:
  """Values from 0 to `largest` as uint8 [H, W, 1 or 3]; of more channels the first."""
  channels = 3 if values_HWC.shape[-1] == 3 else 1
  return np.clip(np.round(values_HWC[..., :channels] * (255.0 / largest)), 0, 255).astype(np.uint8)


def moments(dataset: tf.data.Dataset, *, keep: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation over a dataset of equal-shaped tensors, in one pass and in float64.

  Batches are merged by their means and sums of squared deviations (Chan, Golub and LeVeque, 1979), which loses no
  digits where the mean is large beside the deviation.

  Args:
    dataset: tensors [...], each an example.
    keep: number of last dimensions that are kept; the others are averaged over, as are the examples.

  Returns:
    float64 arrays with the last `keep` dimensions, over the values that are not NaN. A deviation of 0 is given as 1, so
    that one can divide by it; where there is no value, the mean is 0 and the deviation 1.

  Raises:
    ConfigError: there are no examples.
  """
  count, mean, squares = np.zeros(()), np.zeros(()), np.zeros(())
  seen = False
  for batch in dataset.batch(STATISTICS_BATCH).as_numpy_iterator():
    rows = batch.astype(np.float64).reshape(-1, *batch.shape[batch.ndim - keep :])
    present = ~np.isnan(rows)
    here = present.sum(axis=0)
    middle = np.where(present, rows, 0.0).sum(axis=0) / np.maximum(here, 1)
    difference, total = middle - mean, count + here
    share = here / np.maximum(total, 1)
    squares = squares + (np.where(present, rows - middle, 0.0) ** 2).sum(axis=0) + difference**2 * (count * share)
    mean, count, seen = mean + difference * share, total, True
  if not seen:
    raise ConfigError('the training split has no examples to take statistics of: check data.train_split')
  deviation = np.sqrt(squares / np.maximum(count, 1))
  return mean, np.where(deviation > 0, deviation, 1.0)


def is_numeric(feature: Any) -> bool:
  """Whether a feature is a plain tensor of numbers: neither an image, a label nor text."""
  plain = isinstance(feature, tfds.features.Tensor) and not isinstance(feature, tfds.features.ClassLabel)
  return plain and (tf.as_dtype(feature.np_dtype).is_floating or tf.as_dtype(feature.np_dtype).is_integer)


def pick(field: str, wanted: str, fitting: list[str], features: Mapping[str, Any], what: str) -> str:
  """The feature named `wanted`, or with 'auto' the only one in `fitting`.

  Raises:
    ConfigError: `wanted` is not in `fitting`, or 'auto' finds none or several there.
  """
  if wanted in fitting:
    return wanted
  if wanted in features:
    raise ConfigError(f'{field}={wanted!r} is not {what}: take {" or ".join(fitting) or "another dataset or task"}')
  if wanted != 'auto':
    known = ', '.join(sorted(features))
    raise ConfigError(f'{field}={wanted!r} is not a feature of the dataset{nearest(wanted, features)} Known: {known}')
  if len(fitting) == 1:
    return fitting[0]
  if not fitting:
    raise ConfigError(
      f'no feature of the dataset is {what} ({", ".join(sorted(features))}): take another task.name or data.dataset'
    )
  raise ConfigError(
    f'{field}={wanted!r}, but several features are {what}: set it to one of {", ".join(sorted(fitting))}'
  )


def middle(image_HWC: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
  """The largest part of an image that has the aspect of `size`, from its middle."""
  height, width = tf.shape(image_HWC)[0], tf.shape(image_HWC)[1]
  scale = tf.minimum(height / size[0], width / size[1])
  # At least a pixel, and no more than there are, whatever the rounding.
  high = tf.clip_by_value(tf.cast(tf.round(scale * size[0]), tf.int32), 1, height)
  wide = tf.clip_by_value(tf.cast(tf.round(scale * size[1]), tf.int32), 1, width)
  top, left = (height - high) // 2, (width - wide) // 2
  return image_HWC[top : top + high, left : left + wide]


def _choose(wanted: str, features: Mapping[str, Any], target: str) -> str:
  others = {name: feature for name, feature in features.items() if name != target}
  images = [name for name, feature in others.items() if isinstance(feature, tfds.features.Image)]
  numeric = [name for name, feature in others.items() if is_numeric(feature) or _all_numeric(feature)]
  fitting = images if images and wanted == 'auto' else images + numeric
  return pick('task.input', wanted, fitting, others, 'an image or numeric')


def _all_numeric(feature: Any) -> bool:
  if not isinstance(feature, tfds.features.FeaturesDict):
    return False
  return all(
    is_numeric(part) or isinstance(part, tfds.features.ClassLabel) or _all_numeric(part) for part in feature.values()
  )


def row_parts(name: str, feature: tfds.features.FeaturesDict) -> dict[tuple[str, ...], tuple[Any, int]]:
  """The parts of a table's row in the order of their names: path -> (feature, how many numbers it becomes)."""
  parts: dict[tuple[str, ...], tuple[Any, int]] = {}
  for key, part in sorted(feature.items()):
    if isinstance(part, tfds.features.FeaturesDict):
      parts.update({(key, *path): value for path, value in row_parts(f'{name}/{key}', part).items()})
    elif isinstance(part, tfds.features.ClassLabel):
      parts[key,] = part, part.num_classes
    elif None in part.shape:
      raise ConfigError(f'feature {name}/{key} has the shape {part.shape}, which differs between examples')
    else:
      parts[key,] = part, int(np.prod(part.shape))
  return parts


def columns(name: str, feature: Any) -> dict[str, list[int]]:
  """Of a table's row: the name of each feature -> its numbers in the vector, several of a category; else {}."""
  found: dict[str, list[int]] = {}
  begin = 0
  for path, (_, width) in (row_parts(name, feature) if isinstance(feature, tfds.features.FeaturesDict) else {}).items():
    found['/'.join(path)] = list(range(begin, begin + width))
    begin += width
  return found


def _part(row: Mapping[str, Any], path: tuple[str, ...], feature: Any, width: int) -> tf.Tensor:
  """One part of a table's row as a float vector; a category as one-hot."""
  value: Any = row
  for key in path:
    value = value[key]
  if isinstance(feature, tfds.features.ClassLabel):
    return tf.one_hot(value, width)
  return tf.reshape(tf.cast(value, tf.float32), [width])
