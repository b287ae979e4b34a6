"""A model as a function of its weights and inputs, and of what one of its layers gives.

Nothing here writes to a variable. Layers are looked into by standing in for their `call` for as long as a function is
traced, so that any Keras model will do, of layers in a graph or of classes inside of each other.

Dimensions: S inputs that are computed together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.models.tapped import tapped

Call = Callable[[tf.Tensor], Any]
Target = Callable[[Any], tf.Tensor]


class Called(NamedTuple):
  """One call of a layer within that of a model.

  Attributes:
    layer: that was called.
    number: how many calls of the same layer came before.
    args: positional arguments.
    keywords: the others.
    output: what it gave.
  """

  layer: keras.layers.Layer
  number: int
  args: tuple[Any, ...]
  keywords: dict[str, Any]
  output: Any


@dataclasses.dataclass(frozen=True)
class Piece:
  """A call whose gradient is computed in a graph, by the inputs alone: a tape around the call would have that by the
  weights too.

  Attributes:
    call: inputs [S, ...] -> outputs.
    pull: inputs and the gradient by the outputs -> the gradient by the inputs.
  """

  call: Call
  pull: Callable[[tf.Tensor, Any], tf.Tensor]

  def __call__(self, inputs: Any) -> Any:
    return self.call(inputs)


@dataclasses.dataclass(frozen=True)
class Network:
  """A model at some weights, as it is evaluated.

  Attributes:
    model: built.
    parameters: values of its trainable variables.
    buffers: values of its other variables.
    functions: what has been traced; the same for all weights.
  """

  model: keras.Model
  parameters: list[tf.Tensor]
  buffers: list[tf.Tensor]
  functions: dict[Any, Any] = dataclasses.field(default_factory=dict)

  def at(self, parameters: Sequence[Any], buffers: Sequence[Any]) -> Network:
    """The same model at other weights."""
    given = [[tf.convert_to_tensor(each) for each in part] for part in (parameters, buffers)]
    return Network(self.model, given[0], given[1], self.functions)

  def __call__(self, inputs: Any) -> Any:
    """Inputs [S, ...] -> raw outputs [S, ..., units]."""
    return self._whole()(inputs)

  def pull(self, inputs: tf.Tensor, upstream: Any) -> tf.Tensor:
    """See `Piece`."""
    return self._whole().pull(inputs, upstream)

  def _whole(self) -> Piece:
    return self._piece('whole', self._outputs)

  def calls(self, inputs: np.ndarray) -> list[Called]:
    """What is called for some inputs, each layer when it has ended; the whole model is left out.

    Only traced: tensors have shapes, and no values.
    """
    if 'calls' not in self.functions:
      self.observed('calls trace', lambda calls: self.functions.update(calls=calls) or [], inputs)
    return self.functions['calls']

  def observed(self, key: str, observe: Callable[[list[Called]], list[tf.Tensor]], inputs: np.ndarray) -> Any:
    """What a function makes of the layers' calls, computed.

    Args:
      key: tells this function from others.
      observe: takes `calls`, in a graph.
      inputs: [S, ...].
    """

    def watch(parameters: Any, buffers: Any, inputs: tf.Tensor) -> list[tf.Tensor]:
      found: list[Called] = []
      counts: dict[int, int] = {}

      def note(layer: keras.layers.Layer, output: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        number = counts.get(id(layer), 0)
        counts[id(layer)] = number + 1
        found.append(Called(layer, number, args, keywords, output))
        return output

      with tapped(self.model._flatten_layers(include_self=False), note):
        self._outputs(parameters, buffers, inputs)
      return observe(found)

    return self._traced(key, watch)(self.parameters, self.buffers, tf.convert_to_tensor(inputs))

  def beyond(self, called: Called, inputs: tf.Tensor) -> tuple[tf.Tensor, Call]:
    """The model as a function of what one of its layers gives.

    Args:
      called: out of `calls`; its output is one tensor of floats.
      inputs: of one example, [1, ...], for all that does not go through the layer.

    Returns:
      What the layer gives for these inputs, float32 [1, ...]; and a call that takes [S, ...] in its place.
    """
    layer, number = called.layer, called.number
    key = f'{id(layer)} {number}'

    def own(calls: list[Called]) -> list[tf.Tensor]:
      (output,) = [each.output for each in calls if each.layer is layer and each.number == number]
      return [tf.cast(output, tf.float32)]

    def outputs(parameters: Any, buffers: Any, given: tf.Tensor, inputs: tf.Tensor) -> Any:
      count = 0

      def put(layer: keras.layers.Layer, output: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        nonlocal count
        count += 1
        return tf.cast(given, output.dtype) if count == number + 1 else output

      with tapped([layer], put):
        return self._outputs(parameters, buffers, tf.repeat(inputs, tf.shape(given)[0], axis=0))

    (here,) = self.observed(f'{key} own', own, inputs)
    return here, self._piece(f'{key} beyond', outputs, tf.convert_to_tensor(inputs))

  def _outputs(self, parameters: Any, buffers: Any, inputs: tf.Tensor) -> Any:
    return self.model.stateless_call(parameters, buffers, inputs, training=False)[0]

  def _piece(self, key: str, outputs: Callable[..., Any], *rest: tf.Tensor) -> Piece:
    """`outputs(parameters, buffers, inputs, *rest)` as a function of the inputs, with its gradient."""

    def backward(parameters: Any, buffers: Any, inputs: tf.Tensor, upstream: list[tf.Tensor], *rest: tf.Tensor) -> Any:
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        found = tf.nest.flatten(outputs(parameters, buffers, inputs, *rest))
      return tape.gradient(found, inputs, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    forward, pull = self._traced(key, outputs), self._traced(f'{key} backward', backward)
    return Piece(
      lambda inputs: forward(self.parameters, self.buffers, tf.convert_to_tensor(inputs), *rest),
      lambda inputs, upstream: pull(self.parameters, self.buffers, inputs, tf.nest.flatten(upstream), *rest),
    )

  def _traced(self, key: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if key not in self.functions:
      self.functions[key] = tf.function(function, autograph=False, reduce_retracing=True)
    return self.functions[key]


def scores(call: Call, target: Target, inputs: np.ndarray | tf.Tensor, together: int) -> np.ndarray:
  """float64 [S]: the target of each of some inputs [S, ...], so many computed together."""
  parts = [target(call(tf.convert_to_tensor(inputs[i : i + together]))) for i in range(0, len(inputs), together)]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


def gradients(call: Call, target: Target, inputs: np.ndarray | tf.Tensor) -> np.ndarray:
  """float32 [S, ...]: the gradient of each target by its own inputs; 0 where the target does not depend on them."""
  inputs = tf.convert_to_tensor(inputs, tf.float32)
  pull: Callable[..., Any] | None = getattr(call, 'pull', None)
  source = call(inputs) if pull else inputs
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(source)
    total = tf.reduce_sum(target(source if pull else call(inputs)))
  found = tape.gradient(total, source, unconnected_gradients=tf.UnconnectedGradients.ZERO)
  return tf.convert_to_tensor(pull(inputs, found) if pull else found).numpy()
