"""What is learnt: tasks by name. A task is one file; trainer/tasks/base.py says what it must give.

A task's module has `FIELDS`, its part of the config's `task` section, and `create(config, features, examples, saved)`.

`task.name='package.module:name'` takes the place of a name: `name` is a function of these four arguments that returns a
Task, or a subclass of Task that takes them; its fields are its attribute FIELDS, or that of its module, or none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_collections

from trainer import imports
from trainer.errors import ConfigError
from trainer.fields import Field, look_up, named
from trainer.tasks.base import Examples, Task

TASKS: dict[str, ModuleType] = {
  name: importlib.import_module(f'{__name__}.{name}')
  for name in (
    'audio_classification',
    'classification',
    'ctc',
    'detection',
    'forecasting',
    'language_modeling',
    'masked_language_modeling',
    'regression',
    'segmentation',
    'seq2seq',
    'text_classification',
    'text_regression',
  )
}


def check_name(name: str) -> str:
  """The rule of `task.name`."""
  if not imports.is_path(name):
    return named('a task', TASKS)(name)
  return '' if callable(imports.load('task.name', name)) else 'is not a function or a class that makes a task'


def fields(name: str) -> dict[str, Field]:
  """The fields of a task, beside `task.name`.

  Raises:
    ConfigError: there is no such task; the message names the nearest.
  """
  if imports.is_path(name):
    found = imports.load('task.name', name)
    module = sys.modules[name.partition(':')[0]]
    return getattr(found, 'FIELDS', None) or getattr(module, 'FIELDS', {})
  return look_up('task', name, TASKS).FIELDS


def create(
  config: ml_collections.ConfigDict,
  features: Mapping[str, Any],
  examples: Examples,
  saved: Mapping[str, Any] | None = None,
) -> Task:
  """The task of the config's `task` section on one dataset.

  Args:
    config: the whole config, checked.
    features: the dataset's tfds.features.FeaturesDict.
    examples: gives the raw decoded examples of the training split, once and in a fixed order, for statistics; None for
      synthetic input.
    saved: `state()` of the same task in an earlier attempt, whose statistics are then used instead.

  Raises:
    ConfigError: the dataset does not fit the task, or a loss or metric does not.
  """
  name = config.task.name
  if not imports.is_path(name):
    return look_up('task', name, TASKS).create(config, features, examples, saved)
  task = imports.load('task.name', name)(config, features, examples, saved)
  if not isinstance(task, Task):
    raise ConfigError(f'task.name={name!r} gave a {type(task).__name__}: return a trainer.tasks.base.Task')
  return task
