"""The diamonds table as a TFDS builder: 53,940 cut diamonds, six measures, three grades, and the price."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

MEASURES = ('carat', 'depth', 'table', 'x', 'y', 'z')
# From the worst to the best.
GRADES = {
  'cut': ('Fair', 'Good', 'Very Good', 'Premium', 'Ideal'),
  'color': ('J', 'I', 'H', 'G', 'F', 'E', 'D'),
  'clarity': ('I1', 'SI2', 'SI1', 'VS2', 'VS1', 'VVS2', 'VVS1', 'IF'),
}
# A stone has no side of 0 mm: there, it was not measured.
_SIDES = ('x', 'y', 'z')
# The file goes from cheap to dear within its parts: every tenth row is the test split.
_TEST_EVERY = 10


class DiamondPrices(tfds.core.GeneratorBasedBuilder):
  """Prices of round cut diamonds (Wickham, ggplot2, 2009), in the order of the source file.

  Features: `features`, a row of MEASURES (float32; weight in carats, two proportions in percent, three sides in mm, NaN
    where a side was not measured) and of GRADES (class labels, from the worst to the best); `target` float32, the
    natural logarithm of the price in US dollars.
  Splits: `test`, every tenth row beginning with row 9 (5,394 rows); `train`, the other 48,546.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in plotnine 0.15, with sides of 0 as NaN.'}

  def _info(self) -> tfds.core.DatasetInfo:
    columns: dict[str, Any] = {name: tfds.features.Scalar(np.float32) for name in MEASURES}
    columns |= {name: tfds.features.ClassLabel(names=list(grades)) for name, grades in GRADES.items()}
    return tfds.core.DatasetInfo(
      builder=self,
      description='Logarithm of the price of a diamond from its weight, measures and grades.',
      features=tfds.features.FeaturesDict(
        {'features': tfds.features.FeaturesDict(columns), 'target': tfds.features.Scalar(np.float32)}
      ),
      supervised_keys=('features', 'target'),
      homepage='https://ggplot2.tidyverse.org/reference/diamonds.html',
      license='MIT, with its carriers ggplot2 and plotnine',
      citation="""@book{wickham2009, author={Wickham, H.}, year={2009},
        title={ggplot2: Elegant Graphics for Data Analysis}, publisher={Springer}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    path = carriers.file(self.name, 'plotnine', 'plotnine/data/diamonds.csv')
    with open(path, newline='', encoding='utf-8') as file:
      rows = list(csv.DictReader(file))
    test = rows[_TEST_EVERY - 1 :: _TEST_EVERY]
    train = [row for i, row in enumerate(rows) if i % _TEST_EVERY != _TEST_EVERY - 1]
    return {'train': self._generate_examples(train), 'test': self._generate_examples(test)}

  def _generate_examples(self, rows: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, row in enumerate(rows):
      measures = {name: np.float32(row[name]) for name in MEASURES}
      measures |= {side: np.float32(np.nan) for side in _SIDES if measures[side] == 0}
      grades = {name: row[name] for name in GRADES}
      yield key, {'features': {**measures, **grades}, 'target': np.log(np.float32(row['price']))}
