"""RandAugment: each operation does what it says, and an image depends on its own draws alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from trainer import tasks
from trainer.tasks import randaugment

NAMES = list(randaugment.OPERATIONS)


def fields(layers=2, magnitude=9.0):
  return SimpleNamespace(randaugment_layers=layers, randaugment_magnitude=magnitude)


def photos(count=3, height=8, width=10, channels=3):
  return np.random.default_rng(0).integers(0, 256, (count, height, width, channels)).astype(np.float32)


def apply(name, image, level=0.5):
  return randaugment.OPERATIONS[name](tf.constant(image), tf.constant(level)).numpy()


def test_there_are_fourteen_with_the_identity_in_the_middle():
  assert len(NAMES) == 14
  assert NAMES[int(0.5 * 14)] == 'identity'
  assert randaugment.draws(fields(0)) == 0
  assert randaugment.draws(fields(3)) == 6


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', NAMES)
def test_every_operation_keeps_shape_and_range_and_grows_with_the_level(name, channels):
  image = photos(1, channels=channels)[0]
  for level in (-1.0, -0.4, 0.0, 0.4, 1.0):
    after = apply(name, image, level)
    assert after.shape == image.shape
    assert after.min() >= -0.01 and after.max() <= 255.01
  if name not in ('auto_contrast', 'equalize'):
    np.testing.assert_allclose(apply(name, image, 0.0), image, atol=1e-3)
  if name not in ('identity', 'auto_contrast', 'equalize') and (name, channels) != ('color', 1):
    assert np.abs(apply(name, image, 1.0) - image).max() > 1


def test_colours():
  image = photos(1)[0]
  np.testing.assert_allclose(apply('brightness', image, -1.0), 0.1 * image, rtol=1e-4)
  grey = image @ np.float32([0.2989, 0.587, 0.114])
  np.testing.assert_allclose(apply('color', image, -1.0), 0.1 * image + 0.9 * grey[..., None], atol=0.05)
  np.testing.assert_allclose(apply('contrast', image, -1.0), 0.1 * image + 0.9 * grey.mean(), atol=0.05)
  np.testing.assert_array_equal(apply('posterize', image, 0.5), image // 4 * 4)
  np.testing.assert_array_equal(apply('solarize', image, -0.5), np.where(image < 128, image, 255 - image))
  narrow = 50 + image / 5
  stretched = apply('auto_contrast', narrow)
  np.testing.assert_allclose(stretched.min(axis=(0, 1)), 0, atol=1e-3)
  np.testing.assert_allclose(stretched.max(axis=(0, 1)), 255, atol=1e-3)
  np.testing.assert_array_equal(apply('auto_contrast', np.full_like(image, 7)), np.full_like(image, 7))


def test_equalize_flattens_the_histogram():
  ramp = np.floor(np.linspace(100, 120, 64 * 64)).reshape(64, 64, 1).astype(np.float32)
  after = apply('equalize', ramp)
  values, counts = np.unique(after, return_counts=True)
  assert values.min() == 0 and values.max() == 255 and len(values) == 21
  assert np.all(np.diff(after[:, 0, 0]) >= 0)
  np.testing.assert_allclose(np.diff(values)[:-1], 255 / 20, atol=1.5)
  assert counts.min() >= 1
  np.testing.assert_array_equal(apply('equalize', np.full((4, 4, 1), 9.0, np.float32)), np.full((4, 4, 1), 9.0))


def test_sharpness_leaves_the_border_and_smooths_below_zero():
  image = photos(1)[0]
  blurred = apply('sharpness', image, -1.0)
  np.testing.assert_array_equal(blurred[0], image[0])
  assert blurred[1:-1, 1:-1].std() < image[1:-1, 1:-1].std() < apply('sharpness', image, 1.0)[1:-1, 1:-1].std()


def test_moves_fill_with_grey():
  image = photos(1, width=20)[0]
  moved = apply('translate_x', image, 1.0)
  np.testing.assert_allclose(moved[:, :11], image[:, 9:], atol=1e-2)
  np.testing.assert_allclose(moved[:, 11:], 128, atol=1e-2)
  np.testing.assert_allclose(apply('translate_y', apply('translate_y', image, 0.5), -0.5)[2:-2], image[2:-2], atol=1e-2)
  square = photos(1, 9, 9)[0]
  np.testing.assert_allclose(apply('rotate', square, 0.7)[4, 4], square[4, 4], atol=1e-2)
  np.testing.assert_allclose(apply('shear_x', square, 0.7)[4], square[4], atol=1e-2)


def test_an_image_depends_on_its_own_row_alone():
  draws = np.random.default_rng(3).random((3, 4)).astype(np.float32)
  draws[1] = 0.5
  run = tf.function(lambda images, numbers: randaugment.images(fields(), images, numbers), autograph=False)
  together = run(photos(), draws).numpy()
  np.testing.assert_array_equal(together[1], photos()[1])
  for i in range(3):
    alone = randaugment.images(fields(), tf.constant(photos()[i : i + 1]), tf.constant(draws[i : i + 1]))
    np.testing.assert_allclose(alone[0], together[i], atol=1e-3)


@pytest.mark.parametrize(
  'normalize', [{}, {'normalize': 'given', 'mean': (100.0, 120.0, 90.0), 'deviation': (50.0, 60.0, 70.0)}]
)
def test_a_task_sees_white_as_255_however_it_normalizes(normalize):
  task = made_up.task('classification', made_up.images(shape=(8, 10, 3)), randaugment_layers=1, **normalize)
  raw = photos(1)
  example = task.example({'image': raw[0].astype(np.uint8), 'label': 1})
  draws = np.float32([[(NAMES.index('posterize') + 0.5) / 14, 0.9]])
  after = task.augment({'inputs': example['inputs'][None], 'targets': tf.constant([1])}, tf.constant(draws))
  expected = task.example({'image': (raw[0] // 16 * 16).astype(np.uint8), 'label': 1})
  np.testing.assert_allclose(after['inputs'][0], expected['inputs'], atol=1e-4)


def test_rules():
  declared = tasks.fields('classification')
  assert 'from 0 to 10' in declared['randaugment_magnitude'].rule(11.0)
