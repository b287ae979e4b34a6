"""What lies in the folder of checkpoints, and how a step comes to count, stops to count, and is read.

  STEP/                 a checkpoint: Orbax's folder, and complete.json, the manifest that makes it count
  STEP.saving-*         being written, or left behind by an interrupted save
  STEP.replaced         what a second save of the same step replaces, until the new one is complete
  STEP.deleting         no longer counts, being deleted
  damaged/STEP-n        moved aside because its bytes are not those that were saved; never deleted by us

Every change of a name is durable before the next begins, so that a kill at any moment leaves a complete step, or
something that `tidy` recognises as ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from trainer import durable
from trainer.checkpoint import disk, manifest, orbax_io
from trainer.checkpoint.errors import CheckpointError, DamagedCheckpoint, NoSuchCheckpoint, reason
from trainer.errors import ConfigError
from trainer.storage.steps import MARKER, Steps

_INCOMPLETE = 'saving.json'
_STEP = re.compile(r'0|[1-9]\d*')
_OURS = re.compile(r'(0|[1-9]\d*)(|\.saving.*|\.replaced|\.deleting)')


@dataclasses.dataclass(frozen=True)
class Restored:
  """A verified checkpoint.

  Attributes:
    step: optimizer steps that the state has seen.
    arrays: equal to the byte to what was saved, by the name it was saved under.
    host: what was saved, as JSON gives it back.
  """

  step: int
  arrays: dict[str, np.ndarray]
  host: dict[str, Any]


class Layout:
  """The folder of one run's checkpoints.

  Args:
    directory: absolute path.
    on_stage: called with the name of each stage that a change has reached.
    remote: the bucket that the folder is a copy of, where a change counts.
  """

  def __init__(self, directory: str, on_stage: Callable[[str], None], remote: Steps | None = None):
    self.directory = directory
    self._on_stage, self._remote = on_stage, remote

  def steps(self) -> list[int]:
    """The complete steps, ascending; nothing but names is read."""
    return sorted(int(name) for name in self._names() if _STEP.fullmatch(name) and self.is_complete(int(name)))

  def leftovers(self) -> list[int]:
    """The steps, complete or not, that anything in the folder is named after; ascending."""
    return sorted({int(match[1]) for match in map(_OURS.fullmatch, self._names()) if match})

  def is_complete(self, step: int) -> bool:
    return os.path.lexists(os.path.join(self._path(step), MARKER))

  def saving(self, step: int, token: int) -> str:
    """Where the files of a step are written before it counts."""
    return self._path(step, f'.saving-{token:x}')

  def commit(self, contents: manifest.Manifest, saving: str) -> None:
    """Makes the step count whose files lie in `saving`, hashed and synced; what it replaces is STEP.replaced then."""
    step, folder = contents.step, self._path(contents.step)
    disk.write_file(os.path.join(saving, _INCOMPLETE), manifest.encode(contents))
    durable.sync_folder(saving)
    if self.is_complete(step):
      disk.rename(folder, self._path(step, '.replaced'))
      self._on_stage('replacing')
    disk.rename(saving, folder)
    self._on_stage('before_marker')
    marker, unmarked = os.path.join(folder, MARKER), os.path.join(folder, _INCOMPLETE)
    try:
      disk.rename(unmarked, marker)
    except OSError:
      # The name may have changed though it could not be forced to the disk: a save reported as failed must not count.
      with contextlib.suppress(FileNotFoundError):
        os.rename(marker, unmarked)
      raise
    self._on_stage('complete')
    if self._remote is not None:
      self._remote.publish(step)
      self._on_stage('uploaded')

  def delete(self, step: int) -> None:
    """Deletes a complete step; it does not count from the first moment on."""
    disk.rename(self._path(step), self._path(step, '.deleting'))
    self._on_stage('deleting')
    disk.remove(self._path(step, '.deleting'))
    if self._remote is not None:
      self._remote.keep_only(set(self.steps()))

  def tidy(self, step: int) -> None:
    """Leaves of a step either a complete folder or none, and nothing beside it.

    A folder that has no marker and does not look like an interrupted save of ours is moved aside with a warning.
    """
    folder, replaced = self._path(step), self._path(step, '.replaced')
    for name in self._names():
      if re.fullmatch(rf'{step}\.(saving.*|deleting)', name):
        disk.remove(os.path.join(self.directory, name))
    if os.path.isdir(folder) and not self.is_complete(step):
      if os.path.exists(os.path.join(folder, _INCOMPLETE)):
        disk.remove(folder)
      else:
        logging.warning('checkpoint of step %d has no %s; moved to %s', step, MARKER, self.set_aside(step))
    if os.path.isdir(replaced):
      if self.is_complete(step):
        disk.remove(replaced)
      else:
        disk.rename(replaced, folder)

  def set_aside(self, step: int) -> str:
    """Moves a step to damaged/, so that it does not count and can be saved again; returns where it is now."""
    moved = disk.move_aside(self._path(step), os.path.join(self.directory, 'damaged'))
    if self._remote is not None:
      self._remote.set_aside(step, os.path.basename(moved))
    return moved

  def read_manifest(self, step: int) -> manifest.Manifest:
    """The manifest of a complete step.

    Raises:
      DamagedCheckpoint: it is not what was written.
      NoSuchCheckpoint: the step is not complete.
      ConfigError: it is in a format of another version of this program.
    """
    try:
      with open(os.path.join(self._path(step), MARKER), 'rb') as file:
        found = manifest.decode(file.read())
    except FileNotFoundError:
      raise self.missing(step) from None
    except OSError as error:
      if disk.is_loss(error):
        raise DamagedCheckpoint(step, f'{MARKER} cannot be read: {error.strerror}') from error
      raise
    except ConfigError:
      raise
    except ValueError as error:
      raise DamagedCheckpoint(step, f'{MARKER}: {error}') from error
    if found.step != step:
      raise DamagedCheckpoint(step, f'{MARKER} is that of step {found.step}')
    return found

  def read(self, step: int) -> Restored:
    """A step, every file, array, shape, dtype and hash of which is verified.

    Raises:
      NoSuchCheckpoint: it is not complete, or was deleted while it was read.
      DamagedCheckpoint: a file or array is not what was saved.
      CheckpointError: the files are, but this version of Orbax cannot read them.
    """
    try:
      return self._verified(step)
    except DamagedCheckpoint:
      if self._remote is None:
        raise
    return self._verified(step, again=True)  # what is here may be damaged, and what is in the bucket not

  def _verified(self, step: int, again: bool = False) -> Restored:
    try:
      if self._remote is not None:
        self._remote.fetch(step, again=again)
      found = self.read_manifest(step)
      return Restored(step, self._read_arrays(found), found.host)
    except CheckpointError as error:
      if not self.is_complete(step):
        raise self.missing(step) from error
      raise

  def _read_arrays(self, found: manifest.Manifest) -> dict[str, np.ndarray]:
    """The arrays that a manifest describes, equal to the byte."""
    folder = self._path(found.step)
    # The files first: on damaged ones Orbax may do anything, and what it refuses after that is not for lack of bytes.
    if fault := disk.first_fault(folder, found.files):
      raise DamagedCheckpoint(found.step, fault)
    arrays = {name: np.empty(spec.shape, spec.dtype) for name, spec in found.arrays.items() if not spec.size}
    if found.files:
      try:
        for part in found.parts:
          arrays.update(orbax_io.read(os.path.join(folder, part)))
      except MemoryError:
        raise
      except Exception as error:
        raise CheckpointError(
          f'checkpoint of step {found.step} is intact, but Orbax {orbax_io.VERSION} cannot read what '
          f'Orbax {found.orbax} wrote: {reason(error)}'
        ) from error
    if fault := manifest.difference(found.arrays, arrays):
      raise DamagedCheckpoint(found.step, fault)
    return {name: arrays[name] for name in found.arrays}

  def missing(self, step: int) -> NoSuchCheckpoint:
    """The error to raise where a step is asked for that is not there."""
    have = ', '.join(str(other) for other in self.steps()) or 'none'
    return NoSuchCheckpoint(f'no complete checkpoint of step {step} in {self.directory!r}: choose one of these: {have}')

  def _names(self) -> list[str]:
    try:
      return os.listdir(self.directory)
    except FileNotFoundError:
      return []

  def _path(self, step: int, suffix: str = '') -> str:
    return os.path.join(self.directory, f'{step}{suffix}')
