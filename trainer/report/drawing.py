"""Masks and boxes drawn on pictures.

Dimensions: H height, W width, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Okabe and Ito, Color Universal Design, 2008: told apart by people of any colour vision.
COLOURS = np.array(
  [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]], np.uint8
)
# A box's line and name need so many pixels on the shorter side; a smaller picture is enlarged first.
_LEAST_SIDE = 320


def rgb(image: np.ndarray) -> np.ndarray:
  """uint8 [H, W], [H, W, 1] or [H, W, 3] as [H, W, 3]."""
  image = image[..., None] if image.ndim == 2 else image
  return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def masked(image: np.ndarray, classes_HW: np.ndarray) -> np.ndarray:
  """The picture in grey under the colours of its classes, uint8 [H, W, 3]; a pixel of class -1 stays grey."""
  grey = np.repeat(rgb(image).mean(axis=-1, keepdims=True), 3, axis=-1)
  colours = COLOURS[np.maximum(classes_HW, 0) % len(COLOURS)]
  return np.where(classes_HW[..., None] >= 0, 0.45 * grey + 0.55 * colours, grey).astype(np.uint8)


def boxed(image: np.ndarray, boxes_N4: np.ndarray, labels_N: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """The picture with boxes and their names, uint8, enlarged if it is small.

  Args:
    image: uint8 [H, W, 1 or 3].
    boxes_N4: upper, left, lower and right side in pixels.
    labels_N: a class of each box, which gives the colour.
    names: what is written at each box.
  """
  from PIL import Image, ImageDraw

  picture = Image.fromarray(rgb(image))
  scale = max(1, -(-_LEAST_SIDE // min(picture.size)))
  picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
  pen = ImageDraw.Draw(picture)
  for (upper, left, lower, right), label, name in zip(
    (boxes_N4 * scale).tolist(), labels_N.tolist(), names, strict=True
  ):
    colour = tuple(COLOURS[label % len(COLOURS)].tolist())
    pen.rectangle((left, upper, max(left, right - 1), max(upper, lower - 1)), outline=colour, width=2)
    place = (left + 3, max(0.0, upper - 12))
    pen.rectangle(pen.textbbox(place, name), fill=(0, 0, 0))
    pen.text(place, name, fill=colour)
  return np.asarray(picture)
