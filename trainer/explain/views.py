"""How inputs and what is said of them are shown, and what stands for inputs that say nothing: by what kind they are.

  image   [H, W, C] numbers
  frames  [T, F] numbers: a recording's, or a series
  table   [F] numbers, each a column of a feature
  ids     [T] integers, each a byte or a token

Dimensions: M regions.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.explain import occlusion, subjects
from trainer.report.gallery import Part, heat, signed

# Colours of large images end at so many percent of the attributions, as in Smilkov et al., 2017, section 3.1.
_PERCENT = 99.0
# A window is this part of the shorter side, unless the config says.
_WINDOWS = 8


class View(abc.ABC):
  """One kind of inputs.

  Attributes:
    kind: as above.
    shape: of the places of one example that have an attribution each.
  """

  kind: str
  shape: tuple[int, ...]

  @abc.abstractmethod
  def inputs(self, inputs: np.ndarray) -> list[Part]:
    """One example's inputs."""

  @abc.abstractmethod
  def values(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    """Attributions of both signs, of `shape`."""

  @abc.abstractmethod
  def shares(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    """Attributions that are not below 0, of `shape`."""

  def summed(self, values: np.ndarray) -> np.ndarray:
    """Attributions of the shape of the inputs -> of `shape`."""
    return values

  def regions(self, window: int, stride: int) -> np.ndarray:
    """bool [M, *shape]: what occlusion covers."""
    side = min(self.shape)
    size = window or max(min(2, side), -(-side // _WINDOWS))
    if size > side:
      raise ConfigError(f'explain.window={window} is more than the {side} places of a side: lower it')
    return occlusion.windows(self.shape, size, stride or max(1, size // 2))


class Image(View):
  """Images [H, W, C]."""

  kind = 'image'

  def __init__(self, shape: Sequence[int], state: Mapping[str, Any], most: float):
    """Args:
    shape: of one example.
    state: `Inputs.state()` (trainer/tasks/inputs.py): how raw values were normalised; empty: they were not.
    most: the raw value that is white.
    """
    state = state or {'mean': 0.0, 'deviation': 1.0, 'normalize': 'none'}
    self.shape, self.black = (shape[0], shape[1]), _black(state)
    self._mean, self._deviation = np.asarray(state['mean']), np.asarray(state['deviation'])
    self._most = most if state['normalize'] != 'none' else 0.0

  def inputs(self, inputs: np.ndarray) -> list[Part]:
    return [Part('input', 'image', self._pixels(inputs))]

  def values(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    return [Part(title, 'image', signed(_scaled(values)))]

  def shares(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    pixels = self._pixels(inputs)
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=-1)
    return [Part(title, 'image', np.round(0.4 * grey[..., None] + 0.6 * heat(_scaled(values))).astype(np.uint8))]

  def summed(self, values: np.ndarray) -> np.ndarray:
    return values.sum(axis=-1)

  def _pixels(self, inputs: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]."""
    raw = inputs * self._deviation + self._mean
    low, high = (0.0, self._most) if self._most else (min(0.0, float(raw.min())), max(1.0, float(raw.max())))
    pixels = np.clip(np.round(255 * (raw - low) / (high - low)), 0, 255).astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else np.round(pixels.mean(axis=-1)).astype(np.uint8)


class Frames(View):
  """Frames [T, F], shown with time from left to right and the first number below."""

  kind = 'frames'

  def __init__(self, shape: Sequence[int]):
    self.shape = tuple(shape)

  def inputs(self, inputs: np.ndarray) -> list[Part]:
    low, high = float(inputs.min()), float(inputs.max())
    return [Part('input', 'image', heat(_turned((inputs - low) / (high - low or 1.0))))]

  def values(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    return [Part(title, 'image', signed(_turned(_scaled(values))))]

  def shares(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    return [Part(title, 'image', heat(_turned(_scaled(values))))]


class Table(View):
  """Rows of a table [F]: the columns of a feature, such as those of a category, are shown as one."""

  kind = 'table'

  def __init__(self, groups: Mapping[str, Sequence[int]]):
    """Args:
    groups: feature -> its columns.
    """
    self.groups, self.shape = groups, (len(groups),)

  def inputs(self, inputs: np.ndarray) -> list[Part]:
    values = {
      name: round(float(inputs[columns[0]]), 4) if len(columns) == 1 else str(inputs[list(columns)].round(2).tolist())
      for name, columns in self.groups.items()
    }
    return [Part('input, as the model sees it', 'numbers', values)]

  def values(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    order = np.argsort(-np.abs(values), kind='stable')
    names = list(self.groups)
    return [Part(title, 'numbers', {names[i]: float(f'{values[i]:.5g}') for i in order})]

  shares = values

  def summed(self, values: np.ndarray) -> np.ndarray:
    return np.array([values[list(columns)].sum() for columns in self.groups.values()])

  def regions(self, window: int, stride: int) -> np.ndarray:
    """Each feature by itself, over the columns."""
    regions = np.zeros((len(self.groups), sum(map(len, self.groups.values()))), bool)
    for region, columns in zip(regions, self.groups.values(), strict=True):
      region[list(columns)] = True
    return regions


class Ids(View):
  """Texts and sequences [T]."""

  kind = 'ids'

  def __init__(self, length: int, piece: Callable[[int], bytes], padding: int):
    """Args:
    length: T.
    piece: what an id stands for.
    padding: the id that fills up.
    """
    self.shape, self.piece, self.padding = (length,), piece, padding

  def inputs(self, inputs: np.ndarray) -> list[Part]:
    return [Part('input', 'text', b''.join(map(self.piece, inputs.tolist())).decode(errors='replace'))]

  def values(self, title: str, values: np.ndarray, inputs: np.ndarray) -> list[Part]:
    found = subjects.characters([self.piece(i) for i in inputs.tolist()], values.tolist())
    most = max((abs(weight) for _, weight in found), default=0.0) or 1.0
    return [Part(title, 'tokens', [[text, round(weight / most, 4)] for text, weight in found])]

  shares = values


def view(task: Any, config: Any, groups: Mapping[str, Sequence[int]]) -> View:
  """How the inputs of a run are seen.

  Args:
    task: of the run.
    config: of the run.
    groups: of a table, feature -> its columns.

  Raises:
    ConfigError: the model takes several inputs, or such as are not known here.
  """
  spec = task.input_spec
  if not isinstance(spec, tf.TensorSpec):
    raise ConfigError(f'--mode=explain takes models of one input, not {sorted(spec)}')
  if spec.dtype.is_integer and spec.shape.rank == 1:
    return Ids(spec.shape[0], subjects.pieces(task), subjects.padding(task))
  if spec.dtype.is_floating and spec.shape.rank == 3:
    return Image(spec.shape, task.state().get('inputs', {}), config.task.get('max_value', 255.0))
  if spec.dtype.is_floating and spec.shape.rank == 2:
    return Frames(spec.shape)
  if spec.dtype.is_floating and spec.shape.rank == 1:
    return Table(groups)
  raise ConfigError(f'--mode=explain does not know inputs of {spec.dtype.name} and shape {tuple(spec.shape)}')


def baseline(name: str, kind: View, inputs: np.ndarray, mean: Callable[[], np.ndarray]) -> np.ndarray:
  """Inputs that say nothing, of the shape and dtype of `inputs`, [1, ...].

  Args:
    name: 'black', 'zero', 'mean', 'padding'; 'auto': black for images, padding for ids, else zero, which is the mean of
      the training split where inputs are standardised.
    kind: of the inputs.
    inputs: [1, ...].
    mean: gives the mean inputs of the split, [1, ...].

  Raises:
    ConfigError: there is no such baseline for these inputs.
  """
  auto = {'image': 'black', 'ids': 'padding'}.get(kind.kind, 'zero')
  name = auto if name == 'auto' else name
  if name == 'zero':
    return np.zeros_like(inputs)
  if name == 'mean' and kind.kind != 'ids':
    return mean().astype(inputs.dtype)
  if name == 'black' and isinstance(kind, Image):
    return np.zeros_like(inputs) + kind.black.astype(inputs.dtype)
  if name == 'padding' and isinstance(kind, Ids):
    return np.full_like(inputs, kind.padding)
  raise ConfigError(f"explain.baseline={name!r} does not fit inputs that are {kind.kind}: take 'auto' or 'zero'")


def _black(state: Mapping[str, Any]) -> np.ndarray:
  """What a raw 0 is after normalisation."""
  return -np.asarray(state['mean'], np.float64) / np.asarray(state['deviation'], np.float64)


def _scaled(values: np.ndarray) -> np.ndarray:
  """From -1 to 1, or 0 to 1, so that the largest have the strongest colour."""
  size = np.abs(values)
  most = np.percentile(size, _PERCENT) if size.size > 1000 else size.max()
  most = most or size.max()
  return np.clip(values / (most or 1.0), -1.0, 1.0)


def _turned(values_TF: np.ndarray) -> np.ndarray:
  return values_TF.T[::-1]
