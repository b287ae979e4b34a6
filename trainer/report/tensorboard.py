"""The same scalars for TensorBoard: one event file per split and attempt, below tensorboard/SPLIT.

Written without TensorFlow: an event file is a file of TFRecords, each an `Event` message, and a scalar is the `Summary`
that TensorBoard's own `scalar_pb` makes. A resumed run does some steps again, whose points an earlier attempt wrote.
Event files are never rewritten, since a TensorBoard that watches them would lose its place; instead the new file begins
with a `SessionLog` START at the first step that is done again, on which TensorBoard drops every point from that step on
(EventAccumulator._CheckForRestartAndMaybePurge); its faster loader drops points when a step comes that is not larger.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from trainer.errors import ConfigError
from trainer.report.gallery import Part, png

_PREFIX = 'events.out.tfevents.'


class TensorBoard:
  """The writers of all splits; with `writer=False` every method does nothing."""

  def __init__(self, folder: str, *, writer: bool, first_step: int = 0):
    """Creates nothing yet where there is nothing; in the splits that are there, takes back what will be done again.

    Args:
      folder: the folder that TensorBoard is pointed at.
      writer: True in the chief only.
      first_step: points of this step and later ones, from earlier attempts, no longer count.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    self.folder, self.writer, self.first_step = folder, writer, first_step
    self._splits: dict[str, _EventFile] = {}
    if writer and os.path.isdir(folder):
      for split in sorted(os.listdir(folder)):
        if os.path.isdir(os.path.join(folder, split)):
          self._split(split)

  def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
    """Adds one point per value that is a finite number; None is left out.

    Raises:
      ConfigError: the disk is full or the folder cannot be written to.
    """
    if not self.writer:
      return
    points = {name: float(value) for name, value in values.items() if value is not None}
    try:
      self._split(split).write(step, {name: value for name, value in points.items() if math.isfinite(value)})
    except OSError as error:
      raise self._unwritable(error) from error

  def show(self, step: int, split: str, name: str, parts: Sequence[Part]) -> None:
    """Adds the pictures of an example, and what else there is of it as text.

    Raises:
      ConfigError: as `write`.
    """
    if not self.writer:
      return
    told = [f'**{part.title}**: {part.value}' for part in parts if part.kind not in ('image', 'sound')]
    values = [_image(f'{name}/{part.title}', part.value) for part in parts if part.kind == 'image']
    try:
      self._split(split).add(step, [*values, *([text_pb(f'{name}/told', '\n\n'.join(told))] if told else [])])
    except OSError as error:
      raise self._unwritable(error) from error

  def sync(self) -> None:
    """Returns when all points are on the disk.

    Raises:
      ConfigError: the disk does not take them.
    """
    try:
      for file in self._splits.values():
        file.sync()
    except OSError as error:
      raise self._unwritable(error) from error

  def close(self) -> None:
    """As `sync`; no file is open afterwards."""
    splits, self._splits = self._splits, {}
    try:
      for file in splits.values():
        file.close()
    except OSError as error:
      raise self._unwritable(error) from error

  def _split(self, split: str) -> _EventFile:
    if split not in self._splits:
      try:
        self._splits[split] = _EventFile(os.path.join(self.folder, split), self.first_step)
      except OSError as error:
        raise self._unwritable(error) from error
    return self._splits[split]

  def _unwritable(self, error: OSError) -> ConfigError:
    return ConfigError(
      f'TensorBoard events cannot be written to {self.folder}: {error.strerror}: make room or set the permissions, '
      'or choose another --workdir'
    )


class _EventFile:
  """One event file, from `first_step` on."""

  def __init__(self, folder: str, first_step: int):
    os.makedirs(folder, exist_ok=True)
    name = f'{_PREFIX}{_number_after(os.listdir(folder)):010d}.{socket.gethostname()}.{os.getpid()}'
    # No buffer: a kill loses nothing that was written.
    self._file = open(os.path.join(folder, name), 'xb', buffering=0)  # noqa: SIM115 (held until `close`)
    self._records = RecordWriter(self._file)
    self._next_step = first_step
    self._add(event_pb2.Event(file_version='brain.Event:2'))
    self._restart(first_step)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    if step < self._next_step:
      self._restart(step)
    self.add(step, [scalar_pb(name, value) for name, value in values.items()])
    self._next_step = step + 1

  def add(self, step: int, summaries: Sequence[Any]) -> None:
    """Adds to what has been written of this step."""
    for summary in summaries:
      self._add(event_pb2.Event(step=step, summary=summary))

  def sync(self) -> None:
    os.fsync(self._file.fileno())

  def close(self) -> None:
    try:
      self.sync()
    finally:
      self._file.close()

  def _restart(self, step: int) -> None:
    self._add(event_pb2.Event(step=step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))
    self._next_step = step

  def _add(self, event: Any) -> None:
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())


def _image(tag: str, pixels: np.ndarray) -> Any:
  """uint8 [H, W], [H, W, 1] or [H, W, 3] as the image plugin takes it: width, height and a PNG file."""
  height, width = pixels.shape[:2]
  strings = [str(width).encode(), str(height).encode(), png(pixels)]
  tensor = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_STRING,
    tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))]),
    string_val=strings,
  )
  metadata = image_metadata.create_summary_metadata(display_name=None, description=None)
  return summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _number_after(names: list[str]) -> int:
  """Now in seconds, as TensorBoard's own writers number their files, but above the number of each file that is there.

  TensorBoard reads the files of a folder in the order of their names. The next attempt may come within the second, or
  on a machine whose clock is behind.
  """
  numbers = [name.removeprefix(_PREFIX).partition('.')[0] for name in names if name.startswith(_PREFIX)]
  return max([int(time.time()), *(int(number) + 1 for number in numbers if number.isdecimal())])
