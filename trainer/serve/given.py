"""What a task predicts from: its description for `reading`, and one raw example with nothing else known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.tasks.inputs import row_parts


def describe(task: Any, features: Mapping[str, Any]) -> dict[str, Any]:
  """What one example is, as trainer/serve/reading.py takes it.

  Args:
    task: has `given`.
    features: the dataset's.

  Raises:
    ConfigError: the task predicts from nothing that a file could hold.
  """
  name = task.given
  if not name:
    raise ConfigError(
      f'{type(task).__name__} names no feature that it predicts from (its attribute `given`): leave out --input, and '
      'predictions are made of data.eval_split'
    )
  feature = features[name]
  told: dict[str, Any] = {'name': name, 'dtype': 'object', 'shape': []}
  if name == 'tokens' or isinstance(feature, tfds.features.Text):
    return {**told, 'kind': 'text'}
  if isinstance(feature, tfds.features.FeaturesDict):
    return {**told, 'kind': 'table', 'columns': _columns(name, feature)}
  told |= {'dtype': np.dtype(feature.np_dtype).name, 'shape': list(feature.shape)}
  if isinstance(feature, tfds.features.Image):
    if told['dtype'] != 'uint8':
      raise ConfigError(f'pictures {name!r} are {told["dtype"]}, and files are read as uint8: leave out --input')
    return {**told, 'kind': 'image'}
  if isinstance(feature, tfds.features.Audio):
    return {**told, 'kind': 'sound', 'rate': task.rate}
  if len(feature.shape) == 2:
    return {**told, 'kind': 'series', 'shape': [task.steps_given, feature.shape[1]]}
  return {**told, 'kind': 'numbers'}


def specs(task: Any, features: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
  """The tensors of one raw example, by flat name: the feature's own, or a row's columns in their order."""
  name = task.given
  found = _flat(name, features[name].get_tensor_spec())
  if task.steps_given:
    found = {name: tf.TensorSpec([task.steps_given, *spec.shape[1:]], spec.dtype) for name, spec in found.items()}
  return found


def flat(task: Any, value: Any) -> dict[str, np.ndarray]:
  """A raw feature as `reading.examples` or a dataset gives it, by the names of `specs`."""
  found = {name: np.asarray(part) for name, part in _flat(task.given, _nested(value)).items()}
  if task.steps_given:
    found = {name: part[: task.steps_given] for name, part in found.items()}
  return found


def example(task: Any, features: Mapping[str, Any], values: Mapping[str, tf.Tensor]) -> dict[str, Any]:
  """A raw example of which only `given` is known, for `task.example`; in graph operations.

  Args:
    task: has `given`.
    features: the dataset's.
    values: as `specs` describes them.
  """
  name = task.given
  whole = _joined(name, features[name].get_tensor_spec(), values)
  if task.steps_given:
    rest = features[name].shape[0] - task.steps_given
    whole = tf.pad(whole, [[0, rest], [0, 0]])
  return {**_blank(features), name: whole}


def _columns(table: str, feature: Any) -> list[dict[str, Any]]:
  found: list[dict[str, Any]] = []
  for path, (part, _) in row_parts(table, feature).items():
    name = '/'.join(path)
    if tuple(part.shape):
      raise ConfigError(f'column {name!r} holds {part.shape} values, and a cell of a CSV file one: leave out --input')
    classes = None
    if isinstance(part, tfds.features.ClassLabel):
      classes = list(part.names or map(str, range(part.num_classes)))
    found.append({'name': name, 'shape': [], 'dtype': np.dtype(part.np_dtype).name, 'classes': classes})
  return found


def _flat(name: str, nest: Any) -> dict[str, Any]:
  """Leaves by path, without the name of the whole where there are several."""
  if not isinstance(nest, Mapping):
    return {name: nest}
  found: dict[str, Any] = {}
  for key, part in sorted(nest.items()):
    for path, leaf in _flat(key, part).items():
      found[path if not isinstance(part, Mapping) else f'{key}/{path}'] = leaf
  return found


def _nested(value: Any) -> Any:
  """{'a/b': x} as {'a': {'b': x}}; anything else as it is."""
  if not isinstance(value, Mapping):
    return value
  found: dict[str, Any] = {}
  for path, leaf in value.items():
    *outer, last = path.split('/')
    place = found
    for key in outer:
      place = place.setdefault(key, {})
    place[last] = _nested(leaf)
  return found


def _joined(name: str, spec: Any, values: Mapping[str, tf.Tensor]) -> Any:
  paths = list(_flat(name, spec))
  assert list(values) == paths, (list(values), paths)
  if not isinstance(spec, Mapping):
    return values[name]
  return _nested(dict(values))


def _blank(features: Any) -> Any:
  """A value of each feature that says nothing; a dimension that is open is 0."""

  def empty(spec: tf.TensorSpec) -> tf.Tensor:
    shape = [size or 0 for size in spec.shape]
    return tf.fill(shape, '') if spec.dtype == tf.string else tf.zeros(shape, spec.dtype)

  return tf.nest.map_structure(empty, features.get_tensor_spec())
