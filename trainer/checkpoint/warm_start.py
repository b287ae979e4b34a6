"""Weights of an earlier training as those that a run begins with: which file has which, and what is left as it was.

Read are the checkpoints of a run (its averaged weights, where it kept an average), `.keras` and `.safetensors` files
(also several with their index), and `.weights.h5` files, which name a weight by its layer's class and number
('layers/dense_1/vars/0'). A name is that of the variable. For other names there is a table: one of published.py, or a
JSON list of [pattern, name, operation, ...] as it is described there.

Nothing is left out in silence: a variable that is not found is an error, unless `init_from.exclude` names it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.checkpoints import Checkpoints
from trainer.checkpoint.choice import choose
from trainer.checkpoint.errors import CheckpointError
from trainer.checkpoint.published import TABLES, Table, known, reshaped, rows
from trainer.errors import ConfigError
from trainer.fields import Field, nearest
from trainer.storage import bucket, place
from trainer.storage.steps import CHECKPOINTS, Steps

_NAMED = 3  # names listed in an error: enough to recognise the model, and still one line


def _check_patterns(patterns: tuple[str, ...]) -> str:
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      return f'has {pattern!r}, which is no regular expression: {error}'
  return ''


FIELDS: dict[str, Field] = {
  'path': Field('', 'first weights: a run, or a .keras, .weights.h5 or .safetensors file; empty: random', fixed=True),
  'step': Field('latest', "of a run: 'latest', 'best' or a step"),
  'names': Field('', 'names in the file: a table of published.py, or a JSON file of [pattern, name]; empty: the same'),
  'exclude': Field((), 'regular expressions of variables that keep their random weights, e.g. a head', _check_patterns),
  'resize_positions': Field(False, 'a table of positions of another length is interpolated; otherwise it is an error'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Start:
  """What a run begins with.

  Attributes:
    arrays: of each variable that is set, by its path.
    kept: paths of those that keep their random weights.
    resized: paths of those that were interpolated.
    unused: names in the file that nothing was made of.
  """

  arrays: dict[str, np.ndarray]
  kept: list[str]
  resized: list[str]
  unused: list[str]

  def record(self, path: str) -> dict[str, Any]:
    """What became of every variable, and of every name in the file, for run.json."""
    return {
      'path': path, 'set': list(self.arrays), 'resized': self.resized, 'left_random': self.kept, 'not_used': self.unused
    }  # fmt: skip


def read(fields: Any, variables: Mapping[str, Sequence[int]]) -> Start:
  """What the config's section `init_from` gives the variables of a model.

  Args:
    fields: that section; `path` is not empty.
    variables: the shape of each, by its path.

  Raises:
    ConfigError: the file cannot be read; a variable is not in it, or in another shape; a pattern matches nothing.
  """
  found = _arrays(fields)
  table = _table(fields.names)
  found = {name.removeprefix(table.prefix): array for name, array in found.items()}
  arrays, kept, resized, used, missing, different = {}, [], [], set(), [], []
  for pattern in fields.exclude:
    if not any(re.fullmatch(pattern, path) for path in variables):
      raise ConfigError(
        f'init_from.exclude has {pattern!r}, which matches no variable{nearest(pattern, variables)} The first are '
        f'{", ".join(list(variables)[:_NAMED])}'
      )
  for path, shape in variables.items():
    if any(re.fullmatch(pattern, path) for pattern in fields.exclude):
      kept.append(path)
      continue
    name, operations = table.find(path, found)
    if name not in found:
      missing.append(f'{path} (as {name})' if name != path else path)
      continue
    used.add(name)
    try:
      array = reshaped(found[name], operations)
    except ValueError as error:
      raise ConfigError(
        f'init_from.path={fields.path!r} has {name} of shape {list(found[name].shape)}, which init_from.names cannot '
        f'make into {path}: {error}'
      ) from error
    if array.shape != tuple(shape) and fields.resize_positions and _is_position_table(path, array.shape, shape):
      array = _interpolated(path, array, shape)
      resized.append(path)
    if array.shape != tuple(shape):
      different.append(f'{path} ({list(array.shape)}, must be {list(shape)})')
    # Published weights may be in 16 bits; ours are trained in 32.
    arrays[path] = array.astype(np.float32) if array.dtype.name in ('float16', 'bfloat16') else array
  for what, names in (('does not have', missing), ('has in another shape', different)):
    if names:
      more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
      kind = known(found)
      hint = f' (its names are those of {kind!r})' if kind and fields.names != kind else ''
      raise ConfigError(
        f'init_from.path={fields.path!r} {what} {", ".join(names[:_NAMED])}{more}: name them otherwise with '
        f'init_from.names{hint}, or leave them random with init_from.exclude'
      )
  return Start(arrays, kept, resized, sorted(found.keys() - used))


def _arrays(fields: Any) -> dict[str, np.ndarray]:
  path = fields.path
  if path.endswith('.keras'):
    return _of_keras(path)
  if path.endswith('.weights.h5'):
    return _of_weights_h5(path)
  if path.endswith('.safetensors'):
    return _of_safetensors(path)
  if path.endswith('.safetensors.index.json'):
    return _of_index(path)
  return _of_run(path, fields.step)


def _of_run(path: str, step: str) -> dict[str, np.ndarray]:
  with tempfile.TemporaryDirectory() as copy:
    folder, steps = os.path.join(path, CHECKPOINTS), None
    if place.is_remote(path):
      folder, steps = copy, Steps(bucket.Bucket(path), copy, writer=False)
      try:
        steps.sync()
      except OSError as error:
        raise ConfigError(f'init_from.path={path!r} cannot be read: {error}') from error
    if not os.path.isdir(folder) or (steps and not os.listdir(folder)):
      raise ConfigError(
        f'init_from.path={path!r} is no work directory of a run, .keras, .weights.h5 or .safetensors file, nor the '
        'index of such files (.safetensors.index.json)'
      )
    checkpoints = Checkpoints(folder, remote=steps)
    try:
      saved = checkpoints.restore(choose(checkpoints, step, 'init_from.step', path)).arrays
    except CheckpointError as error:
      raise ConfigError(f'init_from.path={path!r}: {error}; choose another with init_from.step') from error
  weights = {name.removeprefix('model/'): array for name, array in saved.items() if name.startswith('model/')}
  averaged = {name.removeprefix('ema/'): array for name, array in saved.items() if name.startswith('ema/')}
  return {**weights, **{name: array.astype(weights[name].dtype, copy=False) for name, array in averaged.items()}}


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
  """The path of a file here: of one in a bucket that of a copy."""
  if not place.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    yield bucket.fetched(path, folder)


def _of_keras(path: str) -> dict[str, np.ndarray]:
  import keras

  try:
    # Safe: a file with code in it (a Lambda) is refused, and its compile arguments are not read.
    with _local(path) as file:
      model = keras.saving.load_model(file, compile=False, safe_mode=True)
  # What Keras raises for a file that is none, is damaged, or has layers that it does not know, is many things.
  except Exception as error:
    raise ConfigError(f'init_from.path={path!r} cannot be read: {" ".join(str(error).split())[:300]}') from error
  return {variable.path: np.asarray(variable) for variable in model.weights}


def _of_weights_h5(path: str) -> dict[str, np.ndarray]:
  import h5py

  found: dict[str, np.ndarray] = {}

  def visit(name: str, entry: Any) -> None:
    if isinstance(entry, h5py.Dataset):
      found[name] = np.asarray(entry)

  try:
    with _local(path) as local, h5py.File(local) as file:
      file.visititems(visit)
  except OSError as error:
    raise ConfigError(f'init_from.path={path!r} cannot be read: {" ".join(str(error).split())}') from error
  return found


def _of_safetensors(path: str) -> dict[str, np.ndarray]:
  try:
    from safetensors import SafetensorError
    from safetensors.tensorflow import load_file
  except ImportError as error:
    raise ConfigError(
      f'init_from.path={path!r} needs the package safetensors, which is not installed: run `pip install safetensors`'
    ) from error
  try:
    with _local(path) as file:
      return {name: tensor.numpy() for name, tensor in load_file(file).items()}
  except (OSError, SafetensorError) as error:
    raise ConfigError(f'init_from.path={path!r} cannot be read: {error}') from error


def _of_index(path: str) -> dict[str, np.ndarray]:
  """The tensors of several files, as an index beside them names them."""
  try:
    with tf.io.gfile.GFile(path) as file:
      names = sorted(set(json.load(file)['weight_map'].values()))
    if not all(isinstance(name, str) and name == os.path.basename(name) for name in names):
      raise ValueError('a file that it names does not lie beside it')
  except (tf.errors.OpError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise ConfigError(f'init_from.path={path!r} is no index of safetensors files: {_one_line(error)}') from error
  found: dict[str, np.ndarray] = {}
  for name in names:
    found |= _of_safetensors(os.path.join(os.path.dirname(path), name))
  return found


def _table(names: str) -> Table:
  """The table that the field names."""
  if not names or names in TABLES:
    return TABLES.get(names, Table(()))
  try:
    with tf.io.gfile.GFile(names) as file:
      return Table(rows(json.load(file)))
  except (tf.errors.OpError, ValueError, TypeError) as error:
    raise ConfigError(
      f'init_from.names={names!r} is neither one of {", ".join(TABLES)} nor a JSON list of [pattern, name, '
      f'operation, ...]: {_one_line(error)}'
    ) from error


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split())[:300]


def _is_position_table(path: str, have: Sequence[int], want: Sequence[int]) -> bool:
  """Whether it is a table of positions that differs in its length alone."""
  rest_is_same = len(have) == len(want) >= 2 and have[-1] == want[-1] and tuple(have[:-2]) == tuple(want[:-2])
  return rest_is_same and 'position' in path


def _interpolated(path: str, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """[..., positions, width] -> `shape`, linearly from the first position to the last.

  The patches of an image (ViT's `embedding/positions`, [1, positions, width]) lie in a square; there both sides are
  interpolated, and the class token, where there is one, keeps its own. One that is no square is left as it is.
  """
  if array.ndim < 3 or not path.endswith('embedding/positions'):
    return _stretched(array, array.ndim - 2, shape[-2])
  for token in (1, 0):
    sides = [math.isqrt(length - token) for length in (array.shape[-2], shape[-2])]
    if [side * side + token for side in sides] == [array.shape[-2], shape[-2]]:
      square = array[0, token:].reshape(sides[0], sides[0], -1)
      square = _stretched(_stretched(square, 0, sides[1]), 1, sides[1])
      return np.concatenate([array[:, :token], square.reshape(1, -1, array.shape[-1])], 1).astype(array.dtype)
  return array


def _stretched(array: np.ndarray, axis: int, new: int) -> np.ndarray:
  """Interpolated linearly along an axis, to `new` places."""
  old = array.shape[axis]
  place = np.linspace(0.0, old - 1.0, new)
  low = np.minimum(place.astype(int), max(old - 2, 0))
  share = (place - low).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
  after = np.take(array, np.minimum(low + 1, old - 1), axis=axis)
  return (np.take(array, low, axis=axis) * (1.0 - share) + after * share).astype(array.dtype)
