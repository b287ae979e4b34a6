"""Segmentation: image and mask stay together, pixels without a class count nothing, and overlaps are exact."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import segmentation

NAMES = ['sea', 'land', 'lake']
SIZE = (6, 8)


def features(mask=None, size=SIZE):
  mask = mask or F.LabeledImage(labels=NAMES, shape=(*size, 1))
  return F.FeaturesDict({'image': F.Image(shape=(*size, 3)), 'mask': mask, 'label': F.ClassLabel(num_classes=2)})


def make(made=None, **changes):
  return made_up.task('segmentation', made or features(), **changes)


def rows(count=5, seed=0, size=SIZE):
  """Images whose first channel is 80 times the class."""
  random = np.random.default_rng(seed)
  mask = random.integers(3, size=(count, *size, 1)).astype(np.uint8)
  image = np.concatenate([80 * mask, random.integers(256, size=(count, *size, 2)).astype(np.uint8)], -1)
  return {'image': image, 'mask': mask, 'label': np.zeros(count, np.int64)}


def batch(task, **changes):
  made = tf.data.Dataset.from_tensor_slices(rows(**changes)).map(task.example).batch(99).get_single_element()
  return {**made, 'weight': tf.ones([len(made['targets'])])}


def logits(count=5, seed=1):
  return tf.constant(np.random.default_rng(seed).normal(size=(count, *SIZE, 3)).astype(np.float32))


def test_pixels_without_a_class_are_neither_learnt_nor_counted():
  task = make(first_label=1, ignore_label=2, classes=('one', 'two', 'three'))
  mask = np.zeros([*SIZE, 1], np.uint8)
  mask[0, :5, 0] = [1, 2, 3, 4, 3]
  made = task.example({**{k: tf.constant(v[0]) for k, v in rows().items()}, 'mask': tf.constant(mask)})
  assert made['targets'].numpy()[0, :5].tolist() == [0, -1, 2, -1, 2]
  assert (made['targets'].numpy()[1:] == -1).all()
  made = {**tf.nest.map_structure(lambda part: part[None], made), 'weight': tf.constant([0.5])}
  outputs = logits(1)
  assert float(task.weights(made)[0]) == 1.5
  chances = tf.nn.log_softmax(outputs[0, 0]).numpy()
  expected = -(chances[0, 0] + chances[2, 2] + chances[4, 2]) / 3
  assert float(task.losses(outputs, made)[0]) == pytest.approx(expected, rel=1e-5)
  assert task.metric_values(outputs, made).numpy().sum() == pytest.approx(1.5)
  nothing = {**made, 'targets': tf.fill([1, *SIZE], -1)}
  assert float(task.losses(outputs, nothing)[0]) == 0.0 and float(task.weights(nothing)[0]) == 0.0


def test_classes_weigh_and_dice_is_added():
  made = batch(make())
  outputs = logits()
  plain, weighed = (make(class_weights=w).losses(outputs, made).numpy() for w in ((), (1.0, 0.0, 4.0)))
  each = -np.take_along_axis(tf.nn.log_softmax(outputs).numpy(), made['targets'].numpy()[..., None], -1)[..., 0]
  np.testing.assert_allclose(plain, each.mean(axis=(1, 2)), rtol=1e-5)
  np.testing.assert_allclose(weighed, (each * np.array([1, 0, 4])[made['targets']]).mean(axis=(1, 2)), rtol=1e-5)
  share, true = tf.nn.softmax(outputs).numpy(), np.eye(3)[made['targets']]
  dice = 1 - np.mean(2 * (share * true).sum((1, 2)) / (share + true).sum((1, 2)), axis=-1)
  np.testing.assert_allclose(make(dice=2.0).losses(outputs, made), plain + 2 * dice, rtol=1e-4)
  # A class that an image does not have says nothing of it.
  land = {**made, 'targets': tf.ones_like(made['targets'])}
  sure = 50.0 * tf.one_hot(land['targets'], 3)
  np.testing.assert_allclose(make(dice=1.0).losses(sure, land), 0.0, atol=1e-5)


def reference(true, taken):
  known = true >= 0
  true, taken = true[known], taken[known]
  ious = [np.mean((true == k)[(true == k) | (taken == k)] & (taken == k)[(true == k) | (taken == k)]) for k in range(3)]
  return {
    'mean_iou': np.mean(ious),
    'pixel_accuracy': np.mean(true == taken),
    **{f'iou_{name}': iou for name, iou in zip(NAMES, ious, strict=True)},
  }


@given(st.integers(1, 4), st.integers(0, 100))
def test_overlaps_are_sums_over_examples_and_padding_counts_nothing(cut, seed):
  task = make(ignore_label=1) if seed % 2 else make()
  made, outputs = batch(task, seed=seed), logits(seed=seed).numpy()
  names = NAMES if not seed % 2 else [name for name in NAMES if name != 'land']
  expected = reference(made['targets'].numpy()[:4], outputs[:4].argmax(-1)) if not seed % 2 else None
  weighted = {**made, 'weight': tf.constant([1.0, 1.0, 1.0, 1.0, 0.0])}
  whole = task.metric_values(tf.constant(outputs), weighted).numpy()
  outputs[4] = np.nan
  parts = [
    task.metric_values(tf.constant(outputs[part]), {name: value[part] for name, value in weighted.items()}).numpy()
    for part in (slice(0, cut), slice(cut, 5))
  ]
  np.testing.assert_array_equal(parts[0] + parts[1], whole)
  results = task.metric_results(whole.astype(np.float64))
  assert tuple(results) == task.metric_names and task.best == ('mean_iou', 'max')
  if expected:
    assert results == pytest.approx(expected)
  assert all(results[f'iou_{name}'] > 0 for name in names)


def test_a_class_that_is_nowhere_has_no_overlap_and_is_not_in_the_mean():
  results = make().metric_results(np.array([8.0, 2, 0, 0, 10, 0, 0, 0, 0]))
  assert math.isnan(results['iou_lake'])
  assert results['mean_iou'] == pytest.approx((8 / 10 + 10 / 12) / 2) and results['pixel_accuracy'] == 0.9
  assert all(math.isnan(value) for value in make().metric_results(np.zeros(9)).values())


EVERYTHING = {'shift_pixels': 2.0, 'rotate_degrees': 9.0, 'zoom': 0.2, 'flip_horizontal': True, 'flip_vertical': True}


@given(st.lists(st.floats(0, 0.99), min_size=2, max_size=2))
def test_flips_and_shifts_keep_image_and_mask_together(numbers):
  task = make(flip_horizontal=True, flip_vertical=True, shift_pixels=2.0)
  made = batch(task)
  draws = np.array([[*numbers, 0.9, 0.1], [*numbers, 0.1, 0.9], [*numbers, 0.9, 0.9], *[[0.5] * 4] * 2], np.float32)
  moved = task.augment(made, tf.constant(draws))
  targets = moved['targets'].numpy()
  seen = targets >= 0
  np.testing.assert_allclose(moved['inputs'].numpy()[..., 0][seen] * 255 / 80, targets[seen], atol=1e-3)
  np.testing.assert_allclose(moved['inputs'].numpy()[~seen], 0.0, atol=1e-5)
  np.testing.assert_array_equal(targets[3:], made['targets'][3:])


def test_an_example_depends_on_its_own_row_and_half_changes_nothing():
  task = make(**EVERYTHING)
  made = batch(task)
  draws = np.random.default_rng(0).random((5, task.draws)).astype(np.float32)
  draws[2] = 0.5
  together = task.augment(made, tf.constant(draws))
  alone = task.augment({name: value[1:2] for name, value in made.items()}, tf.constant(draws[1:2]))
  np.testing.assert_array_equal(together['targets'][1], alone['targets'][0])
  np.testing.assert_array_equal(together['targets'][2], made['targets'][2])
  assert not np.array_equal(together['targets'][0], made['targets'][0])
  assert set(np.unique(together['targets'])) <= {-1, 0, 1, 2}


@pytest.mark.parametrize('keep_aspect', [False, True])
def test_a_mask_is_resized_as_its_image(keep_aspect):
  task = make(features(size=(12, 20)), image_size=SIZE, keep_aspect=keep_aspect)
  mask = np.zeros([12, 20, 1], np.uint8)
  mask[:, 10:] = 2
  image = np.tile(mask * 100, [1, 1, 3])
  made = task.example({'image': tf.constant(image), 'mask': tf.constant(mask), 'label': tf.constant(0)})
  assert made['targets'].shape == SIZE and made['inputs'].shape == (*SIZE, 3)
  np.testing.assert_array_equal(made['targets'].numpy() == 2, made['inputs'].numpy()[..., 0] > 100 / 255)


@pytest.mark.parametrize(
  'mask', [F.Tensor(shape=SIZE, dtype=np.int64), F.Tensor(shape=(*SIZE, 1), dtype=np.uint8), F.Image(shape=(*SIZE, 1))]
)
def test_masks_come_as_images_and_as_tensors(mask):
  task = make(features(mask), classes=('a', 'b', 'c'))
  value = rows()['mask'][0].reshape(mask.shape)
  made = task.example({**{k: tf.constant(v[0]) for k, v in rows().items()}, 'mask': tf.constant(value)})
  np.testing.assert_array_equal(made['targets'], rows()['mask'][0, ..., 0])


def test_a_prediction_can_be_read():
  task = make()
  found = task.predictions(lambda x: x, logits(1), {})
  read = json.loads(json.dumps(task.readable(found.numpy()[0])))
  np.testing.assert_array_equal(read['classes'], logits(1).numpy()[0].argmax(-1))
  assert sum(read['shares'].values()) == pytest.approx(1.0, abs=1e-5) and list(read['shares']) == NAMES


@pytest.mark.parametrize(
  ('made', 'changes', 'words'),
  [
    (made_up.images(shape=(8, 8, 3)), {}, 'no feature of the dataset is a mask [height, width(, 1)]'),
    (features(F.Image(shape=(*SIZE, 1))), {}, "no names for the classes of 'mask': set task.classes"),
    (features(), {'class_weights': (1.0, 2.0)}, 'has 2 numbers: give one for each of the 3 classes'),
    (features(), {'mask': 'masks'}, "did you mean 'mask'?"),
  ],
)
def test_what_does_not_fit_is_named(made, changes, words):
  with pytest.raises(ConfigError) as caught:
    make(made, **changes)
  assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('names', [('one',), ('a', 'a')])
def test_classes_are_two_or_more(names):
  assert 'two different names' in segmentation.FIELDS['classes'].rule(names)
