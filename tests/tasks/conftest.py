"""A strategy over two logical CPU devices."""

import pytest
import tensorflow as tf

from tests.train import small_run


@pytest.fixture(scope='session')
def pair(split_cpu) -> tf.distribute.Strategy:
  """A mirror over two replicas, the only one here: collectives of a second would be taken for those of the first."""
  return small_run.strategy(2)
