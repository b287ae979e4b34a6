"""The diabetes progression table as a TFDS builder: 442 patients, ten variables, one target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.data import datasets

FEATURE_NAMES = ('age', 'sex', 'bmi', 'bp', 's1_tc', 's2_ldl', 's3_hdl', 's4_tch', 's5_ltg', 's6_glu')
# Rows 4, 9, 14, ... of the file are the test split.
_TEST_EVERY = 5


class Diabetes(tfds.core.GeneratorBasedBuilder):
  """Diabetes progression (Efron, Hastie, Johnstone and Tibshirani, 2004), in the order of the source file.

  Features: `features` float32 (10,), in original units and in the order of FEATURE_NAMES: age in years, sex (1 or 2),
  body mass index, average blood pressure, and six blood serum measurements (total cholesterol, LDL, HDL, total
  cholesterol / HDL, the log of triglycerides, glucose); `target` float32, disease progression after one year, 25 to
  346.
  Splits: `test`, every fifth row beginning with row 4 (88 rows); `train`, the other 354.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in scikit-learn 1.9.1, unscaled.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'Diabetes progression after one year from ten baseline variables: {", ".join(FEATURE_NAMES)}.',
      features=tfds.features.FeaturesDict(
        {'features': tfds.features.Tensor(shape=(10,), dtype=np.float32), 'target': tfds.features.Scalar(np.float32)}
      ),
      supervised_keys=('features', 'target'),
      homepage='https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html',
      citation="""@article{efron2004, author={Efron, B. and Hastie, T. and Johnstone, I. and Tibshirani, R.},
      year={2004},
        title={Least Angle Regression}, journal={Annals of Statistics}, volume={32}, pages={407--499}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    features = datasets.table('diabetes_data_raw.csv.gz', delimiter=None)
    target = datasets.table('diabetes_target.csv.gz', delimiter=None)
    rows = np.concatenate([features, target], axis=1).astype(np.float32)
    is_test = np.arange(len(rows)) % _TEST_EVERY == _TEST_EVERY - 1
    return {'train': self._generate_examples(rows[~is_test]), 'test': self._generate_examples(rows[is_test])}

  def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, row in enumerate(rows):
      yield key, {'features': row[:-1], 'target': row[-1]}
