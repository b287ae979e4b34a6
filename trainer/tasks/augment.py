"""Random changes to images: one projective resampling per image, a pure function of given uniform numbers.

Where images only move by whole pixels and are mirrored, no value is mixed with another: rows and columns are taken as
they are, which gives the same bits in a third of the time.

Dimensions: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.fields import Field, at_least, fraction
from trainer.tasks.inputs import along_rows

FIELDS: dict[str, Field] = {
  'shift_pixels': Field(
    0.0, 'largest move along each axis, in pixels; by whole ones, unless images also turn or zoom', at_least(0)
  ),
  'rotate_degrees': Field(0.0, 'images turn by up to so many degrees either way', at_least(0)),
  'zoom': Field(0.0, 'images grow or shrink by up to this share', fraction),
  'flip_horizontal': Field(False, 'half of the images are mirrored left to right'),
  'flip_vertical': Field(False, 'half of the images are mirrored top to bottom'),
  'crop_area': Field(
    0.0,
    'a random part of at least this share of the area, of an aspect up to a third narrower or wider, fills the image; '
    'classification cuts it out of the original where images of an image_size are streamed; 0: no crop',
    fraction,
  ),
}
# Szegedy et al., Going Deeper with Convolutions, 2015, section 6: sides from 3:4 to 4:3.
_CROP_ASPECT = 4 / 3


# Uniform numbers of a crop, the last of an image's.
_CROP_DRAWS = 4


def draws(fields: Any) -> int:
  """Uniform numbers that one image takes: two for the shift, four for the crop, one for each other that is on."""
  ones = sum(map(bool, (fields.rotate_degrees, fields.zoom, fields.flip_horizontal, fields.flip_vertical)))
  return 2 * bool(fields.shift_pixels) + ones + _CROP_DRAWS * bool(fields.crop_area)


def uncropped(fields: Any) -> Any:
  """The values of FIELDS with all that happens to an image but the crop; it takes the first of the same draws."""
  return ml_collections.ConfigDict({name: getattr(fields, name) for name in FIELDS} | {'crop_area': 0.0})


def window(fields: Any, size: tf.Tensor, into: tuple[int, int], draws: tf.Tensor) -> tf.Tensor:
  """The part of an image that fills it, for who cuts it out of the original.

  Args:
    fields: the values of FIELDS, with a crop.
    size: int32 [2], height and width of the original.
    into: height and width of what it will fill; aspects are relative to its own.
    draws: float32 [draws(fields)], of one image.

  Returns:
    int32 [4]: top, left, height, width; inside the image, at least a pixel high and wide.
  """
  height, width = tf.unstack(tf.cast(size, tf.float32))
  wider = (width / height) / (into[1] / into[0])
  area, aspect, x, y = tf.split(draws[-_CROP_DRAWS:], _CROP_DRAWS)
  left, top, wide, high = (share[0] for share in _crop(fields.crop_area, area, aspect, x, y, wider))
  corner = tf.stack([top * height, left * width])
  extent = tf.clip_by_value(tf.cast(tf.round(tf.stack([high * height, wide * width])), tf.int32), 1, size)
  return tf.concat([tf.minimum(tf.cast(tf.round(corner), tf.int32), size - extent), extent], 0)


def images(fields: Any, images_BHWC: tf.Tensor, draws: tf.Tensor, black: np.ndarray | float = 0.0) -> tf.Tensor:
  """The images cropped, mirrored, zoomed, turned about the centre and moved, in this order, in one bilinear resampling.

  Args:
    fields: the values of FIELDS.
    images_BHWC: float images of static H, W and C.
    draws: float32 [B, draws(fields)] in [0, 1). A row of 0.5 leaves its image as it is; the ends are the extremes.
    black: scalar or [C], what fills the places that lie outside the original image.

  Returns:
    Images of the same shape and dtype. Image b depends on image b and row b of `draws` alone.
  """
  return resample(fields, images_BHWC, transforms(fields, images_BHWC.shape[1:3], draws), black)


def resample(
  fields: Any,
  images_BHWC: tf.Tensor,
  transforms_B6: tf.Tensor,
  fill: np.ndarray | float,
  interpolation: str = 'BILINEAR',
) -> tf.Tensor:
  """The images seen through `transforms`.

  Args:
    fields: the values of FIELDS.
    images_BHWC: float images of static H, W and C.
    transforms_B6: what `transforms` gives.
    fill: scalar or [C], for the places that lie outside the original image.
    interpolation: 'BILINEAR', or 'NEAREST' for what cannot be mixed, as labels.
  """
  outside = _blends(fields) or fields.shift_pixels
  # What comes in from outside is 0, of all channels.
  filled, fill = bool(outside and np.any(fill)), along_rows(np.asarray(fill, np.float32), images_BHWC.shape)
  moved = images_BHWC - fill if filled else images_BHWC
  a, _, move_x, _, d, move_y = tf.unstack(transforms_B6, axis=1)
  if _blends(fields):
    moved = tf.raw_ops.ImageProjectiveTransformV3(
      images=moved,
      transforms=tf.pad(transforms_B6, [[0, 0], [0, 2]]),
      output_shape=images_BHWC.shape[1:3],
      fill_value=0.0,
      interpolation=interpolation,
      fill_mode='CONSTANT',
    )
  elif fields.shift_pixels:
    moved, swap = _rows(moved, d, move_y), [0, 2, 1, 3]
    moved = tf.transpose(_rows(tf.transpose(moved, swap), a, move_x), swap)
  else:
    moved = _mirrored(moved, d, 1) if fields.flip_vertical else moved
    moved = _mirrored(moved, a, 2) if fields.flip_horizontal else moved
  moved = tf.ensure_shape(moved, images_BHWC.shape)
  return moved + fill if filled else moved


def _blends(fields: Any) -> bool:
  """Whether places fall between pixels; if not, `transforms` are made of whole numbers."""
  return bool(fields.rotate_degrees or fields.zoom or fields.crop_area)


def _mirrored(images_BHWC: tf.Tensor, step_B: tf.Tensor, axis: int) -> tf.Tensor:
  """Each image whose step is negative, the other way round along an axis."""
  # This kind of selection takes whole images; tf.where would broadcast.
  return tf.raw_ops.Select(condition=step_B < 0, x=tf.reverse(images_BHWC, [axis]), y=images_BHWC)


def _rows(images_BHWC: tf.Tensor, step_B: tf.Tensor, start_B: tf.Tensor) -> tf.Tensor:
  """In row y of each image its row start + step * y, or zeros where it has none."""
  height = images_BHWC.shape[1]
  place_BH = tf.cast(start_B[:, None] + step_B[:, None] * tf.range(height, dtype=tf.float32), tf.int32)
  place_BH = tf.where((place_BH < 0) | (place_BH >= height), height, place_BH)
  # Not tf.pad, which takes three times as long.
  return tf.gather(tf.concat([images_BHWC, tf.zeros_like(images_BHWC[:, :1])], 1), place_BH, batch_dims=1)


def transforms(fields: Any, size: tuple[int, int], draws: tf.Tensor) -> tf.Tensor:
  """From a place in the image that comes out to the place in the image that went in: what `images` does, as numbers.

  Args:
    fields: the values of FIELDS.
    size: H and W.
    draws: float32 [B, draws(fields)] in [0, 1).

  Returns:
    float32 [B, 6]: a, b, c, d, e, f. What stands at column x and row y stood at column a x + b y + c and row
    d x + e y + f; the first pixel's middle is (0, 0).
  """
  columns = iter(tf.unstack(draws, axis=1))
  one_B = tf.ones_like(draws[:, 0])
  height, width = size
  dx = dy = angle = 0.0 * one_B
  scale = mirror_x = mirror_y = one_B

  def symmetric() -> tf.Tensor:
    """The next column of draws, stretched to [-1, 1)."""
    return 2.0 * next(columns) - 1.0

  if fields.shift_pixels:
    dx, dy = fields.shift_pixels * symmetric(), fields.shift_pixels * symmetric()
    if not (fields.rotate_degrees or fields.zoom):
      # A shift by part of a pixel blurs; where nothing else resamples the image, that would be all it does.
      limit = math.floor(fields.shift_pixels)
      dx, dy = (tf.clip_by_value(tf.round(d), -limit, limit) for d in (dx, dy))
  if fields.rotate_degrees:
    angle = math.radians(fields.rotate_degrees) * symmetric()
  if fields.zoom:
    scale = tf.exp(math.log1p(fields.zoom) * symmetric())
  if fields.flip_horizontal:
    mirror_x = tf.where(next(columns) > 0.5, -one_B, one_B)
  if fields.flip_vertical:
    mirror_y = tf.where(next(columns) > 0.5, -one_B, one_B)

  # Undo shift, turn, zoom, mirror.
  cos, sin = tf.cos(angle) / scale, tf.sin(angle) / scale
  a, b, c, d = mirror_x * cos, mirror_x * sin, -mirror_y * sin, mirror_y * cos
  centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
  move_x = centre_x - a * (centre_x + dx) - b * (centre_y + dy)
  move_y = centre_y - c * (centre_x + dx) - d * (centre_y + dy)
  if fields.crop_area:
    # From a place in the crop, stretched over the whole image, to the place in the image.
    left, top, wide, high = _crop(fields.crop_area, *(next(columns) for _ in range(_CROP_DRAWS)))
    a, b, move_x = wide * a, wide * b, wide * (move_x + 0.5) - 0.5 + width * left
    c, d, move_y = high * c, high * d, high * (move_y + 0.5) - 0.5 + height * top
  return tf.stack([a, b, move_x, c, d, move_y], axis=1)


def _crop(
  least: float, area: tf.Tensor, aspect: tf.Tensor, x: tf.Tensor, y: tf.Tensor, wider: tf.Tensor | float = 1.0
) -> tuple[tf.Tensor, ...]:
  """Left, top, width and height of each image's crop as shares of the image, [B], from uniform numbers [B].

  Where a side would be longer than the image's, it is the image's.

  Args:
    least: share of the area.
    area: uniform numbers, as are the next three.
    aspect: likewise.
    x: likewise.
    y: likewise.
    wider: the image's aspect over that of what the crop will fill.
  """
  # Moved round by a half, so that a draw of 0.5 is the whole image.
  area = 1.0 - (1.0 - least) * ((area + 0.5) % 1.0)
  aspect = tf.exp(math.log(_CROP_ASPECT) * (2.0 * aspect - 1.0)) / wider
  wide, high = (tf.minimum(tf.sqrt(side), 1.0) for side in (area * aspect, area / aspect))
  return (1.0 - wide) * x, (1.0 - high) * y, wide, high
