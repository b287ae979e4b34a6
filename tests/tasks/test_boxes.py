"""Boxes: they move as the pixels that they hold, each place has the right one, and the best are kept."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.test_augment import fields
from trainer.models import detector
from trainer.tasks import augment, boxes

EVERYTHING = {'shift_pixels': 4.0, 'zoom': 0.3, 'flip_horizontal': True, 'flip_vertical': True, 'crop_area': 0.4}
SIZE = (40, 56)


def transforms(draws, **changes):
  return augment.transforms(fields(**changes), SIZE, tf.constant([draws], tf.float32))


def constant(rows):
  return tf.constant([rows], tf.float32)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 0.99), min_size=9, max_size=9), st.integers(2, 20), st.integers(2, 30))
def test_a_box_moves_with_what_it_holds(draws, top, left):
  image = np.zeros([1, *SIZE, 1], np.float32)
  image[0, top : top + 14, left : left + 18] = 1.0
  moves = transforms(draws, **EVERYTHING)
  box = constant([[top, left, top + 14, left + 18]])
  moved, labels = boxes.move(box, tf.constant([[2]]), moves, SIZE, 0.25)
  rows, columns = np.nonzero(augment.resample(fields(**EVERYTHING), image, moves, 0.0).numpy()[0, ..., 0] > 0.5)
  if labels[0, 0] == 2:
    seen = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    np.testing.assert_allclose(moved[0, 0], seen, atol=1.01)
  else:
    assert not moved.numpy().any()
    scale = np.abs(np.linalg.det(moves.numpy()[0].reshape(2, 3)[:, :2]))
    assert len(rows) <= 0.25 * 14 * 18 / scale + 40


def test_a_turned_box_is_the_box_around_it():
  moved, _ = boxes.move(
    constant([[10, 20, 30, 24]]), tf.constant([[0]]), transforms([1.0], rotate_degrees=90.0), SIZE, 0
  )
  np.testing.assert_allclose(moved[0, 0], [12, 18, 16, 38], atol=1e-4)


def test_a_box_that_leaves_the_image_is_none():
  rows = [[0, 40, 10, 50], [0, 46, 10, 56], [0, 4, 10, 14]]
  moved, labels = boxes.move(
    constant(rows), tf.constant([[1, 1, boxes.NONE]]), transforms([0.99, 0.5], shift_pixels=8.5), SIZE, 0.25
  )
  assert labels.numpy().tolist() == [[1, boxes.NONE, boxes.NONE]]
  np.testing.assert_allclose(moved[0], [[0, 48, 10, 56], [0] * 4, [0] * 4], atol=1e-4)


def reference(rows, labels, grids, reach, radius):
  """Tian et al., 2019, sections 3.1 and 3.2, place by place."""
  found = []
  for i, (stride, high, wide) in enumerate(grids):
    low = 0 if i == 0 else reach * grids[i - 1][0]
    top = np.inf if i == len(grids) - 1 else reach * stride
    for y in (np.arange(high) + 0.5) * stride:
      for x in (np.arange(wide) + 0.5) * stride:
        best = (np.inf, boxes.NONE, 0.0)
        for (upper, left, lower, right), label in zip(rows, labels, strict=True):
          sides = [y - upper, lower - y, x - left, right - x]
          near = max(abs(y - (upper + lower) / 2), abs(x - (left + right) / 2)) < radius * stride
          if label != boxes.NONE and min(sides) > 0 and near and low < max(sides) <= top:
            ratio = min(sides[:2]) / max(sides[:2]) * min(sides[2:]) / max(sides[2:])
            best = min(best, ((lower - upper) * (right - left), label, ratio**0.5), key=lambda entry: entry[0])
        found.append(best[1:])
  return found


def test_assignment_is_that_of_the_paper():
  random = np.random.default_rng(0)
  grids = detector.grids((3, 5), (64, 96))
  at = boxes.places(grids, 2.0)
  corner = random.uniform(0, 60, [4, 6, 2])
  rows = np.concatenate([corner, corner + random.uniform(3, 60, [4, 6, 2])], -1).astype(np.float32)
  labels = random.integers(-1, 3, [4, 6]).astype(np.int32)
  found, chosen, centre = boxes.assign(tf.constant(rows), tf.constant(labels), at, 1.5)
  assert (found.numpy() != boxes.NONE).sum() > 20
  for image in range(4):
    expected = reference(rows[image], labels[image], grids, 2.0, 1.5)
    np.testing.assert_array_equal(found[image], [label for label, _ in expected])
    np.testing.assert_allclose(centre[image], [ratio for _, ratio in expected], atol=1e-5)
  # What the places are to say leads back to the boxes.
  taken = found.numpy() != boxes.NONE
  upper, left, lower, right = np.moveaxis(chosen.numpy(), -1, 0)
  with np.errstate(invalid='ignore'):
    logs = np.log(np.stack([at.x - left, at.y - upper, right - at.x, lower - at.y], -1) / at.stride[:, None])
  back = boxes.from_distances(tf.constant(np.nan_to_num(logs)), at).numpy()
  np.testing.assert_allclose(back[taken], chosen.numpy()[taken], atol=1e-2)


@pytest.mark.parametrize(
  ('one', 'other', 'expected'),
  [
    ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
    ([0, 0, 2, 2], [0, 1, 2, 3], 2 / 6),
    ([0, 0, 1, 1], [0, 3, 1, 4], -0.5),
    ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
  ],
)
def test_generalized_iou(one, other, expected):
  got = boxes.generalized_iou(tf.constant(one, tf.float32), tf.constant(other, tf.float32))
  assert float(got) == pytest.approx(expected, abs=1e-5)


def greedy(rows, scores, count, overlap, least):
  """(class, box, score) that stay, the plain way."""
  order = sorted(np.ndindex(*scores.shape), key=lambda at: -scores[at])
  kept = []
  for place, label in order:
    if scores[place, label] < least or len(kept) == count:
      break
    box = rows[place]
    for other_label, other, _ in kept:
      high, wide = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
      both = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])
      if other_label == label and high * wide / (both - high * wide) > overlap:
        break
    else:
      kept.append((label, box, scores[place, label]))
  return kept


@pytest.mark.parametrize('compiled', [False, True])
def test_the_best_of_many(compiled):
  random = np.random.default_rng(1)
  corner = random.uniform(0, 30, [2, 50, 2])
  rows = np.concatenate([corner, corner + random.uniform(8, 20, [2, 50, 2])], -1).astype(np.float32)
  scores = random.permutation(300).reshape(2, 50, 3).astype(np.float32) / 300

  @tf.function(jit_compile=compiled, autograph=False)
  def run(rows, scores):
    return boxes.best(rows, scores, candidates=150, count=40, overlap=0.4, least=0.3)

  found = [part.numpy() for part in run(rows, scores)]
  assert [part.shape for part in found] == [(2, 40, 4), (2, 40), (2, 40)]
  for image in range(2):
    expected = greedy(rows[image], scores[image], 40, 0.4, 0.3)
    size = len(expected)
    assert size > 3
    assert found[2][image].tolist() == [label for label, _, _ in expected] + [boxes.NONE] * (40 - size)
    np.testing.assert_allclose(found[0][image, :size], [box for _, box, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(found[1][image], [s for _, _, s in expected] + [0.0] * (40 - size), rtol=1e-6)
