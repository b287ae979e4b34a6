"""A strategy over two logical CPU devices."""

import pytest
import tensorflow as tf


@pytest.fixture(scope='session')
def pair(split_cpu) -> tf.distribute.Strategy:
  """A mirror over two replicas."""
  return tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
