"""The course of the learning rate: a linear warm-up, then one of Keras' schedules."""

from __future__ import annotations

from typing import Any

import keras

from trainer.errors import ConfigError

NAMES = ('constant', 'cosine', 'polynomial', 'exponential', 'inverse_time', 'piecewise', 'cosine_restarts')


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
  """Linear rise to `peak` over `steps` steps, then `after` on the steps counted from the end of the warm-up.

  Step i of the warm-up (from 0) takes peak * (i + 1) / steps, so that no step is spent at a rate of 0.
  """

  def __init__(self, peak: float, steps: int, after: keras.optimizers.schedules.LearningRateSchedule):
    self.peak, self.steps, self.after = peak, steps, after

  def __call__(self, step):
    """The learning rate, a float32 scalar, of an integer `step` counted from 0."""
    step = keras.ops.cast(step, 'float32')
    rise = self.peak * (step + 1.0) / max(self.steps, 1)
    return keras.ops.where(step < self.steps, rise, self.after(keras.ops.maximum(step - self.steps, 0.0)))

  def get_config(self) -> dict[str, Any]:
    return {
      'peak': self.peak,
      'steps': self.steps,
      'after': keras.optimizers.schedules.serialize(self.after),
    }

  @classmethod
  def from_config(cls, config: dict[str, Any]) -> Warmup:
    return cls(config['peak'], config['steps'], keras.optimizers.schedules.deserialize(config['after']))


class Constant(keras.optimizers.schedules.LearningRateSchedule):
  """The same rate at each step; Keras has no schedule of that kind."""

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(self, step):
    return keras.ops.convert_to_tensor(self.rate, 'float32')

  def get_config(self) -> dict[str, Any]:
    return {'rate': self.rate}


def check(config) -> None:
  """The rules across the schedule's fields.

  Raises:
    ConfigError: the boundaries of a piecewise schedule are missing, or not rising.
  """
  boundaries = tuple(config.boundaries)
  if config.schedule == 'piecewise' and not boundaries:
    raise ConfigError("optimizer.boundaries is empty: optimizer.schedule='piecewise' needs the steps of its drops")
  if any(not isinstance(step, int) or step < 1 for step in boundaries):
    raise ConfigError(f'optimizer.boundaries={boundaries} must be steps: whole numbers from 1 on')
  if list(boundaries) != sorted(set(boundaries)):
    raise ConfigError(f'optimizer.boundaries={boundaries} must rise')


def create(config, total_steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
  """The schedule of the config's `optimizer` section for a run of `total_steps` steps."""
  peak = float(config.learning_rate)
  steps = config.decay_steps or max(total_steps - config.warmup_steps, 1)
  schedules = keras.optimizers.schedules
  match config.schedule:
    case 'constant':
      after = Constant(peak)
    case 'cosine':
      after = schedules.CosineDecay(peak, steps, alpha=config.end_factor)
    case 'polynomial':
      after = schedules.PolynomialDecay(peak, steps, end_learning_rate=peak * config.end_factor, power=config.power)
    case 'exponential':
      after = schedules.ExponentialDecay(peak, steps, config.decay_rate)
    case 'inverse_time':
      after = schedules.InverseTimeDecay(peak, steps, config.decay_rate)
    case 'cosine_restarts':
      after = schedules.CosineDecayRestarts(peak, steps, alpha=config.end_factor)
    case 'piecewise':
      # The boundaries count from the first step of the run; the schedule starts after the warm-up. A drop that lies
      # inside the warm-up has already happened when the schedule starts.
      boundaries = [max(step - config.warmup_steps, 0) for step in config.boundaries]
      rates = [peak * config.decay_rate**drops for drops in range(len(boundaries) + 1)]
      # Keras changes the rate after a boundary, we at it: the step named is the first at the new rate.
      after = schedules.PiecewiseConstantDecay([float(step) - 0.5 for step in boundaries], rates)
    case other:
      raise AssertionError(f'{other!r} passed the rule of optimizer.schedule')
  return Warmup(peak, config.warmup_steps, after)
