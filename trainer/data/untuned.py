"""A strategy's iterators without the thread of TensorFlow's tuner, which may hold up their end for a minute.

An iterator waits in its destructor for that thread. The thread sleeps twice as long each time, up to a minute, and when
it is woken to be cancelled it looks whether it is, a moment before it says so: in half of our trials on two cores it
went back to sleep, and a run that was over, or an evaluation, stood still for as long. The options of our own datasets
switch the tuner off; a strategy puts datasets of its own behind them, one per device, whose options nobody can set.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

_create = multi_device_iterator_ops._create_device_dataset


def install() -> None:
  """From now on the datasets that a strategy makes for its devices are not tuned: their one buffer has a fixed size."""
  multi_device_iterator_ops._create_device_dataset = _create_untuned


def _create_untuned(*args: Any, **keywords: Any) -> tf.data.Dataset:
  options = tf.data.Options()
  options.autotune.enabled = False
  return _create(*args, **keywords).with_options(options)
