"""What is computed twice rather than kept: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, section 4.

The gradient of a layer here keeps the layer's inputs alone, and computes what else it needs from them anew. A compiler
that sees the same computation twice does it once and keeps the result, which undoes all this; so the second has its
inputs through `again`, which no compiler sees through.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops


def again(values: list[tf.Tensor], after: list[tf.Tensor], xla: bool) -> list[tf.Tensor]:
  """The same values, as if they were others.

  Args:
    values: any tensors.
    after: tensors that are to be there first, so that what is made of the values is not made before it is needed.
    xla: whether XLA compiles the graph; it heeds no control dependencies, and TensorFlow knows no barrier.
  """
  if xla:
    return gen_xla_ops.xla_optimization_barrier([*values, *after])[: len(values)]
  with tf.control_dependencies(after):
    return [tf.identity(value) for value in values]


def rematerialized(layer: keras.layers.Layer, x: Any, xla: bool, **arguments: Any) -> tf.Tensor:
  """What `layer(x, **arguments)` gives, of which the gradient keeps no more than `x` and the layer's weights.

  Dropout draws the same mask both times: the layer is called without side effects, with its seeds among its inputs.

  Args:
    layer: built; makes a float tensor of `x`, its weights and its seeds.
    x: a float tensor, or a list of such.
    xla: as in `again`.
    **arguments: of the call.
  """
  trainable, others = layer.trainable_variables, layer.non_trainable_variables
  inputs = tf.nest.flatten(x)

  @tf.custom_gradient
  def run(*values: tf.Tensor) -> Any:
    y, after = call(list(values))

    def gradient(upstream: tf.Tensor, *unused: Any) -> Any:
      *once_more, upstream = again([*values, upstream], [upstream], xla)
      watched = once_more[: len(once_more) - len(others)]
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        y_again, _ = call(once_more)
      found = tape.gradient(y_again, watched, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
      found = [tf.convert_to_tensor(each) for each in found]
      # All together, or XLA puts off the gradients of the weights, and keeps what they are made of.
      return [*(again(found, [], xla) if xla else found), *(None for _ in others)]

    return (y, *(tf.convert_to_tensor(value) for value in after)), gradient

  def call(values: list[tf.Tensor]) -> Any:
    split = len(values) - len(others)
    given = tf.nest.pack_sequence_as(x, values[: len(inputs)])
    return layer.stateless_call(values[len(inputs) : split], values[split:], given, **arguments)

  y, *after = run(*inputs, *(tf.convert_to_tensor(v.value) for v in (*trainable, *others)))
  for variable, value in zip(others, after, strict=True):
    variable.assign(value)
  return y
