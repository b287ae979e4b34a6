"""Keras' losses and metrics by name, in snake_case or CamelCase, and made with arguments from the config."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import keras

from trainer.errors import ConfigError
from trainer.fields import nearest

_LOSS_ALIASES = {
  'mse': 'mean_squared_error',
  'mae': 'mean_absolute_error',
  'mape': 'mean_absolute_percentage_error',
  'msle': 'mean_squared_logarithmic_error',
  'bce': 'binary_crossentropy',
  'kld': 'kl_divergence',
}
_METRIC_ALIASES = {**_LOSS_ALIASES, 'rmse': 'root_mean_squared_error', 'r2': 'r2_score', 'f1': 'f1_score'}


def _bare(name: str) -> str:
  """The name without what differs between its spellings."""
  return re.sub('[^a-z0-9]', '', name.lower())


def snake(class_name: str) -> str:
  """'MeanSquaredError' -> 'mean_squared_error', 'BinaryIoU' -> 'binary_iou', 'R2Score' -> 'r2_score'."""
  words = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', class_name.replace('IoU', 'Iou'))
  return re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', words).lower()


def _classes(module: ModuleType, base: type, not_for_use: tuple[str, ...]) -> dict[str, type]:
  found = inspect.getmembers(module, lambda member: inspect.isclass(member) and issubclass(member, base))
  return {snake(name): cls for name, cls in found if name not in not_for_use}


@functools.cache
def losses() -> dict[str, type[keras.losses.Loss]]:
  """Keras' losses by snake_case name."""
  return _classes(keras.losses, keras.losses.Loss, ('Loss',))


@functools.cache
def metrics() -> dict[str, type[keras.metrics.Metric]]:
  """Keras' metrics of targets and predictions by snake_case name; `Mean` and `Sum` take neither."""
  return _classes(keras.metrics, keras.metrics.Metric, ('Metric', 'Mean', 'Sum', 'MeanMetricWrapper'))


def loss_name(name: str) -> str:
  """The snake_case name of the loss that `name` spells, or '' when there is none."""
  return _resolve(name, losses(), _LOSS_ALIASES)


def metric_name(name: str) -> str:
  """The snake_case name of the metric that `name` spells, or '' when there is none."""
  return _resolve(name, metrics(), _METRIC_ALIASES)


def shown_name(name: str) -> str:
  """The name under which a metric is reported: the alias where the config has one ('rmse'), else in snake_case."""
  alias = name.lower()
  return alias if alias in _METRIC_ALIASES else metric_name(name)


def _resolve(name: str, table: Mapping[str, type], aliases: Mapping[str, str]) -> str:
  bare = {_bare(known): known for known in table}
  return bare.get(_bare(name), '') or aliases.get(name.lower(), '')


def check_loss(name: str, fitting: tuple[str, ...], task: str) -> str:
  """What is wrong with the name of a loss, given those that fit a task; '' when nothing is."""
  found = loss_name(name)
  if found in fitting:
    return ''
  if found:
    return f'does not fit {task} Known: {", ".join(fitting)}'
  return f'is not a Keras loss{nearest(name.lower(), fitting)} Known: {", ".join(fitting)}'


def check_metric(name: Any, fitting: tuple[str, ...], task: str) -> str:
  """What is wrong with the name of a metric, given those that fit a task; '' when nothing is."""
  if not isinstance(name, str):
    return f'has {name!r}, which is not a name'
  found = metric_name(name)
  if found in fitting:
    return ''
  if found:
    return f'has {name!r}, which does not fit {task} Known: {", ".join(fitting)}'
  near = nearest(name.lower(), (*fitting, *_METRIC_ALIASES))
  return f'has {name!r}, which is not a Keras metric{near} Known: {", ".join(fitting)}'


def check_json(text: str) -> str:
  """The rule of a field that holds arguments as JSON."""
  try:
    return '' if isinstance(json.loads(text or '{}'), dict) else 'must be a JSON object'
  except json.JSONDecodeError as error:
    return f'is not JSON: {error}'


def make(cls: type, field: str, given: Any, *, defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
  """`cls` with the user's arguments over our defaults.

  Args:
    cls: a Keras loss or metric.
    field: where the arguments stand in the config, for the message.
    given: the user's arguments, a parsed JSON object.
    defaults: arguments that the user may override; those that `cls` does not take are left out.
    fixed: arguments that the harness decides; those that `cls` does not take are left out.

  Raises:
    ConfigError: `cls` does not take a given argument, refuses its value, or needs one that is not given.
  """
  if not isinstance(given, dict):
    raise ConfigError(f'{field} of {snake(cls.__name__)} must be a JSON object of arguments, not {given!r}')
  parameters = inspect.signature(cls).parameters
  open_names = [name for name in parameters if name not in fixed and name != 'name']
  for name in given:
    if name not in open_names:
      raise ConfigError(
        f'{field} has {name!r}, which {snake(cls.__name__)} does not take{nearest(name, open_names)} '
        f'Known: {", ".join(open_names) or "none"}'
      )
  arguments = {**{n: v for n, v in {**defaults, **fixed}.items() if n in parameters}, **given}
  missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
  if missing:
    raise ConfigError(f'{snake(cls.__name__)} needs {", ".join(missing)}: set it in {field}')
  try:
    return cls(**arguments)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{field} of {snake(cls.__name__)}: {str(error).splitlines()[0]}') from error


def make_metrics(
  fields: Any, synonyms: Mapping[str, str], defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, keras.metrics.Metric]:
  """The metrics of a task's `metrics` and `metric_options`, by the name that they are reported under.

  Args:
    fields: the task's part of the config.
    synonyms: names that the task gives another meaning than Keras does.
    defaults: as for `make`.
    fixed: as for `make`.

  Raises:
    ConfigError: a metric is named twice, options are given for one that is not named, or `make` refuses them.
  """
  options = {shown_name(name) or name: given for name, given in json.loads(fields.metric_options or '{}').items()}
  made: dict[str, keras.metrics.Metric] = {}
  for name in fields.metrics:
    shown = shown_name(name)
    if shown in made:
      raise ConfigError(f'task.metrics={tuple(fields.metrics)!r} names {shown!r} twice: leave one out')
    cls = metrics()[synonyms.get(shown, metric_name(name))]
    made[shown] = make(cls, 'task.metric_options', options.pop(shown, {}), defaults=defaults, fixed=fixed)
  if options:
    raise ConfigError(f'task.metric_options has {min(options)!r}, which is not in task.metrics: add it there')
  return made
