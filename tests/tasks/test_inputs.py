"""Which feature is the input, and how it is normalised."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import inputs as inputs_lib

LABEL = {'label': F.ClassLabel(num_classes=3)}


def prepared(features, row, **changes):
  """The inputs of one example, by a task without statistics."""
  task = made_up.task('classification', F.FeaturesDict({**features, **LABEL}), **changes)
  example = task.example({**row, 'label': tf.constant(1, tf.int64)})
  assert example['inputs'].shape == task.input_spec.shape
  assert example['inputs'].dtype == task.input_spec.dtype == tf.float32
  return example['inputs'].numpy()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.0, 1e4, -1e7]), st.integers(0, 2))
def test_moments_are_those_of_the_whole_split(count, size, offset, keep):
  values = np.random.default_rng(count).normal(offset, 3.0, (count, 4, 2)).astype(np.float32)
  original, inputs_lib.STATISTICS_BATCH = inputs_lib.STATISTICS_BATCH, size
  try:
    mean, deviation = inputs_lib.moments(tf.data.Dataset.from_tensor_slices(values), keep=keep)
  finally:
    inputs_lib.STATISTICS_BATCH = original
  axes = tuple(range(3 - keep))
  exact = values.astype(np.float64)
  assert mean.dtype == deviation.dtype == np.float64
  np.testing.assert_allclose(mean, exact.mean(axis=axes), rtol=1e-12, atol=1e-9)
  expected = exact.std(axis=axes)
  np.testing.assert_allclose(deviation, np.where(expected > 0, expected, 1.0), rtol=1e-6)


def test_moments_of_a_constant_and_of_nothing():
  mean, deviation = inputs_lib.moments(tf.data.Dataset.from_tensor_slices(np.full((5, 2), 7.0)), keep=1)
  np.testing.assert_array_equal(mean, [7.0, 7.0])
  np.testing.assert_array_equal(deviation, [1.0, 1.0])
  with pytest.raises(ConfigError, match='no examples'):
    inputs_lib.moments(tf.data.Dataset.from_tensor_slices(np.zeros((0, 2))), keep=1)


def test_images_are_scaled_by_default():
  image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
  features = {'image': F.Image(shape=(8, 8, 1))}
  np.testing.assert_allclose(prepared(features, {'image': image}), image / 255.0, rtol=1e-6)
  np.testing.assert_allclose(prepared(features, {'image': image}, max_value=16.0), image / 16.0, rtol=1e-6)
  np.testing.assert_allclose(prepared(features, {'image': image}, normalize='none'), image, rtol=1e-6)
  real = {'image': F.Image(shape=(8, 8, 1), dtype=np.float32)}
  np.testing.assert_allclose(prepared(real, {'image': image / 64.0}), image / 64.0, rtol=1e-6)


def test_images_are_standardized_per_channel():
  train = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
  rows = {'image': train, 'label': np.zeros(10, np.int64)}
  task = made_up.task('classification', made_up.images(3, (8, 8, 3)), rows, normalize='standardize')
  inputs = np.stack([task.example({'image': image, 'label': 0})['inputs'] for image in train])
  np.testing.assert_allclose(inputs.mean(axis=(0, 1, 2)), np.zeros(3), atol=1e-5)
  np.testing.assert_allclose(inputs.std(axis=(0, 1, 2)), np.ones(3), rtol=1e-5)


def test_vectors_are_standardized_by_default_with_the_training_split():
  train = np.random.default_rng(0).normal([5.0, -200.0, 0.0], [0.1, 30.0, 1.0], (50, 3)).astype(np.float32)
  train[:, 2] = 4.0  # a constant
  rows = {'features': train, 'target': np.zeros(50, np.float32)}
  task = made_up.task('regression', made_up.vectors(3), rows)
  inputs = np.stack([task.example({'features': x, 'target': 0.0})['inputs'] for x in train])
  np.testing.assert_allclose(inputs.mean(axis=0), np.zeros(3), atol=1e-4)
  np.testing.assert_allclose(inputs.std(axis=0), [1.0, 1.0, 0.0], atol=1e-4)


def test_the_saved_state_replaces_the_split():
  train = np.random.default_rng(0).normal(3.0, 2.0, (50, 3)).astype(np.float32)
  rows = {'features': train, 'target': train[:, 0] * 10}
  first = made_up.task('regression', made_up.vectors(3), rows)
  state = json.loads(json.dumps(first.state()))
  again = made_up.task('regression', made_up.vectors(3), saved=state)
  row = {'features': train[0], 'target': train[0, 0] * 10}
  np.testing.assert_array_equal(first.example(row)['inputs'], again.example(row)['inputs'])
  assert again.state() == state
  outputs, batch = made_up.batch(first, 'regression')
  np.testing.assert_array_equal(first.losses(outputs, batch), again.losses(outputs, batch))


def test_images_are_resized():
  image = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
  features = {'image': F.Image(shape=(None, None, 3))}
  small = prepared(features, {'image': image}, image_size=(6, 10))
  np.testing.assert_allclose(small.mean(), image.mean() / 255, rtol=0.03)
  with pytest.raises(ConfigError, match=r'set task.image_size=\(height, width\)'):
    prepared(features, {'image': image})


@pytest.mark.parametrize(('sides', 'ratio'), [((31, 40), 1), ((64, 80), 2), ((150, 160), 4), ((400, 410), 8)])
@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_a_part_of_an_image_is_decoded_alone(sides, ratio, kind):
  into, corner = (16, 20), (ratio * 8, ratio * 16)
  coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.float32)
  large = tf.cast(tf.clip_by_value(tf.image.resize(coarse, (600, 640), 'bicubic'), 0, 255), tf.uint8)
  encoded = tf.io.encode_jpeg(large, quality=99) if kind == 'jpeg' else tf.io.encode_png(large)
  inputs = made_up.task('classification', made_up.images(shape=(None, None, 3)), image_size=into)._inputs

  def window(size):
    np.testing.assert_array_equal(size, large.shape[:2])
    return tf.constant([*corner, *sides])

  found = inputs.part(encoded, window).numpy()
  part = large[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
  expected = tf.image.resize(part, into, antialias=kind == 'jpeg').numpy() / 255
  assert found.shape == (*into, 3) and np.abs(found - expected).max() < (0.06 if kind == 'jpeg' else 1e-6)


def test_a_row_of_a_table_becomes_a_vector_in_the_order_of_names():
  row = F.FeaturesDict(
    {
      'b': F.Scalar(np.int64),
      'a': F.Tensor(shape=(2,), dtype=np.float32),
      'c': F.ClassLabel(num_classes=3),
      'd': F.FeaturesDict({'e': F.Scalar(np.float64)}),
    }
  )
  value = {'b': np.int64(7), 'a': np.float32([1, 2]), 'c': np.int64(1), 'd': {'e': np.float64(0.5)}}
  vector = prepared({'row': row}, {'row': value}, normalize='none')
  np.testing.assert_array_equal(vector, [1, 2, 7, 0, 1, 0, 0.5])


def test_auto_takes_the_only_image_beside_numbers():
  features = {'picture': F.Image(shape=(2, 2, 1)), 'id': F.Scalar(np.int64)}
  row = {'picture': np.full((2, 2, 1), 255, np.uint8), 'id': np.int64(9)}
  np.testing.assert_array_equal(prepared(features, row), np.ones((2, 2, 1)))
  assert prepared(features, row, input='id', normalize='none') == 9.0


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    ({'a': F.Image(shape=(2, 2, 1)), 'b': F.Image(shape=(2, 2, 1))}, {}, 'set it to one of a, b'),
    ({'text': F.Text()}, {}, 'no feature of the dataset is an image or numeric (text)'),
    ({'image': F.Image(shape=(2, 2, 1))}, {'input': 'imag'}, "did you mean 'image'?"),
    ({'image': F.Image(shape=(2, 2, 1)), 'text': F.Text()}, {'input': 'text'}, "task.input='text' is not an image or"),
    ({'x': F.Tensor(shape=(None, 2), dtype=np.float32)}, {}, 'differs between examples'),
    ({'x': F.FeaturesDict({'y': F.Tensor(shape=(None,), dtype=np.float32)})}, {}, 'x/y has the shape (None,)'),
    ({'x': F.Tensor(shape=(2,), dtype=np.float32)}, {'image_size': (2, 2)}, 'is not an image: leave it empty'),
    ({'x': F.FeaturesDict({'y': F.Text()})}, {}, 'no feature of the dataset is an image or numeric (x)'),
  ],
)
def test_features_that_do_not_fit_are_named(features, changes, words):
  with pytest.raises(ConfigError) as caught:
    made_up.task('classification', F.FeaturesDict({**features, **LABEL}), **changes)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


def test_given_mean_and_deviation():
  image = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
  features = {'image': F.Image(shape=(4, 4, 3))}
  mean, deviation = (100.0, 110.0, 120.0), (10.0, 20.0, 30.0)
  found = prepared(features, {'image': image}, normalize='given', mean=mean, deviation=deviation)
  np.testing.assert_allclose(found, (image - np.float32(mean)) / np.float32(deviation), rtol=1e-5)
  found = prepared(features, {'image': image}, normalize='given', mean=(127.5,), deviation=(127.5,))
  np.testing.assert_allclose(found, image / 127.5 - 1, atol=1e-6)
  with pytest.raises(ConfigError, match='has 2 numbers: give one, or one for each of the 3 channels'):
    prepared(features, {'image': image}, normalize='given', mean=(1.0, 2.0))


@pytest.mark.parametrize(
  ('height', 'width', 'size'), [(20, 10, (5, 5)), (10, 21, (5, 5)), (12, 12, (3, 6)), (1, 9, (4, 2))]
)
def test_the_aspect_is_kept_by_cutting_from_the_middle(height, width, size):
  """Rows and columns are marked by their distance from the middle: what is left lies around it."""
  rows, columns = np.abs(np.arange(height) - (height - 1) / 2), np.abs(np.arange(width) - (width - 1) / 2)
  image = np.stack(np.broadcast_arrays(rows[:, None], columns[None]), axis=-1).astype(np.float32)
  cut = inputs_lib.middle(tf.constant(image), size).numpy()
  assert cut.shape[0] == height or cut.shape[1] == width
  assert abs(cut.shape[0] / size[0] - cut.shape[1] / size[1]) <= 1
  assert cut[..., 0].max() <= cut.shape[0] / 2 + 0.5 and cut[..., 1].max() <= cut.shape[1] / 2 + 0.5
  features = {'image': F.Image(shape=(None, None, 3))}
  pixels = np.zeros((height, width, 3), np.uint8)
  assert prepared(features, {'image': pixels}, image_size=size, keep_aspect=True).shape == (*size, 3)


def test_what_is_missing_is_the_mean_of_the_training_split():
  features = F.FeaturesDict(
    {
      'row': F.FeaturesDict({'a': F.Scalar(np.float32), 'b': F.ClassLabel(num_classes=2)}),
      'target': F.Scalar(np.float32),
    }
  )
  rows = {
    'row': {'a': np.float32([1, np.nan, 3, np.nan]), 'b': np.int64([0, 1, -1, 1])},
    'target': np.zeros(4, np.float32),
  }
  task = made_up.task('regression', features, rows)
  state = task.state()['inputs']
  np.testing.assert_allclose(state['mean'], [2.0, 0.25, 0.5])
  np.testing.assert_allclose(state['deviation'], [1.0, np.sqrt(0.1875), 0.5])
  missing = task.example({'row': {'a': np.float32(np.nan), 'b': np.int64(-1)}, 'target': np.float32(0)})
  np.testing.assert_allclose(missing['inputs'], [0.0, -0.25 / np.sqrt(0.1875), -1.0], rtol=1e-5)


def test_moments_leave_out_what_is_missing():
  values = np.random.default_rng(0).normal(3.0, 2.0, (3000, 3))
  values[np.random.default_rng(1).random((3000, 3)) < 0.3] = np.nan
  values[:, 2] = np.nan
  mean, deviation = inputs_lib.moments(tf.data.Dataset.from_tensor_slices(values), keep=1)
  np.testing.assert_allclose(mean, [*np.nanmean(values[:, :2], axis=0), 0.0], rtol=1e-9)
  np.testing.assert_allclose(deviation, [*np.nanstd(values[:, :2], axis=0), 1.0], rtol=1e-9)


@pytest.mark.parametrize('size', [(5, 9, 3), (2, 5, 9, 3), (5, 9, 1)])
def test_channels_along_rows_give_the_same_bits(size):
  images = tf.random.stateless_uniform(size, [1, 2], 0, 255)
  channels = np.array([123.675, 116.28, 103.53], np.float32)[: size[-1]]
  wide = inputs_lib.along_rows(channels, images.shape)
  assert wide.shape == ((9, 3) if size[-1] == 3 else (1,))
  assert np.array_equal(images - channels, images - wide) and np.array_equal(images / channels, images / wide)


def test_bytes_are_resized_as_floats_would_be():
  image = tf.constant(np.random.default_rng(0).integers(0, 256, (40, 61, 3)), tf.uint8)
  changes = {'image_size': (16, 16), 'keep_aspect': True, 'normalize': 'none'}
  found = prepared({'image': F.Image(shape=(40, 61, 3))}, {'image': image}, **changes)
  middle = inputs_lib.middle(tf.cast(image, tf.float32), (16, 16))
  assert np.array_equal(found, tf.image.resize(middle, (16, 16), antialias=True))
