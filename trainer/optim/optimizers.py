"""Keras' optimizers, made to run on each replica's own copy of the weights, with gradients that are already reduced.

Keras sums the gradients over the replicas inside `apply`, after clipping them, and updates the weights in a
`merge_call`, which XLA cannot compile. Here the step reduces the gradients once, checks and clips the sum, and then
each replica applies the same update to its own copy: same numbers in, same instructions, same bits out.
`ReplicaLocal` is all that this takes; it replaces a few private methods of Keras' TensorFlow optimizer, and
tests/optim/test_optimizers.py holds each optimizer against Keras' own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import named, nearest
from trainer.optim import rounding, schedules, sharding

# What the harness does itself, after the reduction, and so must not be done a second time by Keras.
_OURS = {
  'learning_rate': 'optimizer.learning_rate',
  'weight_decay': 'optimizer.weight_decay',
  'clipnorm': 'optimizer.clip_norm',
  'global_clipnorm': 'optimizer.clip_norm',
  'clipvalue': 'optimizer.clip_norm',
  'use_ema': 'optimizer.ema_decay',
  'ema_momentum': 'optimizer.ema_decay',
  'ema_overwrite_frequency': 'optimizer.ema_decay',
  'loss_scale_factor': "precision.policy='mixed_float16'",
  'gradient_accumulation_steps': 'train.micro_batches',
  'name': '',
  'kwargs': '',
}
_WRAPPERS = ('Optimizer', 'LossScaleOptimizer', 'MultiOptimizer')


class ReplicaLocal(keras.optimizers.Optimizer):
  """Mixed in behind a Keras optimizer: updates the calling replica's variables, and reduces nothing."""

  _rate: tf.Tensor | None = None
  _done: tf.Tensor | None = None

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.slots: dict[int, int] = {}  # id of a variable that is like a trainable one -> which one that is
    self.moment_dtype = 'float32'
    # Keras' counter takes the first replica's value by a collective; ours is counted on each replica alike.
    self._untrack_variable(self._iterations)
    self._iterations: keras.Variable = keras.Variable(
      0, dtype='int64', aggregation='none', trainable=False, name='iterations'
    )

  def apply_at(self, rate: tf.Tensor, gradients: list[tf.Tensor]) -> None:
    """`apply` at a learning rate that is already computed: Keras would evaluate the schedule again at each use.

    The count of steps is read once too: Keras reads it for each variable, and TensorFlow merges neither the reads nor
    what is computed of them, as Adam's corrections, which were 3 % of a step of .3 ms.
    """
    self._rate, self._done = rate, tf.convert_to_tensor(self._iterations.value)
    try:
      self.apply(gradients)
    finally:
      self._rate = self._done = None

  @property
  def iterations(self):
    return super().iterations if self._done is None else self._done

  def add_variable_from_reference(self, reference_variable, name=None, initializer='zeros'):
    is_slice = getattr(reference_variable, 'synchronization', '') == 'on_read'
    with sharding.on_each_replica() if is_slice else contextlib.nullcontext():
      if self.moment_dtype == 'float32':
        made = super().add_variable_from_reference(reference_variable, name, initializer)
      else:
        made = self._rounded(reference_variable, f'{reference_variable.path.replace("/", "_")}_{name}', initializer)
    self.slots[id(made)] = self._get_variable_index(reference_variable)
    return made

  def _rounded(self, reference: keras.Variable, name: str, initializer: Any) -> keras.Variable:
    with keras.name_scope(self.name, caller=self):
      made = rounding.Rounded(
        keras.initializers.get(initializer), reference.shape, name=name, clock=self._iterations, number=len(self.slots)
      )
    self._track_variable(made)
    return made

  def assign(self, variable, value):
    if isinstance(variable, rounding.Rounded):
      variable.assign(value)
    else:
      super().assign(variable, value)

  def assign_add(self, variable, value):
    if isinstance(variable, rounding.Rounded):
      variable.assign(variable.value + value)
    else:
      super().assign_add(variable, value)

  def assign_sub(self, variable, value):
    if isinstance(variable, rounding.Rounded):
      variable.assign(variable.value - value)
    else:
      super().assign_sub(variable, value)

  def _get_current_learning_rate(self):
    return super()._get_current_learning_rate() if self._rate is None else self._rate

  def _apply_weight_decay(self, variables):
    if not self.weight_decay:
      return
    rate = self.learning_rate * self.weight_decay
    for variable in variables:
      if self._use_weight_decay(variable):
        self.assign_sub(variable, variable * keras.ops.cast(rate, variable.dtype))

  def _backend_update_step(self, grads, trainable_variables, learning_rate):
    for gradient, variable in zip(grads, trainable_variables, strict=True):
      self.update_step(gradient, variable, learning_rate)


@functools.cache
def table() -> dict[str, type[keras.optimizers.Optimizer]]:
  """Keras' optimizers by lower-case name."""
  classes = vars(keras.optimizers).values()
  return {
    cls.__name__.lower(): cls
    for cls in classes
    if inspect.isclass(cls) and issubclass(cls, keras.optimizers.Optimizer) and cls.__name__ not in _WRAPPERS
  }


check_name = named('an optimizer', table())  # the rule of `optimizer.name`


def check_options(text: str) -> str:
  """The rule of `optimizer.options`, as far as it holds for every optimizer."""
  if not text:
    return ''
  try:
    options = json.loads(text)
  except json.JSONDecodeError as error:
    return f'is not JSON: {error}'
  if not isinstance(options, dict):
    return 'must be a JSON object'
  taken = [name for name in options if name in _OURS]
  return f'has {taken[0]!r}, which the harness does itself: use {_OURS[taken[0]] or "no such option"}' if taken else ''


def arguments(config) -> dict[str, Any]:
  """The parsed `optimizer.options`.

  Raises:
    ConfigError: the optimizer has no such argument; the message names the nearest.
  """
  options = json.loads(config.options or '{}')
  known = [name for name in inspect.signature(table()[config.name].__init__).parameters if name not in _OURS]
  known.remove('self')
  for name in options:
    if name not in known:
      raise ConfigError(
        f'optimizer.options has {name!r}, which {config.name} does not take{nearest(name, known)} '
        f'Known: {", ".join(known)}'
      )
  return options


def create(
  config, total_steps: int, variables: list[keras.Variable], masters: list[keras.Variable] | None = None
) -> keras.optimizers.Optimizer:
  """The optimizer of the config's `optimizer` section, built for `variables`. Call it in the strategy's scope.

  Its `apply_at(rate, gradients)` must be given gradients that are already summed over the replicas, in replica
  context; it does not clip, scale, average or accumulate. Weight decay is decoupled (Loshchilov and Hutter, 2019,
  section 2: times the learning rate) and spares variables of rank 0 and 1 (biases, norms), unless `decay_all`.

  Args:
    config: the section.
    total_steps: of the run, for the schedule.
    variables: the model's trainable ones.
    masters: what it updates in their place, one for each (sharding.py); None: themselves.

  Raises:
    ConfigError: an argument in `options` is unknown, or its value is refused by Keras.
  """
  kind = table()[config.name]
  local = type(kind.__name__, (kind, ReplicaLocal), {})
  kwargs = {'weight_decay': config.weight_decay, **arguments(config)}
  if 'adam_weight_decay' in inspect.signature(kind.__init__).parameters:
    kwargs.setdefault('adam_weight_decay', config.weight_decay)  # Muon's, for what is not a matrix
  try:
    optimizer = local(learning_rate=schedules.create(config, total_steps), name=config.name, **kwargs)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'optimizer.options={config.options!r}: {str(error).splitlines()[0]}') from error
  optimizer.moment_dtype = config.moment_dtype
  if not config.decay_all:
    pairs = zip(variables, masters or variables, strict=True)
    optimizer.exclude_from_weight_decay(var_list=[updated for v, updated in pairs if len(v.shape) < 2])
  optimizer.build(masters or variables)
  return optimizer


def learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
  """The rate that the next update takes, a float32 scalar; in graph or eager, on the calling replica."""
  return tf.cast(optimizer.learning_rate, tf.float32)
