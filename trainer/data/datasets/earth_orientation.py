"""The Earth's orientation as a TFDS builder: where the pole stood on each day since 1962, in windows of 395 days."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

CHANNELS = ('pole_x', 'pole_y')
WINDOW_DAYS = 395  # a year to look at, and 30 days to forecast
# Columns of the file: the day and the two coordinates.
_COLUMNS = (4, 5, 6)
# The forecast days of the test split are the last tenth; those of the training split come before.
_TEST_SHARE = 0.1
# Windows of neighbouring days are nearly the same.
_TRAIN_EVERY_DAYS = 3


class EarthOrientation(tfds.core.GeneratorBasedBuilder):
  """Polar motion of the series EOP 20 C04 of the International Earth Rotation and Reference Systems Service (IERS).

  Features: `series` float32 (395, 2), the coordinates CHANNELS of the pole in arc seconds on 395 days, one after the
    other; `day` int32, the modified Julian date of the last of them.
  Splits, by time: `train`, a window every third day, none of which reaches into the last tenth of the series; `test`, a
    window for every day of the last tenth but its first 29, whose last 30 days lie in that tenth.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As the package astropy-iers-data that is installed has it, which grows by a day a day.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'Daily coordinates of the Earth pole ({", ".join(CHANNELS)}) in windows of {WINDOW_DAYS} days.',
      features=tfds.features.FeaturesDict(
        {
          'series': tfds.features.Tensor(shape=(WINDOW_DAYS, len(CHANNELS)), dtype=np.float32),
          'day': tfds.features.Scalar(np.int32),
        }
      ),
      homepage='https://hpiers.obspm.fr/eop-pc/',
      license='The carrier astropy-iers-data is BSD-3-Clause; IERS gives its products away freely, to be cited.',
      citation="""@article{bizouard2019, author={Bizouard, C. and Lambert, S. and Gattano, C. and Becker, O. and
        Richard, J.}, year={2019}, title={The IERS EOP 14C04 solution for Earth orientation parameters consistent with
        ITRF 2014}, journal={Journal of Geodesy}, volume={93}, pages={621--633}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    path = carriers.file(self.name, 'astropy-iers-data', 'astropy_iers_data/data/eopc04.1962-now')
    rows = np.loadtxt(path, comments='#', usecols=_COLUMNS)
    ends = np.arange(WINDOW_DAYS, len(rows) + 1)
    cut = len(rows) - int(len(rows) * _TEST_SHARE)
    return {
      'train': self._generate_examples(rows, ends[ends <= cut][::_TRAIN_EVERY_DAYS]),
      'test': self._generate_examples(rows, ends[ends >= cut + 30]),
    }

  def _generate_examples(self, rows: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, end in enumerate(ends):
      window = rows[end - WINDOW_DAYS : end]
      yield key, {'series': window[:, 1:].astype(np.float32), 'day': int(window[-1, 0])}
