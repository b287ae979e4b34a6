"""The UCI handwritten digits as a TFDS builder: 1,797 images of 8 x 8, split by writer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.data import datasets

# The last rows of the file were written by people of whom the earlier rows hold nothing.
_TRAIN_ROWS = 1437


class UciDigits(tfds.core.GeneratorBasedBuilder):
  """Optical Recognition of Handwritten Digits (its test part), in the order of the source file.

  Features: `image` uint8 (8, 8, 1), each value the number of set pixels, 0 to 16, of a 4 x 4 block of the scan;
    `label` int64.
  Splits: `train`, the first 1,437 rows; `test`, the last 360, by other writers.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in scikit-learn 1.9.1.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Handwritten digits, 8 x 8 pixels with values 0 to 16; the test split is by other writers.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits',
      license='Creative Commons Attribution 4.0 International (CC BY 4.0)',
      citation="""@misc{uci_digits, author={Alpaydin, E. and Kaynak, C.}, year={1998},
        title={Optical Recognition of Handwritten Digits}, howpublished={UCI Machine Learning Repository}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    rows = datasets.table('digits.csv.gz').astype(np.uint8)
    return {'train': self._generate_examples(rows[:_TRAIN_ROWS]), 'test': self._generate_examples(rows[_TRAIN_ROWS:])}

  def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, row in enumerate(rows):
      yield key, {'image': row[:64].reshape(8, 8, 1), 'label': int(row[64])}
