"""Detection: what is learnt from an image, what a perfect model loses and finds, and COCO's own numbers."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer import tasks
from trainer.errors import ConfigError
from trainer.tasks import boxes, detection

NAMES = ['round', 'long']
SIZE = (64, 96)


def features(crowd=False):
  parts = {'bbox': F.BBoxFeature(), 'label': F.ClassLabel(names=NAMES)}
  parts |= {'is_crowd': F.Scalar(np.bool_)} if crowd else {}
  return F.FeaturesDict(
    {'image': F.Image(shape=(None, None, 3)), 'objects': F.Sequence(parts), 'number': F.Scalar(np.int32)}
  )


def make(crowd=False, made=None, levels=(3, 5), **changes):
  config = made_up.config('detection', image_size=SIZE, max_objects=4, level_reach=2.0, **changes)
  config.model = {'name': 'detector', 'levels': levels}
  return tasks.create(config, made or features(crowd), None)


def example(task, rows, labels, crowd=None, size=(32, 48)):
  objects = {'bbox': tf.reshape(tf.constant(rows, tf.float32), [-1, 4]), 'label': tf.constant(labels, tf.int64)}
  objects |= {} if crowd is None else {'is_crowd': tf.constant(crowd)}
  image = np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8)
  return task.example({'image': tf.constant(image), 'objects': objects, 'number': tf.constant(1)})


def batch(*examples):
  made = tf.nest.map_structure(lambda *parts: tf.stack(parts), *examples)
  return {**made, 'weight': tf.ones([len(examples)])}


def objects(task):
  one = example(task, [[0.1, 0.1, 0.5, 0.4], [0.5, 0.5, 0.9, 0.9]], [1, 0])
  return batch(one, example(task, [[0.25, 0.25, 0.75, 0.75]], [1]), example(task, [], []))


def perfect(task, made, sure=20.0):
  """Outputs that say at each place what it is to say."""
  targets, at = made['targets'], task._places
  labels, true, centre = boxes.assign(targets['boxes'], targets['labels'], at, 1.5)
  upper, left, lower, right = np.moveaxis(true.numpy(), -1, 0)
  sides = np.stack([at.x - left, at.y - upper, right - at.x, lower - at.y], -1) / at.stride[:, None]
  logs = np.log(np.where((labels.numpy() != boxes.NONE)[..., None], sides, 1.0))
  chance = np.clip(centre.numpy(), 1e-6, 1 - 1e-6)[..., None]
  return tf.constant(
    np.concatenate([sure * (2 * tf.one_hot(labels, 2) - 1), logs, np.log(chance / (1 - chance))], -1), tf.float32
  )


def test_an_example_is_resized_with_its_boxes():
  task = make(crowd=True)
  made = example(task, [[0, 0.5, 1, 1], [0.25, 0, 0.5, 0.25]], [1, 0], [False, True])
  assert made['inputs'].shape == (*SIZE, 3)
  targets = {name: value.numpy().tolist() for name, value in made['targets'].items()}
  assert targets == {
    'boxes': [[0, 48, 64, 96], [16, 0, 32, 24], [0] * 4, [0] * 4],
    'labels': [1, 0, -1, -1],
    'crowd': [0, 1, 0, 0],
    'objects': 2,
  }
  crowded = example(make(), np.tile([[0, 0, 0.5, 0.5]], [6, 1]), [1] * 6)['targets']
  assert crowded['labels'].shape == (4,) and crowded['objects'] == 6


def test_a_perfect_model_loses_what_centre_ness_costs_and_finds_all():
  task = make()
  made = objects(task)
  outputs = perfect(task, made)
  losses = task.losses(outputs, made).numpy()
  targets = made['targets']
  labels, _, centre = (part.numpy() for part in boxes.assign(targets['boxes'], targets['labels'], task._places, 1.5))
  for image in range(2):
    share = np.clip(centre[image][labels[image] != boxes.NONE], 1e-6, 1 - 1e-6)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert losses[image] == pytest.approx(entropy.mean(), abs=1e-4)
  assert losses[2] == pytest.approx(0, abs=1e-6)
  results = task.prediction_results({k: v.numpy() for k, v in task.predictions(lambda x: x, outputs, made).items()})
  assert results == {'map': pytest.approx(1.0), 'map_50': pytest.approx(1.0), 'map_75': pytest.approx(1.0)}
  assert task.best == ('map', 'max') and task.metrics.size == 0


def test_the_loss_of_one_place_by_hand():
  task = make(levels=(5, 5))
  made = batch(example(task, [[0.05, 0.05, 0.45, 0.4]], [1]))  # around the place (16, 16) of six
  outputs = np.zeros([1, 6, 7], np.float32)
  outputs[0, 0] = [0.0, 0.0, *np.log([16 / 32, 16 / 32, 16 / 32, 16 / 32]), 0.0]
  upper, left, lower, right = 3.2, 4.8, 28.8, 38.4
  ratio = (16 - upper) / (lower - 16) * (16 - left) / (right - 16)
  common = (lower - upper) * (32 - left)
  union = 32 * 32 + (lower - upper) * (right - left) - common
  around = 32 * 38.4
  giou = common / union - (around - union) / around
  # Each of the 12 logits is 0: p = 1/2, one of them is right.
  focal = (0.25 + 11 * 0.75) * 0.25 * math.log(2)
  assert ratio**0.5 == pytest.approx(0.7071, abs=1e-3)
  assert float(task.losses(tf.constant(outputs), made)[0]) == pytest.approx(focal + math.log(2) + 1 - giou, rel=1e-4)


def test_crowds_are_neither_learnt_nor_missed():
  task = make(crowd=True)
  rows = [[0.1, 0.1, 0.5, 0.4], [0.5, 0.5, 0.9, 0.9]]
  with_crowd = batch(example(task, rows, [1, 0], [False, True]))
  without = batch(example(task, rows[:1], [1], [False]))
  outputs = perfect(task, without)
  np.testing.assert_allclose(task.losses(outputs, with_crowd), task.losses(outputs, without), rtol=1e-6)
  predictions = {k: v.numpy() for k, v in task.predictions(lambda x: x, outputs, with_crowd).items()}
  assert task.prediction_results(predictions)['map'] == pytest.approx(1.0)


def test_average_precision_of_a_case_by_hand():
  """Class 0: right, wrong, right of three objects; class 1: nothing found of one."""
  true = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [0, 40, 10, 50]]], np.float32)
  found = np.array([[[0, 0, 10, 10], [60, 60, 70, 70], [20, 20, 30, 26]]], np.float32)
  predictions = {
    'boxes': found,
    'scores': np.array([[0.9, 0.8, 0.7]], np.float32),
    'labels': np.array([[0, 0, 0]]),
    'true_boxes': true,
    'true_labels': np.array([[0, 0, 0, 1]]),
    'true_crowd': np.zeros([1, 4], np.int32),
  }
  whole, half, quarter = detection.average_precision(predictions, 2)
  # Precision is 1 up to a recall of 1/3 (34 of 101 points) and 2/3 up to 2/3 (33 more), where .6 is enough.
  first, both = 34 / 101, (34 + 33 * 2 / 3) / 101
  assert half == pytest.approx(both / 2)
  assert quarter == pytest.approx(first / 2)
  assert whole == pytest.approx((3 * both + 7 * first) / 10 / 2)
  nothing = {**predictions, 'labels': np.full([1, 3], boxes.NONE)}
  assert detection.average_precision(nothing, 2) == (0.0, 0.0, 0.0)
  empty = {**predictions, 'true_labels': np.full([1, 4], boxes.NONE)}
  assert np.isnan(detection.average_precision(empty, 2)).all()


def test_too_many_objects_are_an_error_where_it_counts():
  task = make()
  made = batch(example(task, np.tile([[0, 0, 0.5, 0.5]], [6, 1]), [1] * 6))
  outputs = tf.zeros([1, len(task._places.x), 7])
  with pytest.raises(ConfigError, match=r'has 6 objects, more than task\.max_objects=4: raise it'):
    task.prediction_results({k: v.numpy() for k, v in task.predictions(lambda x: x, outputs, made).items()})


def test_what_is_found_can_be_read():
  task = make()
  made = objects(task)
  predictions = task.predictions(lambda x: x, perfect(task, made), made)
  read = [task.readable({k: v.numpy()[i] for k, v in predictions.items()})['objects'] for i in range(3)]
  assert sorted(found['label'] for found in read[0]) == sorted(NAMES) and read[2] == []
  assert read[1][0]['label'] == 'long'
  np.testing.assert_allclose(read[1][0]['box'], [0.25, 0.25, 0.75, 0.75], atol=1e-3)
  json.dumps(read)


def test_flips_move_boxes_and_a_row_of_halves_nothing():
  task = make(flip_horizontal=True, flip_vertical=True)
  made = objects(task)
  draws = tf.constant([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
  moved = task.augment(made, draws)
  np.testing.assert_allclose(moved['inputs'][0], made['inputs'][0, :, ::-1], atol=1e-5)
  np.testing.assert_allclose(moved['inputs'][1], made['inputs'][1, ::-1], atol=1e-5)
  upper, left, lower, right = made['targets']['boxes'][0, 0].numpy()
  np.testing.assert_allclose(moved['targets']['boxes'][0, 0], [upper, 96 - right, lower, 96 - left], atol=1e-4)
  same = task.augment(made, tf.fill([3, 2], 0.5))
  np.testing.assert_allclose(same['targets']['boxes'], made['targets']['boxes'], atol=1e-4)
  np.testing.assert_array_equal(same['targets']['labels'], made['targets']['labels'])


@pytest.mark.parametrize(
  ('made', 'changes', 'words'),
  [
    (made_up.images(), {}, 'no feature of the dataset is a sequence of objects with boxes'),
    (features(), {'label': 'lable'}, "did you mean 'label'?"),
    (features(), {'input': 'number', 'image_size': ()}, "task.input='number' is not an image"),
    (features(), {'levels': ()}, "take model.name='detector'"),
  ],
)
def test_what_does_not_fit_is_named(made, changes, words):
  config = made_up.config('detection', **{'image_size': SIZE, **changes})
  config.model = {'name': 'x'} if 'levels' in changes else {'name': 'detector', 'levels': (3, 5)}
  with pytest.raises(ConfigError) as caught:
    tasks.create(config, made, None)
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_a_model_of_other_levels_is_named():
  task = make()
  with pytest.raises(ConfigError, match=r'the model gives \(10, 7\) per image, but task\.levels needs'):
    task.losses(tf.zeros([3, 10, 7]), objects(task))
