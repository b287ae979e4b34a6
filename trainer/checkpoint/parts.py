"""A step that several processes write together: each a part, some of the arrays, in a folder of its own in the step's.

The chief makes the step's folder, and tells the others its token, which no other save has: a part counts only if it was
written for this very save. Each process writes and seals its part, and then says in a file beside it what is in it, or
why there is none; the chief waits for these files, and puts the parts together in the step's manifest.

  STEP.saving-TOKEN/part-K          Orbax's folder of process K
  STEP.saving-TOKEN/part-K.json     its manifest; the chief removes it when the step is put together
  STEP.saving-TOKEN/part-K.failed   why there is none
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from trainer import durable
from trainer.checkpoint import disk, manifest, orbax_io
from trainer.checkpoint.errors import CheckpointError, reason

# What others may take longer than the chief: they wrote as many bytes, to the same disks.
_PATIENCE_SECONDS, _PATIENCE = 60.0, 5.0
_GIVEN_UP_SECONDS = 1.0  # for parts that are as good as written when it is known that one will never come
_POLL_SECONDS = 0.02, 1.0


def share(sizes: Mapping[str, int], members: int) -> list[set[str]]:
  """Which names each of `members` processes writes: about equally many bytes, and the same answer everywhere.

  Args:
    sizes: bytes by name.
    members: at least 1.
  """
  shares: list[set[str]] = [set() for _ in range(members)]
  loads = [0] * members
  for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
    lightest = loads.index(min(loads))
    shares[lightest].add(name)
    loads[lightest] += sizes[name]
  return shares


def folder(member: int, members: int) -> str:
  """Where process `member` of `members` writes, relative to the step's folder; a process alone needs no other."""
  return f'part-{member}' if members > 1 else ''


def announce(step_folder: str, member: int, part: manifest.Manifest) -> None:
  """Says that a part is sealed, and what is in it."""
  _say(os.path.join(step_folder, f'part-{member}.json'), manifest.encode(part))


def announce_failure(step_folder: str, member: int, error: Exception) -> None:
  """Says that a part will not come, if the disk lets it; otherwise the chief waits as long as its patience lasts."""
  with contextlib.suppress(OSError):
    _say(os.path.join(step_folder, f'part-{member}.failed'), reason(error).encode())


def _say(path: str, contents: bytes) -> None:
  """Writes a file that is whole as soon as it has its name.

  The chief forces the name to the disk: by the time this process could, it may have given the folder another one.
  """
  disk.write_file(f'{path}.new', contents)
  os.rename(f'{path}.new', path)


def collect(
  step_folder: str, members: Sequence[int], seconds: float, given_up: threading.Event
) -> dict[int, manifest.Manifest]:
  """Waits for the parts of other processes, and takes what they say of them.

  Args:
    step_folder: absolute path.
    members: their numbers.
    seconds: that this process needed for its own part.
    given_up: set when it is known that a process is lost.

  Returns:
    What each wrote.

  Raises:
    CheckpointError: a part is not there, and why.
  """
  found: dict[int, manifest.Manifest] = {}
  limit = time.monotonic() + _PATIENCE_SECONDS + _PATIENCE * seconds
  pause = _POLL_SECONDS[0]
  while missing := [member for member in members if member not in found]:
    for member in missing:
      path = os.path.join(step_folder, f'part-{member}')
      if os.path.exists(f'{path}.failed'):
        with open(f'{path}.failed', encoding='utf-8', errors='replace') as file:
          raise CheckpointError(f'worker {member} could not write its part: {file.read()}')
      if os.path.exists(f'{path}.json'):
        with open(f'{path}.json', 'rb') as file:
          found[member] = manifest.decode(file.read())
        os.unlink(f'{path}.json')
    if given_up.is_set():
      limit = min(limit, time.monotonic() + _GIVEN_UP_SECONDS)
    if len(found) < len(members):
      if time.monotonic() > limit:
        raise CheckpointError(f'worker {missing[0]} did not write its part in time')
      given_up.wait(pause) if not given_up.is_set() else time.sleep(_POLL_SECONDS[0])
      pause = min(2 * pause, _POLL_SECONDS[1])
  durable.sync_folder(step_folder)
  return found


def joined(own: manifest.Manifest, others: Mapping[int, manifest.Manifest], names: Iterable[str]) -> manifest.Manifest:
  """The manifest of a step, out of those of its parts, with the arrays in the order of `names`.

  Raises:
    CheckpointError: the parts do not have each array once.
  """
  together = [own, *(others[member] for member in sorted(others))]
  folders = tuple(folder(member, len(together)) for member in range(len(together)))
  arrays = {name: spec for part in together for name, spec in part.arrays.items()}
  if arrays.keys() != set(names) or len(arrays) != sum(len(part.arrays) for part in together):
    raise CheckpointError('the parts of the workers are not those of one state: start all of them from one version')
  files = {
    f'{where}/{path}' if where else path: spec
    for where, part in zip(folders, together, strict=True)
    for path, spec in part.files.items()
  }
  return dataclasses.replace(own, arrays={name: arrays[name] for name in names}, files=files, parts=folders)


def write(
  path: str, arrays: Mapping[str, np.ndarray], check: Callable[[str, Mapping[str, manifest.ArraySpec]], None],
  on_stage: Callable[[str], None],
) -> tuple[dict[str, manifest.ArraySpec], dict[str, manifest.FileSpec]]:  # fmt: skip
  """Writes arrays to a folder and forces it to the disk.

  Args:
    path: absolute path of the folder, which must not exist.
    arrays: by name.
    check: called with the folder and what must be in it, when it is written.
    on_stage: called with 'begun', 'written' and 'sealed'.

  Returns:
    What was written: the arrays; and the files, relative to the folder.

  Raises:
    CheckpointError: an array changed while it was written.
    OSError: the disk.
  """
  arrays = {name: np.asarray(array, order='C') for name, array in arrays.items()}
  specs = {name: manifest.describe(array) for name, array in arrays.items()}
  on_stage('begun')
  if stored := {name: array for name, array in arrays.items() if array.size}:
    orbax_io.write(path, stored)
  else:
    os.mkdir(path)
  on_stage('written')
  if changed := manifest.difference(specs, arrays):
    raise CheckpointError(f'{changed}: it changed while it was being saved')
  check(path, specs)
  files = disk.seal(path)
  on_stage('sealed')
  return specs, files
