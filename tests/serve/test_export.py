"""How far two outputs are apart: nothing that differs passes for the same."""

import numpy as np
import pytest

from trainer.serve.export import largest_difference


@pytest.mark.parametrize(
  ('found', 'wanted', 'apart'),
  [
    ([1.0, 2.0], [1.0, 2.0], 0.0),
    ([0.5, 0.25], [0.5, 0.5], 0.25),
    ([0.0, 301.0], [0.0, 300.0], 1 / 300),
    ([np.nan, 1.0], [np.nan, 1.0], 0.0),
    ([np.nan, 1.0], [1.0, 1.0], np.inf),
    ([1.0, 1.0], [np.nan, 1.0], np.inf),
    ([np.inf, 1.0], [np.inf, 1.0], 0.0),
    ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
    ([np.inf, 1.0], [2.0, 1.0], np.inf),
    ([], [], 0.0),
  ],
)
def test_floats(found, wanted, apart):
  assert largest_difference(np.array(found, np.float32), np.array(wanted, np.float32)) == pytest.approx(apart)


def test_whole_numbers_shapes_and_dtypes():
  assert largest_difference(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.25
  assert largest_difference(np.zeros([2], np.float32), np.zeros([3], np.float32)) == np.inf
  assert largest_difference(np.zeros([2], np.float32), np.zeros([2], np.float64)) == np.inf
