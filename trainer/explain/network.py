"""A model as a function of its weights and inputs, and of what one of its layers gives.

Nothing here writes to a variable. Layers are looked into by standing in for their `call` for as long as a function is
traced, so that any Keras model will do, of layers in a graph or of classes inside of each other.

Dimensions: S inputs that are computed together.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

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

  def __call__(self, inputs: tf.Tensor) -> Any:
    """Inputs [S, ...] -> raw outputs [S, ..., units]."""
    function = self._traced('whole', self._outputs)
    return function(self.parameters, self.buffers, tf.convert_to_tensor(inputs))

  def calls(self, inputs: tf.Tensor) -> list[Called]:
    """What is called for some inputs, each layer when it has ended; the whole model is left out."""
    found: list[Called] = []
    counts: dict[int, int] = {}

    def note(layer: keras.layers.Layer, output: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
      number = counts.get(id(layer), 0)
      counts[id(layer)] = number + 1
      found.append(Called(layer, number, args, keywords, output))
      return output

    with tapped(self.model._flatten_layers(include_self=False), note):
      self._outputs(self.parameters, self.buffers, tf.convert_to_tensor(inputs))
    return found

  def beyond(self, called: Called, inputs: tf.Tensor) -> tuple[tf.Tensor, Call]:
    """The model as a function of what one of its layers gives.

    Args:
      called: out of `calls`; its output is one tensor of floats.
      inputs: of one example, [1, ...], for all that does not go through the layer.

    Returns:
      What the layer gives for these inputs, float32 [1, ...]; and a call that takes [S, ...] in its place.
    """
    layer, number = called.layer, called.number

    def outputs(parameters: Any, buffers: Any, inputs: tf.Tensor, given: tf.Tensor) -> tuple[Any, tf.Tensor]:
      seen: list[tf.Tensor] = []

      def put(layer: keras.layers.Layer, output: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        seen.append(output)
        return tf.cast(given, output.dtype) if len(seen) == number + 1 else output

      with tapped([layer], put):
        result = self._outputs(parameters, buffers, tf.repeat(inputs, tf.shape(given)[0], axis=0))
      return result, tf.cast(seen[number], tf.float32)

    function = self._traced((id(layer), number), outputs)
    inputs = tf.convert_to_tensor(inputs)
    empty = tf.zeros([1, *called.output.shape[1:]], tf.float32)
    own = function(self.parameters, self.buffers, inputs, empty)[1]
    return own, lambda given: function(self.parameters, self.buffers, inputs, given)[0]

  def _outputs(self, parameters: Any, buffers: Any, inputs: tf.Tensor) -> Any:
    return self.model.stateless_call(parameters, buffers, inputs, training=False)[0]

  def _traced(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    if key not in self.functions:
      self.functions[key] = tf.function(function, autograph=False, reduce_retracing=True)
    return self.functions[key]


@contextlib.contextmanager
def tapped(layers: Sequence[keras.layers.Layer], tap: Callable[..., Any]) -> Iterator[None]:
  """Within, each call of the layers gives `tap(layer, output, args, keywords)` instead of its output."""
  # Past Keras' own attributes, which would make a list of what is set.
  before = {id(layer): vars(layer).get('call') for layer in layers}

  def standing_in(layer: keras.layers.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: tap(layer, call(*args, **keywords), args, keywords)

  for layer in layers:
    vars(layer)['call'] = standing_in(layer, layer.call)
  try:
    yield
  finally:
    for layer in layers:
      earlier = before[id(layer)]
      if earlier is None:
        vars(layer).pop('call', None)
      else:
        vars(layer)['call'] = earlier


def scores(call: Call, target: Target, inputs: np.ndarray | tf.Tensor, together: int) -> np.ndarray:
  """float64 [S]: the target of each of some inputs [S, ...], so many computed together."""
  parts = [target(call(tf.convert_to_tensor(inputs[i : i + together]))) for i in range(0, len(inputs), together)]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


def gradients(call: Call, target: Target, inputs: np.ndarray | tf.Tensor) -> np.ndarray:
  """float32 [S, ...]: the gradient of each target by its own inputs; 0 where the target does not depend on them."""
  watched = tf.convert_to_tensor(inputs, tf.float32)
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(watched)
    total = tf.reduce_sum(target(call(watched)))
  found = tape.gradient(total, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
  return tf.convert_to_tensor(found).numpy()
