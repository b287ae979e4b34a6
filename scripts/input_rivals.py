"""Inputs as people write them with tfds.load and tf.data, and pictures to read where there is no ImageNet.

Each row gives its inputs by name: endless datasets of (images float32 [64, H, W, C], labels int32 [64]).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

BATCH = 64
PICTURES = 'bench_pictures'
_HEIGHT, _WIDTH, _CLASSES = 375, 500, 1000
_MEAN, _DEVIATION = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
_SHIFT = 2
_CROPPED, _CROP_AREA = (224, 224), 0.08


def fashion(data_dir: str) -> dict[str, tf.data.Dataset]:
  def change(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    padded = tf.pad(image, [[_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]])
    image = tf.image.random_flip_left_right(tf.image.random_crop(padded, [28, 28, 1]))
    return tf.cast(image, tf.float32) / 255.0, tf.cast(label, tf.int32)

  def batches(data: tf.data.Dataset) -> tf.data.Dataset:
    data = data.shuffle(10_000).repeat().map(change, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

  read = tfds.load('fashion_mnist', split='train', as_supervised=True, data_dir=data_dir, download=False)
  return {'tfds': batches(read), 'cached': batches(read.cache())}


def jpeg(data_dir: str) -> dict[str, tf.data.Dataset]:
  def change(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    encoded = features['image']
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(encoded), tf.zeros([1, 0, 4]), area_range=(_CROP_AREA, 1.0),
      aspect_ratio_range=(3 / 4, 4 / 3), use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.image.resize(tf.io.decode_and_crop_jpeg(encoded, window, channels=3), _CROPPED)
    image = tf.image.random_flip_left_right(image)
    return (image - _MEAN) / _DEVIATION, tf.cast(features['label'], tf.int32)

  read = tfds.load(
    PICTURES, split='train', data_dir=data_dir, download=False, decoders={'image': tfds.decode.SkipDecoding()}
  )

  def decode(features: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_max(tf.io.decode_jpeg(features['image'], channels=3)[0, 0])

  shuffled = read.shuffle(1024).repeat()
  inputs = {'tfds': shuffled.map(change, tf.data.AUTOTUNE), 'decode': shuffled.map(decode, tf.data.AUTOTUNE)}
  return {name: data.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE) for name, data in inputs.items()}


def write_pictures(data_dir: str, count: int) -> None:
  """Writes so many pictures as the TFDS set PICTURES, with the features of ImageNet that are read."""
  tfds.disable_progress_bar()
  features = {
    'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
    'label': tfds.features.ClassLabel(num_classes=_CLASSES),
  }
  tfds.dataset_builders.store_as_tfds_dataset(
    PICTURES, '1.0.0', tfds.features.FeaturesDict(features), {'train': _pictures(count)}, data_dir=data_dir,
    file_format=tfds.core.FileFormat.TFRECORD,
  )  # fmt: skip


def _pictures(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
  """Noise whose amplitude falls with the frequency, as in photographs (Field, Relations between the statistics
  of natural images and the response properties of cortical cells, 1987), and ellipses in it, which have edges.
  """
  rng = np.random.default_rng(0)
  frequency = np.hypot(np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH)[None])
  frequency[0, 0] = np.inf
  rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
  for number in range(count):
    noise = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    light, red, blue = np.fft.irfft2(noise / frequency**1.1, s=(_HEIGHT, _WIDTH))
    # Light varies most, colours little.
    image = np.stack(
      [light / light.std() + share * each / each.std() for share, each in ((0.3, red), (0, light), (0.3, blue))], -1
    )
    for _ in range(12):
      y, x, high, wide = rng.random(4) * (_HEIGHT, _WIDTH, _HEIGHT / 4, _WIDTH / 4) + (0, 0, 5, 5)
      inside = ((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2 < 1
      image[inside] = 0.3 * image[inside] + rng.normal(size=3)
    pixels = np.clip(image * _DEVIATION + _MEAN, 0, 255).astype(np.uint8)
    encoded = tf.io.encode_jpeg(pixels, quality=90).numpy()
    yield number, {'image': io.BytesIO(encoded), 'label': int(rng.integers(_CLASSES))}
