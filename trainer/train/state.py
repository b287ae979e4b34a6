"""Everything that must survive a kill, as one object: variables by name, and the little that lives on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.optim.rounding import Rounded, stored
from trainer.optim.sharding import Sharding, components, release
from trainer.train.collectives import Slices

_SPIKE = ('mean', 'variance', 'count')


@dataclasses.dataclass
class Progress:
  """The host's share of the state; JSON-able, and exact when read back.

  Attributes:
    step: optimizer steps done, skipped ones included; (step + skipped_batches) x batch size is the data position.
    evaluated_step: the step of the last evaluation; -1: none yet.
    best_step, best_value: the best evaluation so far; -1: none yet.
    overflowed_steps: steps that were not applied because the loss scale was too large.
    skipped_steps: steps that were not applied because they were not finite or a spike (train.on_nonfinite, on_spike).
    rollbacks: times that the run went back to a checkpoint.
    skipped_batches: global batches that were left out by that: step s is trained on batch s + skipped_batches.
    window: sums of the step's row (trainer/train/step.py) since the last row of metrics, and how many steps they hold.
  """

  step: int = 0
  evaluated_step: int = -1
  best_step: int = -1
  best_value: float = 0.0
  overflowed_steps: int = 0
  skipped_steps: int = 0
  rollbacks: int = 0
  skipped_batches: int = 0
  window: list[float] = dataclasses.field(default_factory=list)
  window_steps: int = 0


class TrainState:
  """The model, the optimizer, the average of the weights, the loss scale and the progress of one run.

  Built in the strategy's scope. Variables are named 'model/PATH', 'optimizer/PATH', 'ema/PATH', 'loss_scale/...' and
  'spike/...' (running mean and variance of the loss, over how many steps, for train.spike_deviations); the names do not
  depend on the process or the topology. The states of Keras' seed generators are left out: the step sets them from
  (seed, step, replica) each time.
  """

  def __init__(
    self,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    ema: bool,
    loss_scale: float,
    ema_dtype: str = 'float32',
    sharding: Sharding | None = None,
  ):
    """Args:
    model: built.
    optimizer: built for the model's trainable variables, or for the masters of the sharding.
    ema: whether to keep an exponential moving average of the trainable variables.
    loss_scale: first loss scale; 1.0 where none is needed.
    ema_dtype: in which the average is kept.
    sharding: where each replica has only a slice of what is kept beside the weights.
    """
    self.model, self.optimizer, self.sharding, self.progress = model, optimizer, sharding, Progress()
    self.trainable: list[keras.Variable] = model.trainable_variables
    # What the optimizer updates.
    self.masters = sharding.masters if sharding else self.trainable
    self.ema = [self._average(index, ema_dtype) for index in range(len(self.trainable))] if ema else []
    self.loss_scale = _variable(loss_scale, 'loss_scale')
    self.good_steps = _variable(0, 'good_steps', dtype='int32')
    self.spike = [_variable(0.0, f'spike_{name}') for name in _SPIKE]
    self.variables: dict[str, keras.Variable] = {}
    places = {id(variable): index for index, variable in enumerate(self.trainable)}
    weights = [self.masters[places[id(v)]] if id(v) in places else v for v in model.weights]
    self._add('model', weights, [v.path for v in model.weights])
    self._add('optimizer', optimizer.variables, _stable_names(optimizer.variables))
    self._add('ema', self.ema, [v.path for v in self.trainable])
    self._add('loss_scale', [self.loss_scale, self.good_steps], ['scale', 'good_steps'])
    self._add('spike', self.spike, list(_SPIKE))
    # Of those that are slices: of which trainable variable.
    slices = dict(optimizer.slots) if sharding else {}
    for sliced in (self.masters, self.ema) if sharding else ():
      slices |= {id(variable): index for index, variable in enumerate(sliced)}
    self._slices = {name: slices[id(v)] for name, v in self.variables.items() if id(v) in slices}
    self._travel = Slices(tf.distribute.get_strategy(), sharding) if sharding else None

  def _average(self, index: int, dtype: str) -> keras.Variable:
    parameter, master = self.trainable[index], self.masters[index]
    name, on_read = f'ema_{parameter.name}', {'synchronization': 'on_read'} if self.sharding else {}
    if dtype == 'float32':
      average = keras.Variable('zeros', shape=master.shape, dtype=dtype, trainable=False, name=name, **on_read)
    else:
      # Numbers behind those of the optimizer's variables.
      number = len(self.optimizer.variables) + index
      average = Rounded('zeros', master.shape, name=name, clock=self.optimizer.iterations, number=number, **on_read)
    for own, weight in zip(components(average), components(master), strict=True):
      own.assign(tf.cast(weight, own.dtype))
    return average

  def _add(self, prefix: str, variables: list[keras.Variable], names: list[str]) -> None:
    for name, variable in zip(names, variables, strict=False):
      key = f'{prefix}/{name}'
      if key in self.variables:
        raise ValueError(f'two variables are named {key!r}: give each layer of the model a name of its own')
      self.variables[key] = variable

  def expected(self) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of each variable as a whole, to hold a checkpoint against."""
    return {name: (tuple(self._whole(name).shape), stored(v).dtype.name) for name, v in self.variables.items()}

  def _whole(self, name: str) -> keras.Variable:
    """A variable of the shape that this one has as a whole."""
    return self.trainable[self._slices[name]] if name in self._slices else self.variables[name]

  def held_bytes(self) -> dict[str, int]:
    """Bytes that one replica holds from step to step: of the 'weights' and of what is kept beside them."""
    held = {'weights': 0, 'masters': 0, 'optimizer': 0, 'ema': 0, 'other': 0}
    for name, variable in self.variables.items():
      part = name.partition('/')[0]
      part = ('masters' if name in self._slices else 'weights') if part == 'model' else part
      held[part if part in held else 'other'] += _bytes(variable)
    if self.sharding:
      held['weights'] += sum(_bytes(variable) for variable in self.trainable)
    return held

  def release(self) -> None:
    """Gives the memory of all of it back, the model's weights too; nothing of it has a value after that."""
    for variable in {id(v): v for v in (*self.model.weights, *self.variables.values())}.values():
      release(stored(variable))

  @functools.cached_property
  def sizes(self) -> dict[str, int]:
    """Name -> bytes of each variable as a whole."""
    return {name: math.prod(shape) * tf.as_dtype(dtype).size for name, (shape, dtype) in self.expected().items()}

  def snapshot(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Name -> value of those variables, as they are now. All processes of a run take one together.

    Args:
      names: that this process wants, None: all; of the others it only gives what other processes gather.

    On a CPU the arrays alias TensorFlow's buffers, which are copied on the next write, so this takes milliseconds and
    the values stay as they are; from an accelerator it is the copy to the host. What is in slices is gathered from all
    replicas first, a bucket at a time. Do not write to the arrays.
    """
    names = self.variables.keys() if names is None else names
    wholes = self._wholes(names)
    return {
      name: wholes[name] if name in wholes else _alias(variable)
      for name, variable in self.variables.items()
      if name in names
    }

  def _wholes(self, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Name -> value of what is wanted and in slices; slices of all parameters, such as their momenta, at a time."""
    if not self._travel:
      return {}
    kinds: dict[int, list[str]] = {}  # the how many-th slice of its parameter -> names, in the parameters' order
    seen: dict[int, int] = {}
    for name, index in sorted(self._slices.items(), key=lambda item: item[1]):
      seen[index] = seen.get(index, -1) + 1
      kinds.setdefault(seen[index], []).append(name)
    found: dict[str, np.ndarray] = {}
    for names in kinds.values():
      slices = [self.variables[name] for name in names]
      found.update(self._travel.wholes(slices, {place: name for place, name in enumerate(names) if name in wanted}))
    return found

  def restore(self, arrays: dict[str, np.ndarray]) -> None:
    """Assigns each variable, on every replica of this process. The names, shapes and dtypes must have been checked."""
    for name in self.variables:
      self.assign(name, arrays[name])
    self.publish(self.masters)

  def assign(self, name: str, array: np.ndarray) -> None:
    """Assigns one of `variables` as a whole. Of weights that are in slices, `publish` tells the model."""
    if name in self._slices:
      assert self.sharding
      self.sharding.assign(self.variables[name], self._slices[name], array)
    else:
      self.variables[name].assign(array)

  def publish(self, slices: list[keras.Variable]) -> None:
    """Puts the masters, or their averages, into the model's weights on every replica, where these are in slices."""
    if self._travel:
      self._travel.publish(slices)

  @contextlib.contextmanager
  def averaged(self) -> Iterator[None]:
    """Within, `evaluated` are the averaged weights, where the run keeps them."""
    if not (self.sharding and self.ema):
      yield
      return
    self.publish(self.ema)
    try:
      yield
    finally:
      self.publish(self.masters)

  @property
  def evaluated(self) -> list[keras.Variable]:
    """The weights that an evaluation is of, within `averaged`."""
    return self.ema if self.ema and not self.sharding else self.trainable

  def host(self) -> dict[str, Any]:
    """The progress as a dict for the checkpoint."""
    return dataclasses.asdict(self.progress)

  def restore_host(self, host: dict[str, Any]) -> None:
    self.progress = Progress(**host)


def as_computed(variable: keras.Variable) -> tf.Tensor:
  """The value in the dtype that Keras says; weights beside their masters are stored in a shorter one."""
  return tf.cast(variable.value, variable.dtype)


def _bytes(variable: keras.Variable) -> int:
  """Of one replica's copy."""
  return int(stored(variable).shape.num_elements()) * stored(variable).dtype.size


def _variable(value, name: str, dtype: str = 'float32') -> keras.Variable:
  """A variable that each replica updates alike, like Keras' own."""
  return keras.Variable(value, dtype=dtype, trainable=False, aggregation='none', name=name)


def _alias(variable: keras.Variable) -> np.ndarray:
  """The value of this process's first copy, without copying it where it is in host memory."""
  local = components(variable)[0]
  # Half the time of read_value(), which is Python around the same op.
  return np.asarray(tf.raw_ops.ReadVariableOp(resource=local.handle, dtype=local.dtype)._numpy())


def _stable_names(variables: list[keras.Variable]) -> list[str]:
  """Paths of an optimizer's variables, made unique and independent of what the process built before.

  Keras numbers variables that have no name of their own ('variable_7': Nadam's), and gives some the same path
  (Adafactor's factors); the order in which an optimizer builds them is always the same.
  """
  seen: dict[str, int] = {}
  names = []
  for variable in variables:
    path = re.sub(r'(^|/)variable_\d+$', r'\1variable', variable.path)
    seen[path] = seen.get(path, 0) + 1
    names.append(path if seen[path] == 1 else f'{path}.{seen[path]}')
  return names
