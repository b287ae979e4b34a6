"""What the plain families share: input and output layers, activations and regularisers by name."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, Rule, at_least, nearest

# Halves the last axis, which keras.layers.Activation does not know: the shapes of the layers behind it would be wrong.
_RESHAPING = ('glu',)

REGULARIZER_FIELDS: dict[str, Field] = {
  'l1': Field(0.0, 'L1 penalty: this times the sum of |w| over the kernels, added to the mean loss', at_least(0)),
  'l2': Field(0.0, 'L2 penalty: this times the sum of w^2 over the kernels, added to the mean loss', at_least(0)),
}


@functools.cache
def activations() -> tuple[str, ...]:
  """Names of Keras' activations that take one tensor and keep its shape."""
  found = []
  for name, function in inspect.getmembers(keras.activations, inspect.isfunction):
    parameters = list(inspect.signature(function).parameters.values())
    alone = all(p.default is not p.empty for p in parameters[1:])
    if alone and parameters[0].name == 'x' and name not in _RESHAPING:
      found.append(name)
  return tuple(found)


def check_activation(name: str) -> str:
  """The rule of a field that names an activation."""
  known = activations()
  return '' if name in known else f'is not an activation{nearest(name, known)} Known: {", ".join(known)}'


def check_sizes(sizes: tuple[int, ...]) -> str:
  """The rule of a tuple of widths."""
  good = all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes)
  return '' if good else 'must hold whole numbers of at least 1'


def check_channels(each: str) -> Rule:
  """The rule of a tuple of channels that must not be empty; they are those of `each`, as in 'stage'."""
  return lambda channels: check_sizes(channels) if channels else f'must name the channels of at least one {each}'


def check_heads(heads: int, width: int) -> None:
  """Raises a ConfigError where the heads do not divide the width that they share."""
  if width % heads:
    raise ConfigError(f'model.heads={heads} does not divide the width {width}: change model.heads or model.width')


def inputs(family: str, spec: Any, *, rank: int | None = None) -> keras.KerasTensor:
  """The input layer for one tensor per example.

  Args:
    family: name of the model family, for the message.
    spec: tf.TensorSpec without the batch dimension, as the task gives it.
    rank: number of dimensions that the family needs; None takes any.

  Raises:
    ConfigError: `spec` is a nest of tensors, holds text, has another rank, or a dimension of unknown size.
  """
  if not isinstance(spec, tf.TensorSpec):
    raise ConfigError(f'model.name={family!r} takes one tensor per example, not {sorted(spec)}: take another model')
  if not (spec.dtype.is_floating or spec.dtype.is_integer):
    raise ConfigError(f'model.name={family!r} takes numbers, not {spec.dtype.name}: take another model')
  if not spec.shape.is_fully_defined():
    raise ConfigError(f'model.name={family!r} needs inputs of one shape, not {tuple(spec.shape)}')
  if rank is not None and spec.shape.rank != rank:
    raise ConfigError(
      f'model.name={family!r} takes inputs with {rank} dimensions, not {tuple(spec.shape)}: '
      "take model.name='mlp' or 'linear', which take any shape"
    )
  return keras.Input(shape=tuple(spec.shape), dtype=spec.dtype.name, name='inputs')


@keras.saving.register_keras_serializable('trainer')
class MaxPooling(keras.layers.MaxPooling2D):
  """Keras' layer, out of comparisons: XLA refuses the gradient of the one operation where ops are to be deterministic.

  One axis after the other, so that 3x3 takes four comparisons. Without XLA the one operation is faster (`compiled`).
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.compiled_by_xla = True

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, H', W', C]."""
    if not self.compiled_by_xla:
      return super().call(inputs)
    for axis, size, stride in zip((1, 2), self.pool_size, self.strides, strict=True):
      inputs = self._slide(inputs, axis, size, stride)
    return inputs

  def _slide(self, x: tf.Tensor, axis: int, size: int, stride: int) -> tf.Tensor:
    length = x.shape[axis]
    if self.padding == 'same':
      count = -(-length // stride)
      missing = max((count - 1) * stride + size - length, 0)
      paddings = [[0, 0] for _ in x.shape]
      paddings[axis] = [missing // 2, missing - missing // 2]
      x = tf.pad(x, paddings, constant_values=x.dtype.min)
    else:
      count = (length - size) // stride + 1
    parts = []
    for offset in range(size):
      places: list[slice] = [slice(None)] * 4
      places[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
      parts.append(x[tuple(places)])
    return functools.reduce(tf.maximum, parts)


@keras.saving.register_keras_serializable('trainer')
class Symbols(keras.layers.Layer):
  """Which places of a sequence hold a symbol, integers [B, T] -> bool [B, T]."""

  def call(self, ids_BT: tf.Tensor) -> tf.Tensor:
    return ids_BT != 0

  def compute_output_spec(self, ids_BT: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor(ids_BT.shape, 'bool')


@keras.saving.register_keras_serializable('trainer')
class FirstToken(keras.layers.Layer):
  """[B, T, D] -> [B, D], that of the first place: a class token."""

  def call(self, tokens_BTD: tf.Tensor) -> tf.Tensor:
    return tokens_BTD[:, 0]

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape[0], input_shape[2]


@keras.saving.register_keras_serializable('trainer')
class MaskedMean(keras.layers.Layer):
  """The mean over the places that are there; zeros where none is, as in an empty text."""

  def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
    """[x [B, T, D], bool [B, T], which places are there] -> [B, D]."""
    x_BTD, there_BT = inputs
    share_BT1 = tf.cast(there_BT, tf.float32)[:, :, tf.newaxis]
    sums_BD = tf.reduce_sum(tf.cast(x_BTD, tf.float32) * share_BT1, axis=1)
    return tf.cast(tf.math.divide_no_nan(sums_BD, tf.reduce_sum(share_BT1, axis=1)), x_BTD.dtype)

  def compute_output_shape(self, input_shape: Any) -> Any:
    (batch, _, width), _ = input_shape
    return batch, width


def compiled(model: keras.Model, xla: bool) -> None:
  """Tells the layers of a model whether XLA will compile them, where that makes a difference."""
  for layer in model._flatten_layers():
    if hasattr(layer, 'compiled_by_xla'):
      layer.compiled_by_xla = xla


def head(units: int, **kwargs: Any) -> keras.layers.Layer:
  """The last layer: raw outputs in float32 under any precision policy, because losses and softmax need the digits."""
  return keras.layers.Dense(units, dtype='float32', name='head', **kwargs)


def dropout(fields: Any, x: Any, name: str) -> Any:
  """`x` with a share `fields.dropout` dropped, by a layer NAME_dropout; without one where that is 0."""
  return keras.layers.Dropout(fields.dropout, name=f'{name}_dropout')(x) if fields.dropout else x


def regularizer(fields: Any) -> keras.regularizers.Regularizer | None:
  """The penalty on kernels that REGULARIZER_FIELDS asks for; None when there is none."""
  return keras.regularizers.L1L2(l1=fields.l1, l2=fields.l2) if fields.l1 or fields.l2 else None
