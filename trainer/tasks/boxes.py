"""Boxes in images, in graph ops: moved with their image, assigned to places, compared, and the best of many kept.

A box is (upper, left, lower, right) in pixels, from the upper left corner of the first pixel on. A place is the middle
of a square of a feature map (trainer/models/detector.py).

Dimensions: B batch, M boxes of an image, P places of all levels, K classes, N candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# The label of a box that is none.
NONE = -1
_EPSILON = 1e-6


class Places(NamedTuple):
  """Where a detector's outputs are.

  Attributes:
    y: float32 [P], in pixels.
    x: float32 [P], in pixels.
    stride: float32 [P], side of the place's square in pixels.
    nearest: float32 [P], the smallest distance to the farthest side of a box that a place takes, in pixels.
    farthest: float32 [P], the largest.
  """

  y: np.ndarray
  x: np.ndarray
  stride: np.ndarray
  nearest: np.ndarray
  farthest: np.ndarray


def places(grids: list[tuple[int, int, int]], reach: float) -> Places:
  """The places of some levels, level after level and row by row.

  Args:
    grids: (stride, rows, columns) of each level, the finest first.
    reach: a level takes boxes whose farthest side is up to so many strides away, and that the level below does not; the
      first takes all that are smaller and the last all that are larger.
  """
  columns: list[np.ndarray] = []
  for i, (stride, rows, wide) in enumerate(grids):
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :wide])
    one = np.ones(rows * wide)
    nearest = 0.0 if i == 0 else reach * grids[i - 1][0]
    farthest = np.inf if i == len(grids) - 1 else reach * stride
    columns.append(np.stack([(y + 0.5) * stride, (x + 0.5) * stride, one * stride, one * nearest, one * farthest]))
  return Places(*np.concatenate(columns, axis=1).astype(np.float32))


def move(boxes_BM4: tf.Tensor, labels_BM: tf.Tensor, transforms_B6: tf.Tensor, size: tuple[int, int], visible: float):
  """Boxes where `augment.resample` moves what they hold; a box that was turned is the box around it.

  Args:
    boxes_BM4: float32.
    labels_BM: int32, NONE where there is no box.
    transforms_B6: what `augment.transforms` gives.
    size: height and width of the image.
    visible: a box of which less than this share is left in the image is none.

  Returns:
    (boxes cut at the edges of the image, labels).
  """
  a, b, c, d, e, f = (column[:, None, None] for column in tf.unstack(transforms_B6, axis=1))
  upper, left, lower, right = tf.unstack(boxes_BM4, axis=-1)
  # Four corners, in the transform's unit, whose origin is the middle of a pixel.
  x, y = tf.stack([left, right, left, right], -1) - 0.5 - c, tf.stack([upper, upper, lower, lower], -1) - 0.5 - f
  determinant = a * e - b * d
  x, y = (e * x - b * y) / determinant + 0.5, (a * y - d * x) / determinant + 0.5
  whole = tf.stack([tf.reduce_min(y, -1), tf.reduce_min(x, -1), tf.reduce_max(y, -1), tf.reduce_max(x, -1)], -1)
  limit = tf.constant([*size, *size], tf.float32)
  cut = tf.clip_by_value(whole, 0.0, limit)
  stays = (labels_BM != NONE) & (area(cut) >= visible * area(whole)) & (area(cut) > 0)
  return tf.where(stays[..., None], cut, 0.0), tf.where(stays, labels_BM, NONE)


def assign(
  boxes_BM4: tf.Tensor, labels_BM: tf.Tensor, at: Places, radius: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Which box each place is to find: Tian et al., 2019, sections 3.1 and 3.2.

  A place takes a box if it is inside it, no farther from its middle than `radius` strides along each axis, and the
  farthest side of the box is one for its level. Of several it takes the smallest, and of equal ones the first.

  Returns:
    (labels int32 [B, P], NONE where a place takes none; boxes float32 [B, P, 4]; centre-ness float32 [B, P], 0 where a
    place takes none).
  """
  distances_BPM4 = _distances(boxes_BM4[:, None], at.y[None, :, None], at.x[None, :, None])
  middle_BM2 = (boxes_BM4[..., :2] + boxes_BM4[..., 2:]) / 2
  away_BPM = tf.maximum(
    tf.abs(middle_BM2[:, None, :, 0] - at.y[None, :, None]), tf.abs(middle_BM2[:, None, :, 1] - at.x[None, :, None])
  )
  far_BPM = tf.reduce_max(distances_BPM4, axis=-1)
  takes_BPM = (labels_BM[:, None] != NONE) & (tf.reduce_min(distances_BPM4, axis=-1) > 0)
  takes_BPM &= away_BPM < radius * at.stride[None, :, None]
  takes_BPM &= (far_BPM > at.nearest[None, :, None]) & (far_BPM <= at.farthest[None, :, None])
  size_BPM = tf.where(takes_BPM, area(boxes_BM4)[:, None], np.float32(np.inf))
  chosen_BP = tf.argmin(size_BPM, axis=-1, output_type=tf.int32)
  taken_BP = tf.reduce_any(takes_BPM, axis=-1)
  labels_BP = tf.where(taken_BP, tf.gather(labels_BM, chosen_BP, batch_dims=1), NONE)
  boxes_BP4 = tf.gather(boxes_BM4, chosen_BP, batch_dims=1)
  upper, left, lower, right = tf.unstack(_distances(boxes_BP4, at.y, at.x), axis=-1)
  ratios = (tf.math.divide_no_nan(tf.minimum(*pair), tf.maximum(*pair)) for pair in ((upper, lower), (left, right)))
  vertical_BP, horizontal_BP = (tf.where(taken_BP, ratio, 0.0) for ratio in ratios)
  return labels_BP, boxes_BP4, tf.sqrt(tf.maximum(vertical_BP * horizontal_BP, 0.0))


def from_distances(logs_BP4: tf.Tensor, at: Places) -> tf.Tensor:
  """Boxes [B, P, 4] around places, from the logarithms of the distances to left, upper, right and lower side, in
  strides."""
  # Up to 2,980 strides: an exponential of anything else would not stay finite.
  left, upper, right, lower = tf.unstack(tf.exp(tf.clip_by_value(logs_BP4, -8.0, 8.0)) * at.stride[:, None], axis=-1)
  return tf.stack([at.y - upper, at.x - left, at.y + lower, at.x + right], axis=-1)


def generalized_iou(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
  """Rezatofighi et al., Generalized Intersection over Union, 2019, algorithm 1: [..., 4] and [..., 4] -> [...].

  The intersection over union, less the share of the smallest box around both that is in neither: from -1 to 1.
  """
  common = area(tf.concat([tf.maximum(one[..., :2], other[..., :2]), tf.minimum(one[..., 2:], other[..., 2:])], -1))
  around = area(tf.concat([tf.minimum(one[..., :2], other[..., :2]), tf.maximum(one[..., 2:], other[..., 2:])], -1))
  union = area(one) + area(other) - common
  return common / (union + _EPSILON) - (around - union) / (around + _EPSILON)


def area(boxes: tf.Tensor) -> tf.Tensor:
  """[..., 4] -> [...]; 0 for a box whose sides are crossed."""
  sides = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
  return sides[..., 0] * sides[..., 1]


def best(
  boxes_BP4: tf.Tensor, scores_BPK: tf.Tensor, *, candidates: int, count: int, overlap: float, least: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """The best boxes of each image, of which no two of one class overlap much.

  Args:
    boxes_BP4: a box per place.
    scores_BPK: how likely it is of each class.
    candidates: pairs of place and class that are looked at, the best.
    count: boxes that are kept at most.
    overlap: the largest intersection over union of two boxes of one class.
    least: the lowest score.

  Returns:
    (boxes [B, count, 4]; scores [B, count], falling; labels int32 [B, count], NONE where there are no more boxes).
  """
  classes = scores_BPK.shape[2]
  flat = tf.reshape(scores_BPK, [tf.shape(scores_BPK)[0], scores_BPK.shape[1] * classes])
  scores_BN, index_BN = tf.math.top_k(flat, min(candidates, flat.shape[1]))
  labels_BN, boxes_BN4 = index_BN % classes, tf.gather(boxes_BP4, index_BN // classes, batch_dims=1)
  # Moved apart by class, boxes of different classes never overlap.
  span_B = tf.reduce_max(boxes_BN4, [1, 2]) - tf.reduce_min(boxes_BN4, [1, 2]) + 1.0
  apart_BN4 = boxes_BN4 + (tf.cast(labels_BN, tf.float32) * span_B[:, None])[..., None]
  kept, valid_B = tf.image.non_max_suppression_padded(
    apart_BN4,
    scores_BN,
    count,
    iou_threshold=overlap,
    score_threshold=least,
    pad_to_max_output_size=True,
    sorted_input=True,
    canonicalized_coordinates=True,
  )
  there = tf.range(count)[None] < valid_B[:, None]
  kept = tf.where(there, kept, 0)
  found = tf.gather(boxes_BN4, kept, batch_dims=1), tf.gather(scores_BN, kept, batch_dims=1)
  boxes, scores = (tf.where(tf.reshape(there, [-1, count, *[1] * (f.shape.rank - 2)]), f, 0.0) for f in found)
  labels = tf.where(there, tf.gather(labels_BN, kept, batch_dims=1), NONE)
  return tf.ensure_shape(boxes, [None, count, 4]), scores, labels


def _distances(boxes: tf.Tensor, y: np.ndarray, x: np.ndarray) -> tf.Tensor:
  """[..., 4], from places to the upper, left, lower and right side; below 0 where the place is outside."""
  upper, left, lower, right = tf.unstack(boxes, axis=-1)
  return tf.stack([y - upper, x - left, lower - y, right - x], axis=-1)
