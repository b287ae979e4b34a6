"""The checkpoints of a run in its bucket: a step counts when its complete.json is there, which is written last.

  checkpoints/STEP/...               the files of a step, as trainer/checkpoint/layout.py has them in a folder
  checkpoints/STEP/complete.json     written last, deleted first
  checkpoints/damaged/STEP-n/...     moved aside

An object is there whole or not at all, and nothing has to be renamed. What the bucket has is the truth: a step that
lies here but did not get there before a kill is thrown away. Of the steps that are there, only the markers are fetched
at first, and the files of one when it is to be read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

from absl import logging

from trainer.storage.bucket import Bucket

CHECKPOINTS = 'checkpoints'
MARKER = 'complete.json'
_NAME = re.compile(r'(0|[1-9]\d*)/(.+)')


class Steps:
  """Args:
  bucket: of the run.
  folder: of the checkpoints on this machine.
  writer: whether this process publishes, removes and tidies.
  before_marker: called when all files of a step are in the bucket, and it does not count yet.
  """

  def __init__(self, bucket: Bucket, folder: str, *, writer: bool, before_marker: Callable[[], None] = lambda: None):
    self._bucket, self._folder, self._writer, self._before_marker = bucket, folder, writer, before_marker

  def sync(self) -> None:
    """Makes the folder here say which steps count in the bucket; what a killed process left there is deleted."""
    there = self._there()
    complete = {step: names for step, names in there.items() if MARKER in names}
    if self._writer:
      for step in there.keys() - complete.keys():
        self._bucket.delete(self._objects(step, there[step]))
    for name in os.listdir(self._folder) if os.path.isdir(self._folder) else ():
      if name == 'damaged' or (name.isdigit() and int(name) in complete):
        continue
      if name.isdigit() and os.path.exists(os.path.join(self._folder, name, MARKER)):
        logging.warning('checkpoint %s did not get into %s before the end: it does not count', name, self._bucket.url)
      shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)
    for step in complete:
      self._marker(step)

  def fetch(self, step: int, *, again: bool = False) -> None:
    """Brings the files of a step here; those that are here already, by name and size, only if `again`.

    What has gone meanwhile is left out, for whoever reads the step to find.
    """
    if again:
      shutil.rmtree(self._path(step), ignore_errors=True)
    if not self._marker(step):
      return
    sizes = self._there(step).get(step, {})
    missing = {name: size for name, size in sizes.items() if _size(os.path.join(self._path(step), name)) != size}
    try:
      self._bucket.download(self._path(step), missing, f'{CHECKPOINTS}/{step}/')
    except FileNotFoundError:
      self._marker(step)

  def publish(self, step: int) -> None:
    """Copies a step that is complete here to the bucket, where it counts when this returns.

    Raises:
      BucketError: the bucket refuses, or cannot be reached.
    """
    folder = self._path(step)
    files = [os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names]
    if earlier := self._there(step).get(step):
      self._delete(step, earlier)
    self._bucket.upload(folder, sorted(set(files) - {MARKER}), f'{CHECKPOINTS}/{step}/')
    self._before_marker()
    self._bucket.upload(folder, [MARKER], f'{CHECKPOINTS}/{step}/')

  def keep_only(self, steps: set[int]) -> None:
    """Deletes the other steps; they do not count from the first moment on."""
    for step, names in self._there().items():
      if step not in steps:
        self._delete(step, names)

  def set_aside(self, step: int, name: str) -> None:
    """Moves a damaged step to checkpoints/damaged/`name`."""
    names = self._there(step).get(step, {})
    for file in names:
      self._bucket.copy(f'{CHECKPOINTS}/{step}/{file}', f'{CHECKPOINTS}/damaged/{name}/{file}')
    self._delete(step, names)

  def _there(self, step: int | None = None) -> dict[int, dict[str, int]]:
    """Sizes of the objects of each step, or of one, by their names below it."""
    prefix = f'{CHECKPOINTS}/' if step is None else f'{CHECKPOINTS}/{step}/'
    found: dict[int, dict[str, int]] = {}
    for name, size in self._bucket.sizes(prefix).items():
      if match := _NAME.fullmatch(name.removeprefix(f'{CHECKPOINTS}/')):
        found.setdefault(int(match[1]), {})[match[2]] = size
    return found

  def _marker(self, step: int) -> bool:
    """Makes the marker here that of the bucket, the files of another go; whether the step counts there."""
    path = os.path.join(self._path(step), MARKER)
    contents = self._bucket.read(f'{CHECKPOINTS}/{step}/{MARKER}')
    if contents is None:
      shutil.rmtree(self._path(step), ignore_errors=True)
      return False
    try:
      with open(path, 'rb') as file:
        if file.read() == contents:
          return True
    except OSError:
      pass
    shutil.rmtree(self._path(step), ignore_errors=True)
    os.makedirs(self._path(step))
    with open(path, 'wb') as file:
      file.write(contents)
    return True

  def _delete(self, step: int, names: dict[str, int]) -> None:
    self._bucket.delete([f'{CHECKPOINTS}/{step}/{MARKER}'])
    self._bucket.delete(self._objects(step, names))

  def _objects(self, step: int, names: dict[str, int]) -> list[str]:
    return [f'{CHECKPOINTS}/{step}/{name}' for name in names if name != MARKER]

  def _path(self, step: int) -> str:
    return os.path.join(self._folder, str(step))


def _size(path: str) -> int:
  try:
    return os.path.getsize(path)
  except OSError:
    return -1
