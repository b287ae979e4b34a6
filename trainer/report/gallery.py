"""Pictures, sounds and texts that people look at: a folder of files with an index, gallery.json.

  {"version": 1, "kind": "samples", "title": str, "step": int or null, "facts": {name: number or text},
   "confusion": {"names": [str], "counts": [[int]]} or null,
   "entries": [{"title": str, "group": str, "parts": [PART]}]}

A PART is {"title": str, "kind": KIND, "file": name} or {"title": str, "kind": KIND, "value": VALUE}.

The kinds of parts, and what their value is:

  image    a file.png, as large as the model sees it: enlarge small ones without smoothing
  sound    a file.wav
  text     a string
  numbers  {name: number or text}
  shares   {name: number from 0 to 1}, the largest first
  tokens   [[text, weight from -1 to 1]], in the order of the text: how much it speaks for the answer (below 0: against)
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer import durable
from trainer.errors import ConfigError

INDEX = 'gallery.json'
# The kinds, and the folders of a work directory in which they are.
SAMPLES, INPUTS, PREDICTIONS, EXPLANATIONS = KINDS = ('samples', 'inputs', 'predictions', 'explanations')
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Part:
  """One thing to look at.

  Attributes:
    title: what it is.
    kind: 'image', 'sound', 'text', 'numbers', 'shares' or 'tokens'.
    value: uint8 [H, W] or [H, W, 3]; (int16 [T], samples per second); or what gallery.json has.
  """

  title: str
  kind: str
  value: Any


class Gallery:
  """A folder that is filled entry by entry and counts once it is closed."""

  def __init__(self, folder: str, kind: str, title: str, *, step: int | None = None):
    """Makes the folder, in the place of an earlier one.

    Args:
      folder: where; what a gallery of that name held is deleted.
      kind: one of KINDS.
      title: for people.
      step: of the checkpoint.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    self.folder = folder
    self.facts: dict[str, Any] = {}
    self.confusion: dict[str, Any] | None = None
    self._head = {'version': VERSION, 'kind': kind, 'title': title, 'step': step}
    self._entries: list[dict[str, Any]] = []
    try:
      shutil.rmtree(folder, ignore_errors=True)
      os.makedirs(folder)
    except OSError as error:
      raise self._unwritable(error) from error

  def add(self, title: str, parts: Sequence[Part], *, group: str = '') -> None:
    """Adds an entry; entries of one `group` are shown together.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    number = len(self._entries)
    try:
      written = [self._written(f'{number:04d}-{place}', part) for place, part in enumerate(parts)]
    except OSError as error:
      raise self._unwritable(error) from error
    self._entries.append({'title': title, 'group': group, 'parts': written})

  def close(self) -> str:
    """Writes the index, and returns its path.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    path = os.path.join(self.folder, INDEX)
    index = {**self._head, 'facts': self.facts, 'confusion': self.confusion, 'entries': self._entries}
    try:
      durable.replace(path, json.dumps(index).encode() + b'\n')
    except OSError as error:
      raise self._unwritable(error) from error
    return path

  def _written(self, name: str, part: Part) -> dict[str, Any]:
    head = {'title': part.title, 'kind': part.kind}
    if part.kind == 'image':
      with open(os.path.join(self.folder, f'{name}.png'), 'wb') as file:
        file.write(png(part.value))
      return {**head, 'file': f'{name}.png'}
    if part.kind == 'sound':
      write_sound(os.path.join(self.folder, f'{name}.wav'), *part.value)
      return {**head, 'file': f'{name}.wav'}
    return {**head, 'value': part.value}

  def _unwritable(self, error: OSError) -> ConfigError:
    return ConfigError(f'{self.folder} cannot be written: {error.strerror}: make room or set the permissions')


def png(pixels: np.ndarray) -> bytes:
  """uint8 [H, W], [H, W, 1] or [H, W, 3] as a PNG file."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(file, 'PNG')
  return file.getvalue()


def write_sound(path: str, samples: np.ndarray, rate: int) -> None:
  """int16 [T] as a WAV file."""
  with wave.open(path, 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes(samples.astype('<i2').tobytes())


def heat(values: np.ndarray) -> np.ndarray:
  """Numbers [H, W] from 0 to 1 as colours from dark blue to yellow, uint8 [H, W, 3]."""
  stops = np.array([[13, 8, 70], [84, 39, 143], [190, 55, 82], [249, 142, 8], [252, 255, 164]], np.float64)
  place = np.clip(np.nan_to_num(values), 0.0, 1.0) * (len(stops) - 1)
  low = np.minimum(place.astype(int), len(stops) - 2)
  share = (place - low)[..., None]
  return np.round(stops[low] * (1 - share) + stops[low + 1] * share).astype(np.uint8)


def signed(values: np.ndarray) -> np.ndarray:
  """Numbers [H, W] from -1 to 1 as colours, uint8 [H, W, 3]: blue against, white nothing, red for."""
  values = np.clip(np.nan_to_num(values), -1.0, 1.0)
  red = np.where(values < 0, 1 + values, 1.0)
  blue = np.where(values > 0, 1 - values, 1.0)
  return np.round(255 * np.stack([red, 1 - np.abs(values), blue], axis=-1)).astype(np.uint8)


def shares(values: Mapping[str, float], most: int = 5) -> Part:
  """The largest of some shares."""
  largest = sorted(values.items(), key=lambda item: -item[1])[:most]
  return Part('shares', 'shares', {name: round(float(value), 6) for name, value in largest})
