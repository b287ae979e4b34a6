"""The Wisconsin diagnostic breast cancer table as a TFDS builder: 569 tumours, 30 measurements, two classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.data import datasets

_MEASURES = (
  'radius',
  'texture',
  'perimeter',
  'area',
  'smoothness',
  'compactness',
  'concavity',
  'concave_points',
  'symmetry',
  'fractal_dimension',
)
FEATURE_NAMES = tuple(f'{statistic}_{measure}' for statistic in ('mean', 'error', 'worst') for measure in _MEASURES)
# Rows 4, 9, 14, ... of the file are the test split.
_TEST_EVERY = 5


class BreastCancer(tfds.core.GeneratorBasedBuilder):
  """Breast Cancer Wisconsin (Diagnostic), in the order of the source file.

  Features: `features` float32 (30,), in the order of FEATURE_NAMES: of ten measures of the cell nuclei in an image,
  the mean, the standard error and the mean of the three largest; `label` int64, 0 malignant, 1 benign.
  Splits: `test`, every fifth row beginning with row 4 (113 rows); `train`, the other 456.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in scikit-learn 1.9.1, unscaled.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'Malignant or benign tumours from 30 measurements of cell nuclei: {", ".join(FEATURE_NAMES)}.',
      features=tfds.features.FeaturesDict(
        {
          'features': tfds.features.Tensor(shape=(30,), dtype=np.float32),
          'label': tfds.features.ClassLabel(names=['malignant', 'benign']),
        }
      ),
      supervised_keys=('features', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic',
      license='Creative Commons Attribution 4.0 International (CC BY 4.0)',
      citation="""@misc{wdbc, author={Wolberg, W. and Mangasarian, O. and Street, N. and Street, W.}, year={1995},
        title={Breast Cancer Wisconsin (Diagnostic)}, howpublished={UCI Machine Learning Repository}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    rows = datasets.table('breast_cancer.csv', skip_rows=1)
    is_test = np.arange(len(rows)) % _TEST_EVERY == _TEST_EVERY - 1
    return {'train': self._generate_examples(rows[~is_test]), 'test': self._generate_examples(rows[is_test])}

  def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, row in enumerate(rows):
      yield key, {'features': row[:-1].astype(np.float32), 'label': int(row[-1])}
