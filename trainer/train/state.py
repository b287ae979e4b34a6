"""Everything that must survive a kill, as one object: variables by name, and the little that lives on the host."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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

  def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, *, ema: bool, loss_scale: float):
    """Args:
    model: built.
    optimizer: built for the model's trainable variables.
    ema: whether to keep an exponential moving average of the trainable variables.
    loss_scale: first loss scale; 1.0 where none is needed.
    """
    self.model, self.optimizer, self.progress = model, optimizer, Progress()
    self.trainable: list[keras.Variable] = model.trainable_variables
    # Given a tf.Variable, Keras would make no other, but take that for the average itself.
    self.ema = [_variable(_alias(v).copy(), f'ema_{v.name}') for v in self.trainable] if ema else []
    self.loss_scale = _variable(loss_scale, 'loss_scale')
    self.good_steps = _variable(0, 'good_steps', dtype='int32')
    self.spike = [_variable(0.0, f'spike_{name}') for name in _SPIKE]
    self.variables: dict[str, keras.Variable] = {}
    self._add('model', model.weights, [v.path for v in model.weights])
    self._add('optimizer', optimizer.variables, _stable_names(optimizer.variables))
    self._add('ema', self.ema, [v.path for v in self.trainable])
    self._add('loss_scale', [self.loss_scale, self.good_steps], ['scale', 'good_steps'])
    self._add('spike', self.spike, list(_SPIKE))

  def _add(self, prefix: str, variables: list[keras.Variable], names: list[str]) -> None:
    for name, variable in zip(names, variables, strict=False):
      key = f'{prefix}/{name}'
      if key in self.variables:
        raise ValueError(f'two variables are named {key!r}: give each layer of the model a name of its own')
      self.variables[key] = variable

  def expected(self) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of each variable, to hold a checkpoint against."""
    return {name: (tuple(v.shape), str(v.dtype)) for name, v in self.variables.items()}

  def snapshot(self) -> dict[str, np.ndarray]:
    """Name -> value of each variable, as they are now.

    On a CPU the arrays alias TensorFlow's buffers, which are copied on the next write, so this takes milliseconds and
    the values stay as they are; from an accelerator it is the copy to the host. Do not write to the arrays.
    """
    return {name: _alias(v) for name, v in self.variables.items()}

  def restore(self, arrays: dict[str, np.ndarray]) -> None:
    """Assigns each variable, on every replica of this process. The names, shapes and dtypes must have been checked."""
    for name, variable in self.variables.items():
      variable.assign(arrays[name])

  def host(self) -> dict[str, Any]:
    """The progress as a dict for the checkpoint."""
    return dataclasses.asdict(self.progress)

  def restore_host(self, host: dict[str, Any]) -> None:
    self.progress = Progress(**host)


def _variable(value, name: str, dtype: str = 'float32') -> keras.Variable:
  """A variable that each replica updates alike, like Keras' own."""
  return keras.Variable(value, dtype=dtype, trainable=False, aggregation='none', name=name)


def _alias(variable: keras.Variable) -> np.ndarray:
  """The value of this process's first copy, without copying it where it is in host memory."""
  local = tf.distribute.get_strategy().experimental_local_results(variable.value)[0]
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
