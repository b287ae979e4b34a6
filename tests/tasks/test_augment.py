"""Augmentation is a pure function of an image and its draws, and does to the image what it says."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks import made_up
from trainer.errors import ConfigError
from trainer.tasks import augment

EVERYTHING = {'shift_pixels': 2.0, 'rotate_degrees': 20.0, 'zoom': 0.3, 'flip_horizontal': True, 'crop_area': 0.2}


def fields(**changes):
  return SimpleNamespace(**{**{name: field.default for name, field in augment.FIELDS.items()}, **changes})


def photos(count=3, height=7, width=9, channels=2, seed=0):
  return np.random.default_rng(seed).random((count, height, width, channels), np.float32)


def apply(images, draws, black=0.0, **changes):
  return augment.images(fields(**changes), tf.constant(images), tf.constant(draws, tf.float32), black).numpy()


@pytest.mark.parametrize(
  ('changes', 'count'),
  [
    ({}, 0),
    ({'shift_pixels': 1.0}, 2),
    ({'rotate_degrees': 5.0}, 1),
    ({'flip_horizontal': True}, 1),
    ({'crop_area': 0.1}, 4),
    (EVERYTHING, 9),
  ],
)
def test_draws_are_counted(changes, count):
  assert augment.draws(fields(**changes)) == count


@pytest.mark.parametrize('changes', [EVERYTHING, *[{name: value} for name, value in EVERYTHING.items()]])
def test_a_row_of_halves_changes_nothing(changes):
  draws = np.full((3, augment.draws(fields(**changes))), 0.5)
  np.testing.assert_allclose(apply(photos(), draws, **changes), photos(), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 0.99), min_size=9, max_size=9), st.integers(0, 2))
def test_an_image_depends_on_its_own_row_alone(row, place):
  draws = np.random.default_rng(1).random((3, 9))
  draws[place] = row
  together = apply(photos(), draws, **EVERYTHING)
  alone = apply(photos()[place : place + 1], draws[place : place + 1], **EVERYTHING)
  np.testing.assert_array_equal(together[place], alone[0])
  np.testing.assert_array_equal(apply(photos(), draws, **EVERYTHING), together)


def test_flip_mirrors_left_and_right():
  flipped = apply(photos(2), [[0.2], [0.8]], flip_horizontal=True)
  np.testing.assert_allclose(flipped[0], photos(2)[0], atol=1e-5)
  np.testing.assert_allclose(flipped[1], photos(2)[1, :, ::-1], atol=1e-5)


def test_flip_mirrors_top_and_bottom():
  flipped = apply(photos(2), [[0.2, 0.8], [0.8, 0.8]], flip_horizontal=True, flip_vertical=True)
  np.testing.assert_allclose(flipped[0], photos(2)[0, ::-1], atol=1e-5)
  np.testing.assert_allclose(flipped[1], photos(2)[1, ::-1, ::-1], atol=1e-5)


def test_a_shift_alone_is_by_whole_pixels_and_fills_with_black():
  # Draws of 1 and 0 are the largest shifts: two columns to the right, two rows up.
  moved = apply(photos(1), [[1.0, 0.0]], black=0.25, shift_pixels=2.7)
  expected = np.full_like(photos(1), 0.25)
  expected[:, :-2, 2:] = photos(1)[:, 2:, :-2]
  np.testing.assert_allclose(moved, expected, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_shift_alone_blurs_nothing(x, y):
  moved = apply(photos(1), [[x, y]], shift_pixels=1.5)
  for value in moved.ravel():
    assert np.min(np.abs(np.append(photos(1).ravel(), 0.0) - value)) < 1e-4


@pytest.mark.parametrize('black', [0.0, 0.25, np.array([0.1, -0.3], np.float32)], ids=['none', 'one', 'channels'])
@pytest.mark.parametrize(
  'changes',
  [
    {'shift_pixels': 3.4},
    {'shift_pixels': 20.0},
    {'flip_horizontal': True},
    {'flip_vertical': True},
    {'shift_pixels': 2.0, 'flip_horizontal': True, 'flip_vertical': True},
  ],
  ids=lambda changes: '-'.join(changes),
)
def test_rows_and_columns_are_what_a_resampling_gives_to_the_last_bit(changes, black):
  images = photos(200)
  outside = black if 'shift_pixels' in changes else 0.0  # nothing comes in by a flip
  draws = np.random.default_rng(2).random((200, augment.draws(fields(**changes))), np.float32)
  moves = augment.transforms(fields(**changes), images.shape[1:3], tf.constant(draws))
  resampled = tf.raw_ops.ImageProjectiveTransformV3(
    images=images - outside,
    transforms=tf.pad(moves, [[0, 0], [0, 2]]),
    output_shape=images.shape[1:3],
    fill_value=0.0,
    interpolation='BILINEAR',
    fill_mode='CONSTANT',
  )
  np.testing.assert_array_equal(apply(images, draws, black, **changes), resampled + outside)


def test_a_shift_that_comes_with_a_turn_is_by_parts_of_a_pixel():
  moved = apply(photos(1), [[0.75, 0.5, 0.5]], shift_pixels=1.0, rotate_degrees=1e-4)
  expected = (photos(1)[:, :, 1:] + photos(1)[:, :, :-1]) / 2
  np.testing.assert_allclose(moved[:, :, 1:], expected, atol=1e-3)


def test_a_quarter_turn():
  square = photos(1, 6, 6)
  clockwise, back = apply(square, [[1.0]], rotate_degrees=90.0), apply(square, [[0.0]], rotate_degrees=90.0)
  np.testing.assert_allclose(clockwise[0], np.rot90(square[0], -1), atol=1e-4)
  np.testing.assert_allclose(back[0], np.rot90(square[0]), atol=1e-4)


def test_zoom_grows_and_shrinks_about_the_centre():
  ramp = np.arange(9, dtype=np.float32)[None, None, :, None] * np.ones((1, 9, 1, 1), np.float32)
  grown, shrunk = apply(ramp, [[1.0]], zoom=0.5), apply(ramp, [[0.0]], zoom=0.5)
  np.testing.assert_allclose(grown[0, 4, :, 0], 4 + (np.arange(9) - 4) / 1.5, atol=1e-4)
  np.testing.assert_allclose(shrunk[0, 4, 2:7, 0], 4 + (np.arange(2, 7) - 4) * 1.5, atol=1e-4)
  assert shrunk[0, 4, 0, 0] == 0.0


def test_a_crop_fills_the_image():
  ramp = np.arange(8, dtype=np.float32)[None, None, :, None] * np.ones((1, 8, 1, 1), np.float32)
  # Just before a half is the smallest area: half of each side, here from the left edge, and from the right.
  left, right = apply(np.repeat(ramp, 2, 0), [[0.4999999, 0.5, x, 0.5] for x in (0.0, 1.0)], crop_area=0.25)
  np.testing.assert_allclose(left[3, :, 0], np.maximum((np.arange(8) + 0.5) / 2 - 0.5, 0), atol=0.26)
  np.testing.assert_allclose(left[3, 1:, 0], (np.arange(1, 8) + 0.5) / 2 - 0.5, atol=1e-4)
  np.testing.assert_allclose(right[3, :-1, 0], 4 + (np.arange(7) + 0.5) / 2 - 0.5, atol=1e-4)
  mirrored = apply(ramp, [[0.9, 0.4999999, 0.5, 0.0, 0.5]], flip_horizontal=True, crop_area=0.25)
  np.testing.assert_allclose(mirrored[0], left[:, ::-1], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 0.999), min_size=4, max_size=4))
def test_a_crop_lies_inside_and_has_its_share(row):
  left, top, wide, high = (float(v[0]) for v in augment._crop(0.08, *(tf.constant([u], tf.float32) for u in row)))
  assert left >= 0 and top >= 0 and left + wide <= 1.0001 and top + high <= 1.0001
  assert wide * high <= 1.0001 and wide * high >= 0.079
  assert 0.74 < wide / high < 1.34


def test_the_same_in_a_pipeline():
  draws = np.random.default_rng(1).random((3, 9)).astype(np.float32)
  task = made_up.task('classification', made_up.images(shape=(7, 9, 3)), **EVERYTHING)
  assert task.draws == 9
  images = photos(channels=3)
  batch = {'inputs': images, 'targets': np.arange(3), 'index': np.arange(3)}
  dataset = tf.data.Dataset.from_tensors((batch, draws)).map(task.augment)
  after = next(iter(dataset))
  assert dataset.element_spec['inputs'].shape == (3, 7, 9, 3)
  np.testing.assert_allclose(after['inputs'], apply(images, draws, **EVERYTHING), atol=1e-6)
  np.testing.assert_array_equal(after['index'], np.arange(3))


def test_what_moves_in_is_what_a_raw_zero_becomes():
  train = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
  rows = {'image': train, 'label': np.zeros(20, np.int64)}
  features = made_up.images(shape=(4, 4, 3))
  task = made_up.task('classification', features, rows, normalize='standardize', shift_pixels=4.0)
  batch = {'inputs': tf.random.normal([1, 4, 4, 3]), 'targets': tf.zeros([1])}
  gone = task.augment(batch, tf.constant([[1.0, 1.0]]))['inputs']
  zero = task.example({'image': tf.zeros([4, 4, 3], tf.uint8), 'label': 0})['inputs']
  np.testing.assert_allclose(gone[0], zero, atol=1e-5)


def test_vectors_are_not_augmented():
  features = made_up.F.FeaturesDict(
    {'x': made_up.F.Tensor(shape=(3,), dtype=np.float32), 'y': made_up.F.ClassLabel(num_classes=2)}
  )
  with pytest.raises(ConfigError, match='not an image'):
    made_up.task('classification', features, zoom=0.1)
  task = made_up.task('classification', features)
  assert task.draws == 0
  assert task.augment({'inputs': 1}, tf.zeros([1, 0])) == {'inputs': 1}


@settings(deadline=None, max_examples=100)
@given(
  st.tuples(st.integers(1, 900), st.integers(1, 900)),
  st.tuples(st.integers(1, 300), st.integers(1, 300)),
  st.lists(st.floats(0, 0.999), min_size=4, max_size=4),
  st.floats(0.01, 1.0),
)
def test_a_window_lies_in_the_original(size, into, draws, least):
  draws = [0.5, 0.5, *draws]
  found = augment.window(fields(crop_area=least, shift_pixels=1.0), tf.constant(size), into, tf.constant(draws))
  top, left, height, width = found.numpy().tolist()
  assert top >= 0 and left >= 0 and height >= 1 and width >= 1
  assert top + height <= size[0] and left + width <= size[1]
  shape = (height / width) / (into[0] / into[1])
  if min(height, width) > 20 and height < size[0] and width < size[1]:
    assert 0.7 < shape < 1.43
    assert height * width > 0.9 * least * size[0] * size[1]


def test_windows_are_those_of_the_images_that_are_there_already():
  """Of an image that has the size which the crop will fill, `window` is what `images` takes, but for the rounding."""
  draws = np.random.default_rng(0).random((50, 4)).astype(np.float32)
  changes = {'crop_area': 0.2}
  size = (300, 200)
  moves = augment.transforms(fields(**changes), size, tf.constant(draws)).numpy()
  for row, (wide, _, move_x, _, high, move_y) in zip(draws, moves, strict=True):
    found = augment.window(fields(**changes), tf.constant(size), size, tf.constant(row)).numpy()
    expected = [move_y + 0.5 - high / 2, move_x + 0.5 - wide / 2, high * size[0], wide * size[1]]
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_without_the_crop_the_rest_takes_the_same_draws():
  rest = augment.uncropped(fields(**EVERYTHING))
  draws = np.random.default_rng(0).random((3, 9)).astype(np.float32)
  assert augment.draws(rest) == 5
  uncropped = {**EVERYTHING, 'crop_area': 0.0}
  found = augment.images(rest, tf.constant(photos()), tf.constant(draws[:, :5]))
  np.testing.assert_array_equal(found, apply(photos(), draws[:, :5], **uncropped))
