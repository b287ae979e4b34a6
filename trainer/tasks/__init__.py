"""What is learnt: tasks by name. A task is one file; trainer/tasks/base.py says what it must give.

A task's module has `FIELDS`, its part of the config's `task` section, and `create(config, features, examples, saved)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_collections

from trainer.fields import Field, look_up, named
from trainer.tasks import classification, regression
from trainer.tasks.base import Examples, Task

TASKS: dict[str, ModuleType] = {'classification': classification, 'regression': regression}


check_name = named('a task', TASKS)  # the rule of `task.name`


def fields(name: str) -> dict[str, Field]:
  """The fields of a task, beside `task.name`.

  Raises:
    ConfigError: there is no such task; the message names the nearest.
  """
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
  return look_up('task', config.task.name, TASKS).create(config, features, examples, saved)
