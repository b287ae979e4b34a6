"""Weights of an earlier training as those that a run begins with: which file has which, and what is left as it was.

Read are the checkpoints of a run (its averaged weights, where it kept an average), `.keras` and `.safetensors` files,
and `.weights.h5` files, which name a weight by its layer's class and number ('layers/dense_1/vars/0'). A name is that
of the variable; for other names there is a table, a JSON list of [pattern, replacement]: the first regular expression
that a variable's whole path matches gives the name in the file, with groups put in. A third element 'transpose' turns
a matrix round.

Nothing is left out in silence: a variable that is not found is an error, unless `init_from.exclude` names it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.checkpoints import Checkpoints
from trainer.checkpoint.choice import choose
from trainer.checkpoint.errors import CheckpointError
from trainer.errors import ConfigError
from trainer.fields import Field, nearest

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
  'names': Field('', 'JSON file with a list of [pattern, name in the file]; empty: the names are the same'),
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

  def words(self, path: str) -> str:
    """One line for people."""
    parts = [f'{len(self.arrays)} variables from {path}']
    for what, names in (('resized', self.resized), ('left random', self.kept), ('not used of it', self.unused)):
      if names:
        parts.append(f'{what}: {", ".join(names)}')
    return '; '.join(parts)


def read(fields: Any, variables: Mapping[str, Sequence[int]]) -> Start:
  """What the config's section `init_from` gives the variables of a model.

  Args:
    fields: that section; `path` is not empty.
    variables: the shape of each, by its path.

  Raises:
    ConfigError: the file cannot be read; a variable is not in it, or in another shape; a pattern matches nothing.
  """
  found = _arrays(fields)
  renamed = _table(fields.names)
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
    name, transposed = _name(path, renamed)
    if name not in found:
      missing.append(f'{path} (as {name})' if name != path else path)
      continue
    used.add(name)
    array = found[name].T if transposed else found[name]
    if array.shape != tuple(shape) and fields.resize_positions and _is_position_table(path, array.shape, shape):
      array = _interpolated(array, shape)
      resized.append(path)
    if array.shape != tuple(shape):
      different.append(f'{path} ({list(array.shape)}, must be {list(shape)})')
    arrays[path] = array
  for what, names in (('does not have', missing), ('has in another shape', different)):
    if names:
      more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
      raise ConfigError(
        f'init_from.path={fields.path!r} {what} {", ".join(names[:_NAMED])}{more}: name them otherwise with '
        'init_from.names, or leave them random with init_from.exclude'
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
  folder = os.path.join(path, 'checkpoints')
  if not tf.io.gfile.isdir(folder):
    raise ConfigError(
      f'init_from.path={path!r} is no work directory of a run, .keras, .weights.h5 or .safetensors file'
    )
  checkpoints = Checkpoints(folder, keep=1, keep_best=0, best_mode='max', writer=False)
  try:
    saved = checkpoints.restore(choose(checkpoints, fields.step, 'init_from.step', path)).arrays
  except CheckpointError as error:
    raise ConfigError(f'init_from.path={path!r}: {error}; choose another with init_from.step') from error
  weights = {name.removeprefix('model/'): array for name, array in saved.items() if name.startswith('model/')}
  averaged = {name.removeprefix('ema/'): array for name, array in saved.items() if name.startswith('ema/')}
  return {**weights, **{name: array.astype(weights[name].dtype, copy=False) for name, array in averaged.items()}}


def _of_keras(path: str) -> dict[str, np.ndarray]:
  import keras

  try:
    # Safe: a file with code in it (a Lambda) is refused, and its compile arguments are not read.
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
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
    with h5py.File(path) as file:
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
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}
  except (OSError, SafetensorError) as error:
    raise ConfigError(f'init_from.path={path!r} cannot be read: {error}') from error


def _table(path: str) -> list[tuple[re.Pattern[str], str, bool]]:
  """The rows of a table of names: (pattern, replacement, whether the matrix is turned round)."""
  if not path:
    return []
  try:
    with tf.io.gfile.GFile(path) as file:
      rows = json.load(file)
    return [(re.compile(pattern), name, bool(_turned(rest))) for pattern, name, *rest in rows]
  except (tf.errors.OpError, ValueError, TypeError, re.error) as error:
    raise ConfigError(
      f"init_from.names={path!r} is no JSON list of [pattern, name] or [pattern, name, 'transpose']: "
      f'{" ".join(str(error).split())}'
    ) from error


def _turned(rest: list[str]) -> bool:
  if rest not in ([], ['transpose']):
    raise ValueError(f'{rest} behind a name')
  return bool(rest)


def _name(path: str, table: list[tuple[re.Pattern[str], str, bool]]) -> tuple[str, bool]:
  for pattern, replacement, transposed in table:
    if found := pattern.fullmatch(path):
      return found.expand(replacement), transposed
  return path, False


def _is_position_table(path: str, have: Sequence[int], want: Sequence[int]) -> bool:
  """Whether it is a table of positions that differs in its length alone."""
  rest_is_same = len(have) == len(want) >= 2 and have[-1] == want[-1] and tuple(have[:-2]) == tuple(want[:-2])
  return rest_is_same and 'position' in path


def _interpolated(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """[..., positions, width] -> `shape`, linearly from the first position to the last."""
  old, new = array.shape[-2], shape[-2]
  place = np.linspace(0.0, old - 1.0, new)
  low = np.minimum(place.astype(int), max(old - 2, 0))
  share = (place - low)[:, np.newaxis]
  after = np.take(array, np.minimum(low + 1, old - 1), axis=-2)
  return (np.take(array, low, axis=-2) * (1.0 - share) + after * share).astype(array.dtype)
