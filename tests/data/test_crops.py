"""Random parts of streamed images come out of the originals, as their numbers say, wherever a batch is made."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.data import small
from tests.tasks import made_up
from trainer import tasks
from trainer.data import draws
from trainer.data.source import open_dataset
from trainer.tasks import augment

COUNT, SIZE, SEED = 24, (8, 6), 3
FIELDS = {'image_size': SIZE, 'crop_area': 0.2, 'flip_horizontal': True, 'keep_aspect': True}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """A TFDS directory with a set of smooth pictures of many sizes, one half JPEG, one half PNG."""
  directory = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)

  def rows():
    for number in range(COUNT):
      height, width = rng.integers(20, 90, 2)
      coarse = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
      smooth = tf.cast(tf.clip_by_value(tf.image.resize(coarse, (height, width)), 0, 255), tf.uint8)
      encoded = tf.io.encode_jpeg(smooth, quality=98) if number % 2 else tf.io.encode_png(smooth)
      # Records lie in an order of their own; the label says which are JPEG.
      yield number, {'image': io.BytesIO(encoded.numpy()), 'label': number % 4}

  tfds.disable_progress_bar()
  features = tfds.features.FeaturesDict(
    {'image': tfds.features.Image(shape=(None, None, 3)), 'label': tfds.features.ClassLabel(num_classes=4)}
  )
  tfds.dataset_builders.store_as_tfds_dataset(
    'pictures', '1.0.0', features, {'train': rows(), 'test': rows()}, data_dir=str(directory),
    file_format=tfds.core.FileFormat.TFRECORD,
  )  # fmt: skip
  return directory


def settings(directory, source='lanes'):
  return small.config(directory, dataset='pictures', source=source, seed=SEED, chunk_records=2, window_records=8)


def task(config, **changes):
  made = made_up.config('classification', **{**FIELDS, **changes})
  return tasks.create(made, open_dataset(config).features, None)


def test_the_same_on_every_topology_and_from_any_step(pictures):
  config = settings(pictures)
  expected = small.train_batches(config, 0, 6, task=task(config))
  for start, topology in ((0, {'replicas': 4}), (3, {'replicas': 2, 'hosts': 2}), (5, {})):
    found = small.train_batches(config, start, 6 - start, task=task(config), **topology)
    for one, other in zip(expected[start:], found, strict=True):
      for name in ('index', 'targets', 'inputs'):
        np.testing.assert_array_equal(one[name], other[name])
  # Another epoch has other parts of the same pictures.
  rows = {}
  for step, batch in enumerate(expected):
    keys = [(step // 3, index) for index in batch['index'].tolist()]
    rows.update(zip(keys, batch['inputs'], strict=True))
  assert len(rows) == 2 * COUNT and not any(np.array_equal(rows[0, i], rows[1, i]) for i in range(COUNT))


def test_a_part_is_cut_out_of_the_original(pictures):
  config = settings(pictures)
  made, dataset = task(config), open_dataset(config)
  originals = [(row['image'].numpy(), int(row['label'])) for row in dataset.examples(dataset.train)]
  for batch in small.train_batches(config, 0, 3, task=made):
    numbers = draws.uniform(SEED, tf.zeros(len(batch['index']), tf.int64), batch['index'], made.draws)
    for index, inputs, label, own in zip(batch['index'], batch['inputs'], batch['targets'], numbers, strict=True):
      image, right = originals[index]
      fields = made_up.config('classification', **FIELDS).task
      top, left, height, width = augment.window(fields, tf.constant(image.shape[:2]), SIZE, own).numpy()
      part = tf.image.resize(image[top : top + height, left : left + width], SIZE).numpy() / 255
      part = part[:, ::-1] if own[0] > 0.5 else part
      # Of the JPEGs, tiny as they are, some are decoded at a half or a quarter, where a part begins at another pixel.
      difference = np.abs(inputs - part)
      assert label == right and (difference.mean() < 0.1 if right % 2 else difference.max() < 1e-6)


def test_what_is_kept_in_memory_is_cropped_as_it_is_kept(pictures):
  streamed, kept = settings(pictures), settings(pictures, 'memory')
  lines = [small.pipeline(config, task=task(config)).describe() for config in (streamed, kept)]
  assert [any('cut out of the images at their own size' in line for line in each) for each in lines] == [True, False]
  made, dataset = task(kept), open_dataset(kept)
  (batch,) = small.train_batches(kept, 0, 1, task=made)
  rows = list(dataset.examples(dataset.train))
  prepared = [made.example(rows[index]) for index in batch['index']]
  inputs = tf.stack([each['inputs'] for each in prepared])
  numbers = draws.uniform(SEED, tf.zeros(len(inputs), tf.int64), batch['index'], made.draws)
  expected = made.augment({'inputs': inputs}, numbers)['inputs']
  np.testing.assert_allclose(batch['inputs'], expected, atol=1e-6)


def test_nothing_is_cut_out_where_nothing_is_asked_for(pictures):
  assert task(settings(pictures)).crops == 'image'
  assert task(settings(pictures), crop_area=0.0).crops == ''
  assert made_up.task('classification', crop_area=0.2).crops == ''  # images that stay as large as they are
  four = made_up.images(shape=(None, None, 4))
  assert made_up.task('classification', four, image_size=SIZE, crop_area=0.2).crops == ''


def test_evaluation_sees_the_middle(pictures):
  config = settings(pictures)
  config.data.memory_budget_bytes = 0
  made, dataset = task(config), open_dataset(config)
  shares, _ = small.pipeline(config, task=made).evaluate(small.Hosts(1, 1))
  (first, *_) = small.global_batches(shares, 1)
  rows = list(dataset.examples(dataset.evaluation))
  for index, inputs in zip(first['index'], first['inputs'], strict=True):
    np.testing.assert_allclose(inputs, made.example(rows[index])['inputs'], atol=1e-6)
