"""The detector: where its outputs are, what heads share, and that its residual network is that of the zoo."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity
from trainer.errors import ConfigError
from trainer.models import detector

CLASSES = 3
UNITS = CLASSES + detector.BOX_UNITS


def build(image=(64, 96, 3), units=UNITS, **changes):
  small = {'depth': 18, 'width': 8, 'pyramid': 16, 'head_convs': 2}
  return parity.build('detector', image, units, **{**small, **changes})


@pytest.mark.parametrize(('levels', 'places'), [((3, 5), 96 + 24 + 6), ((3, 7), 96 + 24 + 6 + 2 + 1), ((5, 5), 6)])
def test_places_are_those_of_all_levels(levels, places):
  model = build(levels=levels)
  assert model.output_shape == (None, places, UNITS) and model.outputs[0].dtype == 'float32'
  assert sum(rows * columns for _, rows, columns in detector.grids(levels, (64, 96))) == places
  assert detector.grids(levels, (64, 96))[-1][0] == 2 ** levels[1]


def test_outputs_stand_in_the_order_of_the_places():
  """What changes in a corner of the image changes most at the places there, level by level."""
  model = build(norm='layer', levels=(3, 5))
  parity.fill(model)
  images = np.tile(parity.images((64, 96, 3))[:1], [2, 1, 1, 1])
  images[1, 48:, 80:] += 3.0
  first, second = model(images).numpy()
  change, begin = np.abs(first - second).mean(axis=-1), 0
  for _, rows, columns in detector.grids((3, 5), (64, 96))[:2]:
    level = change[begin : begin + rows * columns].reshape(rows, columns)
    assert level[rows // 2 :, columns // 2 :].mean() > 1.5 * level[: rows // 2, : columns // 2].mean()
    begin += rows * columns


def test_heads_are_shared_and_classes_are_rare_at_first():
  names = [v.path for v in build(levels=(3, 7)).weights]
  assert sum(name.startswith(('class', 'box', 'centre')) for name in names) == 2 * 2 * 3 + 3 * 2
  assert sum(name.endswith('size/shift') for name in names) == 5
  outputs = build()(np.zeros([1, 64, 96, 3], np.float32)).numpy()
  assert 1 / (1 + np.exp(-outputs[..., :CLASSES])) == pytest.approx(0.01, rel=0.2)
  assert np.abs(outputs[..., CLASSES:]).max() < 0.5


def test_the_residual_network_is_that_of_the_zoo():
  whole = parity.build('resnet', (64, 96, 3), depth=18, width=8, stem='image', norm='group')
  ours = {v.path: v.shape for v in build().weights}
  theirs = {v.path: v.shape for v in whole.weights if not v.path.startswith('head')}
  assert theirs.items() <= ours.items()


@pytest.mark.parametrize('compiled', [False, True])
def test_the_gradient_reaches_each_weight(compiled):
  model = build(levels=(3, 6))
  images = parity.images((64, 96, 3))

  @tf.function(jit_compile=compiled, autograph=False)
  def gradients():
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(model(images, training=True) ** 2)
    return tape.gradient(loss, [v.value for v in model.trainable_variables])

  for variable, gradient in zip(model.trainable_variables, gradients(), strict=True):
    assert gradient is not None and np.all(np.isfinite(gradient)), variable.path
    assert float(tf.norm(gradient)) > 0, variable.path


def test_a_saved_model_is_the_same_model(tmp_path):
  model = build()
  parity.fill(model)
  model.save(tmp_path / 'model.keras')
  images = parity.images((64, 96, 3))
  np.testing.assert_array_equal(keras.saving.load_model(tmp_path / 'model.keras')(images), model(images))


@pytest.mark.parametrize(
  ('image', 'units', 'words'),
  [
    ((64, 90, 3), UNITS, 'multiples of 32, not 64 x 90 pixels: set task.image_size'),
    ((64, 96, 3), 5, "gives classes and boxes, not 5 outputs: take task.name='detection'"),
    ((8,), UNITS, 'takes inputs with 3 dimensions'),
  ],
)
def test_what_does_not_fit_is_named(image, units, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(image, units)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('levels', [(), (3,), (2, 5), (6, 7), (3, 4)])
def test_levels_are_first_and_last(levels):
  assert 'must be (first, last)' in detector.FIELDS['levels'].rule(levels)
