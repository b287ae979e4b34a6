"""The losses of a run's first steps without dropout, by which two ways to compute the same are held against each other.

Random numbers for dropout depend on the dtype, and on whether XLA makes them. Without them, the losses of the same
batches from the same weights differ by rounding alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer.train.session import Session

FIRST_STEPS = 10
# What Keras' layers call the share that they drop.
_RATES = ('rate', 'dropout', 'recurrent_dropout')


def first_losses(session: Session) -> list[float]:
  """The mean loss of each of the first FIRST_STEPS batches, as they are trained on; may not be finite.

  Args:
    session: built, with its first weights; they are trained on.
  """
  with without_dropout(session.model):
    step = session.train_step()
    batches = iter(session.pipeline.train(session.strategy, 0))
    rows, _ = step.run(batches, tf.constant(0, tf.int64), tf.constant(FIRST_STEPS), tf.zeros([3]))
    found = step.split(rows.numpy())
  with np.errstate(invalid='ignore', divide='ignore'):
    return (found.sum('loss') / found.sum('weight')).tolist()


@contextlib.contextmanager
def without_dropout(model: keras.Model) -> Iterator[None]:
  """What is traced within drops nothing."""
  before = [
    (layer, name, getattr(layer, name))
    for layer in model._flatten_layers()
    for name in _RATES
    if isinstance(getattr(layer, name, None), float)
  ]
  try:
    for layer, name, _ in before:
      setattr(layer, name, 0.0)
    yield
  finally:
    for layer, name, value in before:
      setattr(layer, name, value)
