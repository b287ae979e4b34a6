"""Two logical CPU devices and a strategy over them."""

import pytest
import tensorflow as tf


@pytest.fixture(scope='session', autouse=True)
def split_cpu() -> None:
  """Splits the CPU of this process before its first op; four devices, as tests/train does."""
  cpu = tf.config.list_physical_devices('CPU')[0]
  if tf.config.get_logical_device_configuration(cpu) is None:
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


@pytest.fixture(scope='session')
def pair(split_cpu) -> tf.distribute.Strategy:
  """A mirror over two replicas."""
  return tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
