"""U-Net: which sizes fit, what a pixel sees, and that each level gets what its neighbour on the way down had."""

import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity
from trainer.errors import ConfigError


def build(image=(16, 24, 3), **changes):
  return parity.build('unet', image, **{'channels': (4, 8, 16), **changes})


def test_the_network_of_the_paper_has_its_size():
  """Figure 1: 31.0 million weights; with the norms' scales and shifts in place of the convolutions' biases."""
  model = parity.build('unet', (64, 64, 1), units=2)
  widths = [1, 64, 128, 256, 512, 1024]
  down = [9 * a * b + 2 * b + 9 * b * b + 2 * b for a, b in itertools.pairwise(widths)]
  up = [4 * 2 * c * c + c + 9 * 2 * c * c + 2 * c + 9 * c * c + 2 * c for c in (64, 128, 256, 512)]
  assert model.count_params() == sum(down) + sum(up) + 64 * 2 + 2
  assert model.output_shape == (None, 64, 64, 2)


@pytest.mark.parametrize('up', ['transposed', 'repeated'])
@pytest.mark.parametrize('norm', ['none', 'batch', 'group', 'layer'])
def test_outputs_are_one_per_pixel_and_names_are_fixed(up, norm):
  model = build(up=up, norm=norm, dropout=0.1)
  assert model.output_shape == (None, 16, 24, parity.UNITS) and model.outputs[0].dtype == 'float32'
  assert [v.path for v in model.weights] == [v.path for v in build(up=up, norm=norm, dropout=0.1).weights]
  assert model(parity.images((16, 24, 3))).dtype == tf.float32


def test_details_pass_beside_and_the_surroundings_from_below():
  """A pixel reaches as far as the convolutions beside it and of the level below, and no farther."""
  model = build(norm='none', activation='linear', channels=(4, 8), convs=1)
  parity.fill(model)
  images = np.tile(parity.images((16, 24, 3))[:1], [2, 1, 1, 1])
  images[1, 8, 12] += 10.0
  first, second = model(images).numpy()
  rows, columns = np.nonzero(np.abs(first - second).max(axis=-1) > 1e-4)
  # Two convolutions of 3x3 pixels beside; below, one more, of pixels twice as wide.
  for places, middle in ((rows, 8), (columns, 12)):
    assert middle - 5 <= places.min() < middle - 2 and middle + 2 < places.max() <= middle + 5


@pytest.mark.parametrize('compiled', [False, True])
def test_it_learns(compiled):
  keras.utils.set_random_seed(0)  # how fast it learns depends on the first weights
  model = build(channels=(8, 16))
  images = parity.images((16, 24, 3), 4)
  labels = (images[..., 0] > 0).astype(np.int32)
  step = learning.descent(model, images, labels, 0.1, compiled=compiled)
  losses = [float(step()[0]) for _ in range(20)]
  assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
  ('image', 'changes', 'words'),
  [
    ((16, 22, 3), {}, 'halves images 2 times, but 16 x 22 pixels are no multiples of 4: set task.image_size'),
    ((8,), {}, 'takes inputs with 3 dimensions'),
  ],
)
def test_what_does_not_fit_is_named(image, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(image, **changes)
  assert '\n' not in str(caught.value)
