"""What each stage of an input adds."""

import tensorflow as tf

from trainer.measure import stages


def busy(rounds: int):
  """A function that costs time in proportion to `rounds`."""

  def work(number: tf.Tensor) -> tf.Tensor:
    matrix = tf.fill([64, 64], tf.cast(number % 3, tf.float32) / 64)
    for _ in range(rounds):
      matrix = tf.matmul(matrix, matrix) / 64
    return tf.reduce_sum(matrix)

  return work


def test_the_stage_that_holds_the_others_up_is_named():
  read = tf.data.Dataset.range(2**62)
  decoded = read.map(busy(500))
  augmented = decoded.map(busy(1))
  found = stages.measure({'read': read, 'decode': decoded, 'augment': augmented}, 2, 0.2)
  assert [stage['name'] for stage in found] == ['read', 'decode', 'augment']
  assert stages.slowest(found) == 'decode'
  assert all(stage['own_seconds'] >= 0 for stage in found)
  assert found[1]['batch_seconds'] > found[0]['batch_seconds']


def test_nothing_is_named_where_nothing_is_read():
  assert stages.measure({}, 1, 0.1) == [] and stages.slowest([]) is None
