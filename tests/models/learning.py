"""What the tests of the families that learn share: a step of plain gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def descent(
  model: keras.Model, inputs: Any, labels: Any, rate: float, *, compiled: bool = True
) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
  """A function that takes a step, and gives the mean cross-entropy before it and the logits.

  Args:
    model: gives logits [B, ..., V].
    inputs: one batch.
    labels: integers [B, ...].
    rate: how far a step goes.
    compiled: whether XLA compiles it.
  """

  @tf.function(jit_compile=compiled, autograph=False)
  def step() -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
      logits = model(inputs, training=True)
      loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    parameters = [v.value for v in model.trainable_variables]
    for variable, gradient in zip(parameters, tape.gradient(loss, parameters), strict=True):
      variable.assign_sub(rate * tf.convert_to_tensor(gradient))
    return loss, logits

  return step
