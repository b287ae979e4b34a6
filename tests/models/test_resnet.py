"""Residual networks: stems, sizes of maps, and blocks that start as identities. Parity is in test_parity.py."""

import re

import keras
import numpy as np
import pytest

from tests.models import learning, parity
from trainer import models
from trainer.errors import ConfigError


def build(image=(16, 16, 3), **changes):
  return parity.build('resnet', image, **{'depth': 18, 'width': 4, **changes})


@pytest.mark.parametrize(
  ('image', 'stem', 'sides'),
  [
    ((224, 224, 3), 'auto', [56, 28, 14, 7]),
    ((65, 33, 3), 'image', [17, 9, 5, 3]),
    ((65, 33, 3), 'auto', [65, 33, 17, 9]),
    ((32, 32, 3), 'auto', [32, 16, 8, 4]),
    ((1, 1, 1), 'auto', [1, 1, 1, 1]),
  ],
)
@pytest.mark.parametrize('depth', [18, 50])
def test_maps_are_halved_rounding_up(depth, image, stem, sides):
  model = build(image, depth=depth, stem=stem)
  found = [model.get_layer(f'stage{i}_block1_activation').output.shape[1:] for i in (1, 2, 3, 4)]
  widths = [4 * 2**i * (4 if depth == 50 else 1) for i in range(4)]
  assert [(shape[0], shape[2]) for shape in found] == list(zip(sides, widths, strict=True))


def test_the_stride_of_a_bottleneck_is_in_the_3x3():
  model = build(depth=50)
  strides = [model.get_layer(f'stage2_block1_conv{i}').strides[0] for i in (1, 2, 3)]
  assert strides == [1, 2, 1]


def test_a_block_whose_last_scale_is_zero_is_an_identity():
  model = build(zero_scale=True)
  zeros = [v.path for v in model.trainable_variables if v.path.endswith('gamma') and not np.any(v)]
  assert len(zeros) == 8
  block = {name: model.get_layer(f'stage1_{name}_activation').output for name in ('block1', 'block2')}
  both = type(model)(model.input, list(block.values()))
  before, after = both(parity.images((16, 16, 3)), training=True)
  np.testing.assert_array_equal(before, after)
  assert np.any(before)


@pytest.mark.parametrize('norm', ['batch', 'sync_batch', 'group', 'layer'])
def test_only_batch_norms_look_at_other_examples(norm):
  model = build(norm=norm)
  images = parity.images((16, 16, 3), 4)
  alone, among = model(images[:1], training=True), model(images, training=True)[:1]
  assert np.allclose(alone, among, atol=1e-4) == ('batch' not in norm)


def test_what_does_not_fit_is_named():
  with pytest.raises(ConfigError, match=re.escape('takes inputs with 3 dimensions, not (10,)')):
    build((10,))
  fields = models.fields('resnet')
  assert fields['depth'].rule(51) == 'must be one of 18, 34, 50, 101, 152'
  assert "did you mean 'small'?" in fields['stem'].rule('smal')


def test_it_compiles_and_learns():
  keras.utils.set_random_seed(0)
  model = build(norm='group')
  images, labels = parity.images((16, 16, 3), 8), np.arange(8) % parity.UNITS
  step = learning.descent(model, images, labels, 0.05)
  losses = [float(step()[0]) for _ in range(8)]
  assert losses[-1] < losses[0]
