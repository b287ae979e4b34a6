"""Who keeps what of the optimizer's state: each of N replicas keeps and updates a slice of everything but the weights.

The slice is 1/N of each float32 master weight, of each moment and of the average (ZeRO's stage 1: Rajbhandari et al.,
ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, section 5). A variable of n elements counts
as [N, ceil(n / N)], padded with zeros; replica r has row r of it, so an optimizer that works element by element does to
the slice what it would do to the whole. Between replicas travel buckets, several variables in one collective.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim.rounding import stored

# Optimizers whose update of a part of a variable is no part of its update, and one that Keras cannot build for parts.
UNABLE = {
  'adafactor': 'looks at rows and columns of a variable',
  'lamb': 'looks at the norm of a variable',
  'muon': 'looks at a variable as a matrix',
  'schedulefreeadamw': 'copies the variables when Keras builds it, and parts of them cannot be copied there',
}
# Elements that travel together. A bucket costs its size on each replica while it travels.
_BUCKET_ELEMENTS = 16 * 1024**2


class Collectives(Protocol):
  """How replicas talk; called on each of them, outside of what XLA compiles by itself."""

  replica: tf.Tensor  # int32, which one this is

  def sum(self, value: tf.Tensor) -> tf.Tensor:
    """[...] -> [...], the sum over the replicas."""
    ...

  def gather(self, value: tf.Tensor) -> tf.Tensor:
    """[S] -> [N, S], that of each replica."""
    ...


def check(name: str, variables: Iterable[keras.Variable] = ()) -> None:
  """Raises a ConfigError where the state cannot be kept in slices."""
  if name in UNABLE:
    raise ConfigError(
      f'optimizer.shard_state: {name} {UNABLE[name]}: take an optimizer that works element by element, such as adamw '
      f'(all but {", ".join(UNABLE)}), or set optimizer.shard_state=False'
    )
  bound = [variable.path for variable in variables if variable.constraint is not None]
  if bound:
    raise ConfigError(
      f'optimizer.shard_state: {bound[0]} has a constraint, which looks at the whole variable: leave the constraint '
      'away, or set optimizer.shard_state=False'
    )


class Sharding:
  """The slices of a model's trainable variables. Made in the strategy's scope.

  Attributes:
    parameters: the model's, of which each replica has all, in the dtype in which they are computed with.
    masters: float32 [ceil(n / N)] on each replica, in the order of the parameters, under their paths.
    replicas: N.
    sizes: elements of a slice, per parameter.
    buckets: parameters that travel together: such of one dtype, as far as a bucket's size allows.
  """

  def __init__(self, model: keras.Model, *, replicas: int, first: int):
    """Args:
    model: built, with its first weights; their storage changes.
    replicas: N.
    first: the number of this process' first replica.
    """
    self.parameters: list[keras.Variable] = list(model.trainable_variables)
    self.replicas, self._first = replicas, first
    self.sizes = [math.ceil(math.prod(p.shape) / replicas) for p in self.parameters]
    self.masters = [self.variable(index) for index in range(len(self.parameters))]
    for index, parameter in enumerate(self.parameters):
      self.assign(self.masters[index], index, local(parameter).numpy())
    _shorten(model)
    self.buckets = self._buckets()

  def variable(self, index: int, name: str = '') -> keras.Variable:
    """Zeros, for a slice of parameter `index`, under its path if no other name is given."""
    *scopes, own = self.parameters[index].path.split('/')
    with contextlib.ExitStack() as stack:
      for scope in scopes if not name else ():
        stack.enter_context(keras.name_scope(scope))
      return keras.Variable(
        'zeros', shape=(self.sizes[index],), dtype='float32', trainable=False, aggregation='none',
        synchronization='on_read', name=name or own,
      )  # fmt: skip

  def _buckets(self) -> list[list[int]]:
    found: list[list[int]] = []
    for dtype in dict.fromkeys(stored(p).dtype for p in self.parameters):
      room = 0
      for index, parameter in enumerate(self.parameters):
        if stored(parameter).dtype == dtype:
          size = self.sizes[index] * self.replicas
          if size > room:
            found.append([])
            room = max(size, _BUCKET_ELEMENTS)
          found[-1].append(index)
          room -= size
    return found

  # -- in graphs: tensors of this replica ----------------------------------------------------------------------------

  def packed(self, wholes: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors of the parameters' shapes -> float32 [N, S] per bucket."""
    rows = [
      tf.reshape(tf.pad(tf.reshape(tf.cast(whole, tf.float32), [-1]), [[0, self._padding(index)]]), [self.replicas, -1])
      for index, whole in enumerate(wholes)
    ]
    return [tf.concat([rows[index] for index in bucket], 1) for bucket in self.buckets]

  def slices(self, buckets: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """[S] per bucket -> [ceil(n / N)] per parameter."""
    found: list[Any] = [None] * len(self.parameters)
    for bucket, together in zip(self.buckets, buckets, strict=True):
      for index, part in zip(bucket, tf.split(together, [self.sizes[i] for i in bucket]), strict=True):
        found[index] = part
    return found

  def joined(self, variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    """Slices of all parameters -> [S] per bucket, in the dtype in which the bucket's parameters are stored."""
    return [
      tf.cast(tf.concat([variables[i].value for i in bucket], 0), stored(self.parameters[bucket[0]]).dtype)
      for bucket in self.buckets
    ]

  def spread(self, gathered: Sequence[tf.Tensor]) -> None:
    """Assigns [N, S] per bucket to the parameters."""
    for bucket, together in zip(self.buckets, gathered, strict=True):
      for index, part in zip(bucket, tf.split(together, [self.sizes[i] for i in bucket], axis=1), strict=True):
        parameter = self.parameters[index]
        flat = tf.reshape(part, [-1])[: math.prod(parameter.shape)]
        parameter.assign(tf.reshape(flat, parameter.shape))

  # -- on the host: whole arrays -------------------------------------------------------------------------------------

  def assign(self, variable: keras.Variable, index: int, array: np.ndarray) -> None:
    """Gives each replica of this process its slice of an array of parameter `index`'s shape."""
    flat = np.pad(np.asarray(array, np.float32).reshape(-1), (0, self._padding(index)))
    rows = flat.reshape(self.replicas, -1)
    for place, component in enumerate(components(variable)):
      component.assign(tf.cast(rows[self._first + place], component.dtype))

  def cut(self, together: np.ndarray, bucket: Sequence[int]) -> Iterator[np.ndarray]:
    """[N, S] of a bucket -> an array of each of its parameters' shapes."""
    ends = np.cumsum([self.sizes[index] for index in bucket])[:-1]
    for index, part in zip(bucket, np.split(together, ends, axis=1), strict=True):
      shape = self.parameters[index].shape
      yield part.reshape(-1)[: math.prod(shape)].reshape(shape)

  def _padding(self, index: int) -> int:
    return self.sizes[index] * self.replicas - math.prod(self.parameters[index].shape)


def _shorten(model: keras.Model) -> None:
  """Keeps the parameters that their layers only use in a shorter dtype in that dtype; the masters are exact.

  What stays in float32: what a layer of float32 has, what is not cast before it is used (scales and offsets of
  normalisation), and what has a penalty on its size.
  """
  for layer in model._flatten_layers():
    compute = tf.as_dtype(layer.compute_dtype or 'float32')
    for parameter in layer._trainable_variables:
      if compute.size < 4 and parameter._autocast and parameter.regularizer is None:
        whole, value = stored(parameter), tf.cast(local(parameter), compute)
        # Keras goes on calling it float32: it is cast to that when it is read, and each use casts it back.
        parameter._value = tf.Variable(
          value, trainable=True, aggregation=tf.VariableAggregation.NONE, name=parameter.name
        )
        release(whole)


def release(variable: tf.Variable) -> None:
  """Gives the memory of a variable back, on all replicas of this process. It has no value after that.

  Without, it would be held as long as the process runs: TensorFlow keeps each gradient of tf.custom_gradient that was
  ever traced, with its graph (Keras traces a model when it builds it), and a graph has a hold on the variables in it.
  """
  for component in _components(variable):
    with tf.device(component.device):
      tf.raw_ops.AssignVariableOp(resource=component.handle, value=tf.zeros([0], component.dtype))


def components(variable: keras.Variable) -> tuple[tf.Variable, ...]:
  """A variable's copies on the replicas of this process; called outside of them."""
  return _components(stored(variable))


def _components(value: tf.Variable) -> tuple[tf.Variable, ...]:
  # Another strategy than the variable's own, such as the default one outside of its scope, would not take it apart.
  strategy = getattr(value, 'distribute_strategy', None) or tf.distribute.get_strategy()
  return strategy.experimental_local_results(value)


def local(variable: keras.Variable) -> tf.Variable:
  """The first of them."""
  return components(variable)[0]


@contextlib.contextmanager
def on_each_replica() -> Iterator[None]:
  """Variables that are made here are not mirrored: no strategy may take the replicas' copies to be the same."""

  def creator(following, **kwargs):
    kwargs.update(synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.NONE)
    return following(**kwargs)

  with tf.variable_creator_scope(creator):
    yield
