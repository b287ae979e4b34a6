"""Random changes to the colours and the shape of images: Cubuk et al., RandAugment, 2020.

Each image goes through some operations, each one of the 14 of section 3 with equal chance, all of one magnitude. The
ranges of the magnitudes are those of Cubuk et al., AutoAugment, 2019, table 6. A pure function of given uniform
numbers, in graph ops; only the operations that are drawn are computed.

Dimensions: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.fields import Field, at_least

MAX_MAGNITUDE = 10.0
_GREY = 128.0  # what moves in from outside the image


def _check_magnitude(magnitude: float) -> str:
  return '' if 0 <= magnitude <= MAX_MAGNITUDE else f'must be from 0 to {MAX_MAGNITUDE:g}'


FIELDS: dict[str, Field] = {
  'randaugment_layers': Field(0, 'operations of RandAugment that an image goes through; 0: none', at_least(0)),
  'randaugment_magnitude': Field(9.0, 'how strong they are, of 10', _check_magnitude),
}


def draws(fields: Any) -> int:
  """Uniform numbers that one image takes: which operation, and which way, for each."""
  return 2 * fields.randaugment_layers


def images(fields: Any, images_BHWC: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
  """The images after `randaugment_layers` operations each.

  Args:
    fields: the values of FIELDS.
    images_BHWC: float32 images of static H, W and C; black is 0 and white is 255.
    draws: float32 [B, draws(fields)] in [0, 1). A row of 0.5 leaves its image as it is.

  Returns:
    Images of the same shape, from 0 to 255. Image b depends on image b and row b of `draws` alone.
  """
  level = fields.randaugment_magnitude / MAX_MAGNITUDE

  def one(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    image, numbers = row
    columns = tf.unstack(numbers)
    for which, way in zip(columns[::2], columns[1::2], strict=True):
      signed = tf.where(way < 0.5, -level, level)
      branches = [_bind(operation, image, signed) for operation in OPERATIONS.values()]
      index = tf.minimum(tf.cast(which * len(branches), tf.int32), len(branches) - 1)
      image = tf.ensure_shape(tf.switch_case(index, branches), images_BHWC.shape[1:])
    return image

  signature = tf.TensorSpec(images_BHWC.shape[1:], tf.float32)
  changed = tf.map_fn(one, (tf.clip_by_value(images_BHWC, 0.0, 255.0), draws), fn_output_signature=signature)
  return tf.ensure_shape(changed, images_BHWC.shape)


def _bind(operation: Callable, image: tf.Tensor, level: tf.Tensor) -> Callable[[], tf.Tensor]:
  return lambda: operation(image, level)


# -- the operations: float32 [H, W, C] from 0 to 255 and a level from -1 to 1 -> the same ------------------------------


def _blend(other: tf.Tensor, image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """`image` at a level of 0, towards `other` below and away from it above, at most nine tenths of the way."""
  return tf.clip_by_value(image + 0.9 * level * (image - other), 0.0, 255.0)


def _grey(image: tf.Tensor) -> tf.Tensor:
  """[H, W, 1], the luma of a colour image."""
  return tf.image.rgb_to_grayscale(image) if image.shape[-1] == 3 else tf.reduce_mean(image, -1, keepdims=True)


def _identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  del level
  return tf.identity(image)


def _auto_contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Stretches each channel from its darkest and brightest value to 0 and 255."""
  del level
  low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
  stretched = (image - low) * tf.math.divide_no_nan(255.0, high - low)
  return tf.where(high > low, stretched, image)


def _equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Gives each channel a flat histogram, as PIL's ImageOps.equalize does."""
  del level
  channels = []
  for channel in tf.unstack(tf.cast(tf.round(image), tf.int32), axis=-1):
    counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
    highest = tf.reduce_max(channel)
    step = (tf.reduce_sum(counts) - counts[highest]) // 255
    table = (tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.clip_by_value(table, 0, 255), tf.range(256))
    channels.append(tf.gather(table, channel))
  return tf.cast(tf.stack(channels, axis=-1), tf.float32)


def _solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Inverts what is brighter than a threshold, which falls with the level."""
  return tf.where(image < 256.0 * (1.0 - tf.abs(level)), image, 255.0 - image)


def _posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Keeps the 8 to 4 highest bits."""
  size = 2.0 ** tf.round(4.0 * tf.abs(level))
  return tf.floor(tf.round(image) / size) * size


def _color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _blend(_grey(image), image, level)


def _contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _blend(tf.reduce_mean(_grey(image)), image, level)


def _brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _blend(tf.zeros_like(image), image, level)


def _sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Against a smoothed image (3x3, five times the weight in the middle), but for its border."""
  if min(image.shape[:2]) < 3:
    return tf.identity(image)
  kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13.0
  kernel = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], [1, 1, image.shape[-1], 1])
  smooth = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, [1, 1, 1, 1], 'VALID')[0]
  smooth = tf.pad(smooth - image[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]]) + image
  return _blend(smooth, image, level)


def _shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _warp(image, b=0.3 * level)


def _shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _warp(image, c=0.3 * level)


def _translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _warp(image, x=tf.round(0.45 * image.shape[1] * level))


def _translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  return _warp(image, y=tf.round(0.45 * image.shape[0] * level))


def _rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  angle = math.radians(30.0) * level
  return _warp(image, a=tf.cos(angle), b=tf.sin(angle), c=-tf.sin(angle), d=tf.cos(angle))


def _warp(image: tf.Tensor, a: Any = 1.0, b: Any = 0.0, c: Any = 0.0, d: Any = 1.0, x: Any = 0.0, y: Any = 0.0):
  """Takes the place (a u + b v + x, c u + d v + y) of the image to (u, v), both counted from the centre."""
  height, width = image.shape[:2]
  centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
  transform = [a, b, centre_x - a * centre_x - b * centre_y + x, c, d, centre_y - c * centre_x - d * centre_y + y, 0, 0]
  moved = tf.raw_ops.ImageProjectiveTransformV3(
    images=image[tf.newaxis] - _GREY,
    transforms=tf.stack([tf.cast(number, tf.float32) for number in transform])[tf.newaxis],
    output_shape=[height, width],
    fill_value=0.0,
    interpolation='BILINEAR',
    fill_mode='CONSTANT',
  )
  return moved[0] + _GREY


# The identity is in the middle, where a draw of 0.5 falls.
OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
  'auto_contrast': _auto_contrast,
  'equalize': _equalize,
  'rotate': _rotate,
  'solarize': _solarize,
  'color': _color,
  'posterize': _posterize,
  'contrast': _contrast,
  'identity': _identity,
  'brightness': _brightness,
  'sharpness': _sharpness,
  'shear_x': _shear_x,
  'shear_y': _shear_y,
  'translate_x': _translate_x,
  'translate_y': _translate_y,
}
