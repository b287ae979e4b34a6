"""Whether each point of a sweep can run, before the first one does; and what it would run with.

A point goes through what the trainer's own command line goes through, so that what is accepted here is accepted there.
Then the task and the model of each kind of point are built, on one CPU and made-up examples as for --mode=plan: a width
that the heads do not divide is found now.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from trainer import config as config_lib
from trainer import main
from trainer.errors import ConfigError
from trainer.fields import nearest
from trainer.runtime import cluster
from trainer.train import session as session_lib
from trainer.tune import record, space
from trainer.tune.space import Overrides

# Sections that do not change what a point learns; a sweep may go on with others.
_HARMLESS = ('benchmark', 'checkpoint', 'diagnose', 'faults', 'profile', 'storage')
_HARMLESS_FIELDS = ('data.data_dir', 'data.memory_budget_bytes', 'train.pause_at_step', 'train.steps_per_loop')
# Flags of the trainer that a sweep gives itself.
_OWN = ('config', 'workdir', 'mode', 'checkpoint', 'target', 'search')


@dataclasses.dataclass(frozen=True)
class Checked:
  """What is known of a sweep before anything runs.

  Attributes:
    base: the config without overrides, by path, as JSON gives it back.
    points: the overrides, with values of the types of their fields.
    metric, mode: what points are compared by, and 'max' or 'min'.
    steps: the largest train.steps of a point.
    eval_every: eval.every_steps of all points; None where they differ, or where train.steps does.
  """

  base: dict[str, Any]
  points: list[Overrides]
  metric: str
  mode: str
  steps: int
  eval_every: int | None


class Checker:
  """Checks the points of one config.

  Args:
    config_flag: the value of --config.
    flags: further flags of the trainer, the same for each point.
    metric: what points are compared by; '': what the config says.
    mode: 'max' or 'min'; '': the metric's own.

  Raises:
    ConfigError: the config or the flags are wrong as they are.
  """

  def __init__(self, config_flag: str, flags: Sequence[str], metric: str = '', mode: str = ''):
    self._config_flag, self._flags = config_flag, list(flags)
    for flag in flags:
      name = flag.lstrip('-').partition('=')[0]
      if name in _OWN:
        raise ConfigError(f"{flag!r} behind '--' is the sweep's to give: leave it out")
      if name == 'config.train.pause_at_step':
        raise ConfigError(f"{flag!r} behind '--' is for --halving to set: leave it out")
      if not flag.startswith('--') or '=' not in flag:
        raise ConfigError(f"{flag!r} behind '--' must be as in --config.train.steps=500")
    self.base = self._parse({})
    self._given = {flag.lstrip('-').partition('=')[0].removeprefix('config.') for flag in flags}
    self._metric, self._mode = metric, mode
    self._built: dict[str, tuple[str, str]] = {}  # kind of point -> its metric and mode

  def check(self, points: Sequence[Mapping[str, Any]]) -> Checked:
    """Checks all points of a sweep.

    Raises:
      ConfigError: some cannot run; all of them are named.
    """
    configs: list[ml_collections.ConfigDict] = []
    complaints: dict[str, list[int]] = {}
    typed: list[Overrides] = []
    metrics: dict[tuple[str, str], int] = {}
    first: dict[str, int] = {}
    for number, point in enumerate(points):
      try:
        config = self._config(point)
        typed.append(_typed(point, config))
        if (same := first.setdefault(record.key(typed[-1]), number)) != number:
          raise ConfigError(f'is the same as point {same}')
        metrics.setdefault(self._compared_by(config), number)
        configs.append(config)
      except ConfigError as error:
        complaints.setdefault(str(error), []).append(number)
    if complaints:
      raise ConfigError(_all(complaints, points))
    if len(metrics) > 1:
      each = ' and '.join(f'{name} ({mode}) of point {number}' for (name, mode), number in metrics.items())
      raise ConfigError(f'points cannot be compared: {each} differ; name one with --metric')
    ((metric, mode),) = metrics
    steps = {config.train.steps for config in configs}
    every = {config.eval.every_steps for config in configs}
    return Checked(
      base=_flat(self.base),
      points=typed,
      metric=metric,
      mode=mode,
      steps=max(steps),
      eval_every=every.pop() if len(every) == len(steps) == 1 else None,
    )

  def one(self, point: Mapping[str, Any]) -> Overrides:
    """Checks a point that was drawn while the sweep is under way; returns it with values of its fields' types.

    Raises:
      ConfigError: it cannot run.
    """
    config = self._config(point)
    self._compared_by(config)
    return _typed(point, config)

  def _config(self, point: Mapping[str, Any]) -> ml_collections.ConfigDict:
    twice = sorted(self._given & set(point))
    if twice:
      raise ConfigError(f"{twice[0]} is swept, and set behind '--' too: leave out one of them")
    if 'train.pause_at_step' in point:
      raise ConfigError('train.pause_at_step is for --halving to set: leave it out of the sweep')
    if not point.keys() & {'model.name', 'task.name'}:  # which have fields of their own
      known = _flat(self.base)
      for path in point.keys() - known.keys():
        raise ConfigError(f'unknown config field {path!r}{nearest(path, known)}')
    return self._parse(point)

  def _parse(self, point: Mapping[str, Any]) -> ml_collections.ConfigDict:
    argv = [f'--config={self._config_flag}', '--workdir=unused', *self._flags, *record.as_flags(point)]
    return main.parse(['trainer', *argv]).config

  def _compared_by(self, config: ml_collections.ConfigDict) -> tuple[str, str]:
    """The metric of a point and its direction, from its task, built once for each kind of point.

    Points that differ in the optimizer, the course of training, or a float (dropout, smoothing) are of one kind.
    """
    relevant = {
      path: value
      for path, value in _flat(config).items()
      if path.partition('.')[0] in ('model', 'task', 'data', 'eval', 'precision') and not isinstance(value, float)
    }
    kind = json.dumps(relevant | {'train.global_batch_size': config.train.global_batch_size}, sort_keys=True)
    if kind not in self._built:
      self._built[kind] = self._build(config)
    return self._built[kind]

  def _build(self, config: ml_collections.ConfigDict) -> tuple[str, str]:
    planned = config_lib.alone(config, made_up=True)
    # The runs have the accelerators to themselves.
    tf.config.set_visible_devices([], 'GPU')
    try:
      with tf.device('CPU:0'):
        session = session_lib.build(planned, cluster.Cluster('one', 'a sweep', 'cpu', 1))
      task, name, mode = session.task, session.best_metric, session.best_mode
      session.state.release()
    finally:
      keras.backend.clear_session()
      gc.collect()
    if self._metric:
      known = ('loss', *task.metric_names)
      if self._metric not in known:
        raise ConfigError(
          f'--metric={self._metric} is not measured{nearest(self._metric, known)} Measured: {", ".join(known)}'
        )
      if self._metric != name:
        name, mode = self._metric, task.mode(self._metric)
    if not name:
      raise ConfigError("eval.best_metric='' leaves nothing to compare points by: name a metric with --metric")
    mode = self._mode or mode
    if not mode:
      raise ConfigError(f'whether more or less of {name!r} is better is not known: add --best=max or --best=min')
    return name, mode


def swept(config_flag: str) -> space.Points | space.Space | None:
  """What the `sweep()` of a config file returns; None if it has none.

  Raises:
    ConfigError: there is no such file, or it raises; or what it returns is no sweep.
  """
  path = config_flag.rpartition('.py')[0] + '.py' if '.py' in config_flag else config_flag
  if '://' in path:
    return None
  spec = importlib.util.spec_from_file_location('swept_config', os.path.abspath(path))
  if spec is None or spec.loader is None:
    raise ConfigError(f'--config={config_flag} is no Python file: name a config file, e.g. configs/digits_mlp.py')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    found = module.sweep() if hasattr(module, 'sweep') else None
  except ConfigError as error:
    raise ConfigError(f'sweep() of {path}: {error}') from error
  # Whatever a config file raises is its own.
  except Exception as error:
    raise ConfigError(f'--config={config_flag} cannot be used: {type(error).__name__}: {error}') from error
  if found is None:
    return None
  try:
    return space.of(found)
  except ConfigError as error:
    raise ConfigError(f'sweep() of {path}: {error}') from error


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """The fields in which two configs, by path, differ so that their runs cannot be compared, each in words."""
  different = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
  return [
    f'{path} was {before.get(path)!r} and is now {now.get(path)!r}'
    for path in different
    if path.partition('.')[0] not in _HARMLESS and path not in _HARMLESS_FIELDS
  ]


def _typed(point: Mapping[str, Any], config: ml_collections.ConfigDict) -> Overrides:
  flat = _flat(config)
  return {path: flat[path] for path in point}


def _flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
  return json.loads(json.dumps(config_lib.flatten(config)))


def _all(complaints: Mapping[str, list[int]], points: Sequence[Mapping[str, Any]]) -> str:
  said = []
  for complaint, numbers in complaints.items():
    who = f'point {numbers[0]} ({record.words(points[numbers[0]])})'
    if len(numbers) > 1:
      who = f'points {_list(numbers)}'
    said.append(f'{who}: {complaint}')
  return f'{sum(map(len, complaints.values()))} of {len(points)} points cannot run: {"; ".join(said)}'


def _list(numbers: Iterable[int]) -> str:
  return ', '.join(map(str, numbers))
