"""What is computed twice rather than kept: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, section 4.

The gradient of a layer here keeps the layer's inputs alone, and computes what else it needs from them anew. A compiler
that sees the same computation twice does it once and keeps the result, which undoes all this; so the second has its
inputs through `again`, which no compiler sees through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from trainer.fields import Field, one_of

# Of the families whose blocks are layers one after another.
FIELDS: dict[str, Field] = {
  'attention': Field(
    'plain', 'how scores are held: all at once; blockwise: those of some keys at a time, and none is dropped',
    one_of('plain', 'blockwise'),
  ),
  'remat': Field(
    'none', 'what is computed twice rather than kept for the gradient: nothing, or each block', one_of('none', 'blocks')
  ),
}  # fmt: skip


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


def apart(x: tf.Tensor, xla: bool) -> tf.Tensor:
  """`x`; XLA, where it compiles the graph, makes it as it is, in its dtype, and reads that wherever it is used."""
  return again([x], [], True)[0] if xla else x


def held(x: tf.Tensor, dtype: str) -> tf.Tensor:
  """`x` rounded to the float `dtype`, where that is shorter, in which XLA then keeps it until the gradient is made.

  The gradient is not rounded. Without a barrier XLA would drop the casts, and keep what is cast.
  """
  if tf.as_dtype(dtype).size >= x.dtype.size:
    return x

  @tf.custom_gradient
  def run(x: tf.Tensor) -> Any:
    return tf.cast(apart(tf.cast(x, dtype), True), x.dtype), lambda upstream: upstream

  return run(x)


def logits(layer: keras.layers.Layer, x: tf.Tensor, training: bool) -> tf.Tensor:
  """Logits [..., V] in float32; in training under XLA rounded to the layer's compute dtype, in which they are kept.

  With a vocabulary they are the largest tensor of the step.
  """
  return tf.cast(held(x, layer.compute_dtype) if training and layer.compiled_by_xla else x, tf.float32)


def rematerialized(layer: keras.layers.Layer, x: Any, xla: bool, **arguments: Any) -> tf.Tensor:
  """What `layer(x, **arguments)` gives, of which the gradient keeps no more than `x` and the layer's weights.

  Dropout draws the same mask both times: the layer is called without side effects, with its seeds among its inputs.

  Args:
    layer: built; makes a float tensor of `x`, its weights and its seeds.
    x: a tensor, or a list of such; what is no float, such as a mask, has no gradient.
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
      given = once_more[: len(once_more) - len(others)]
      watched = [value for value in given if value.dtype.is_floating]
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        y_again, _ = call(once_more)
      found = tape.gradient(y_again, watched, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
      found = [tf.convert_to_tensor(each) for each in found]
      # All together, or XLA puts off the gradients of the weights, and keeps what they are made of.
      ready = iter(again(found, [], xla) if xla else found)
      return [*(next(ready) if value.dtype.is_floating else None for value in given), *(None for _ in others)]

    return (y, *(tf.convert_to_tensor(value) for value in after)), gradient

  def call(values: list[tf.Tensor]) -> Any:
    split = len(values) - len(others)
    given = tf.nest.pack_sequence_as(x, values[: len(inputs)])
    return layer.stateless_call(values[len(inputs) : split], values[split:], given, **arguments)

  y, *after = run(*inputs, *(tf.convert_to_tensor(v.value) for v in (*trainable, *others)))
  for variable, value in zip(others, after, strict=True):
    variable.assign(value)
  return y


def block(make: Callable[..., Any], inputs: list[Any], name: str, kept: bool) -> Any:
  """What `make(*inputs)` gives, of layers that are called one after another; variables are named the same either way.

  Args:
    make: from tensors to one of the shape of the first.
    inputs: symbolic.
    name: of the layer around it, where there is one.
    kept: whether all of it is kept for the gradient; otherwise it is computed twice.
  """
  if kept:
    return make(*inputs)
  inner = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in inputs]
  return Rematerialized(keras.Model(inner, make(*inner), name=f'{name}_inside'), name=name)(inputs)


@keras.saving.register_keras_serializable('trainer')
class Rematerialized(keras.layers.Layer):
  """A model inside of a model, computed twice in training (`rematerialized`)."""

  def __init__(self, inside: keras.Model, **kwargs: Any):
    super().__init__(**kwargs)
    self.inside, self.compiled_by_xla = inside, False  # the latter is set by parts.compiled

  def build(self, input_shape: Any) -> None:
    del input_shape  # what is inside has been built

  def call(self, inputs: list[tf.Tensor], training: bool = False) -> tf.Tensor:
    if not training:
      return self.inside(inputs, training=False)
    return rematerialized(self.inside, inputs, self.compiled_by_xla, training=True)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape[0]

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'inside': keras.saving.serialize_keras_object(self.inside)}

  @classmethod
  def from_config(cls, config: dict[str, Any]) -> Rematerialized:
    inside = keras.saving.deserialize_keras_object(config.pop('inside'))
    return cls(inside, **config)
