"""The checkpoints of one run: when one is saved, restored, fallen back from and deleted, and what a failure does.

A save, in the background, each line durable before the next begins:

  Orbax writes the arrays under another name -> arrays hashed, before and after -> files hashed and synced -> manifest
  written -> folder renamed -> manifest renamed to complete.json: the step counts -> surplus steps deleted

Of a run in a bucket, the complete step is then copied there, and counts when that is done (trainer/storage/steps.py).
Where each process has only a part of the state, each writes a part of the step (parts.py), and the chief does the rest.

The first save of a process is also read back and compared. Doing so each time would cost about as much as the save and
prove little: the bytes come from the system's cache, and what Orbax does to an array is the same in each save of a run.
Every restore is verified against the disk.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (its exit hook must be registered before ours: see _finish_all)
import errno
import json
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from trainer.checkpoint import disk, manifest, orbax_io, parts, retention
from trainer.checkpoint.errors import CheckpointError, DamagedCheckpoint, NoSuchCheckpoint, reason
from trainer.checkpoint.layout import Layout, Restored
from trainer.errors import ConfigError
from trainer.storage.steps import Steps

MOST_FAILURES = 3  # failed saves in a row after which the next one raises
_READ_BACK_BYTES = 256 * 1024**2  # host memory that reading back may take, if no single array is larger
_OVERHEAD_BYTES, _OVERHEAD_BYTES_PER_ARRAY = 1024**2, 4096  # generous, for what Orbax and the manifest add


def on_stage(stage: str) -> None:
  """Called in the thread of a save with the name of each stage that it has reached; tests replace it to stop there.

  In order: begun, written, sealed, (replacing,) before_marker, complete, (uploaded,) (deleting, once per
  step,) collected.
  """


class Checkpoints:
  """The checkpoints of one folder. One process, the chief, decides; any number read. Not for use by several threads.

  The defaults are those of a reader.

  Args:
    directory: the folder; a writer creates it.
    keep: how many of the newest steps to keep, at least 1.
    keep_best: how many of the best by metric to keep beside them.
    best_mode: 'max' or 'min'.
    writer: whether this process begins and completes saves, deletes, and moves damaged steps aside.
    member, members: this is process `member` of those that write a step together, of which the writer is the first.
    remote: the bucket that the folder is a copy of; a step that is saved counts when it is there.

  Raises:
    ConfigError: a writer cannot write there.
  """

  def __init__(
    self,
    directory: str,
    *,
    keep: int = 1,
    keep_best: int = 0,
    best_mode: str = 'max',
    writer: bool = False,
    member: int = 0,
    members: int = 1,
    remote: Steps | None = None,
  ):
    assert writer == (member == 0) or members == 1, (writer, member, members)
    assert keep >= 1 and keep_best >= 0 and best_mode in ('max', 'min'), (keep, keep_best, best_mode)
    self._layout = Layout(os.path.abspath(directory), lambda stage: on_stage(stage), remote)
    self._keep, self._keep_best, self._best_mode, self._writer = keep, keep_best, best_mode, writer
    self._member, self._members = member, members
    self._sizes: dict[str, int] = {}  # of the step that was begun last, by name of array
    self._given_up = threading.Event()  # set when a process that writes a part is lost
    self._thread: threading.Thread | None = None
    self._failure: Exception | None = None
    self._failures = 0
    self._began: float | None = None  # when the save under way began
    self.save_seconds: float | None = None  # how long the last save that succeeded took, from begin to end
    self._untidy: set[int] = set()  # steps whose save failed: threads of Orbax may write on after its error
    self._known_good: set[int] = set()
    self._read_back = False
    if writer:
      disk.make_writable(self._layout.directory)
      _writers.add(self)

  def steps(self) -> list[int]:
    """The complete steps on disk now, ascending. Their data are not verified."""
    return self._layout.steps()

  def metric(self, step: int) -> float | None:
    """The metric that a step was saved with; None without one, and when the step or its manifest cannot be read."""
    try:
      return self._layout.read_manifest(step).metric
    except (DamagedCheckpoint, ConfigError):
      return None

  def host(self, step: int) -> dict[str, Any]:
    """What a complete step was saved with beside its arrays, without reading those.

    Raises:
      DamagedCheckpoint: the manifest is not what was written.
      NoSuchCheckpoint: the step is not complete.
    """
    return self._layout.read_manifest(step).host

  def best_step(self) -> int | None:
    """The complete step with the best metric, of equals the newest; None when no step has a metric."""
    return next(iter(retention.best({step: self.metric(step) for step in self.steps()}, self._best_mode)), None)

  def damaged(self) -> str | None:
    """The folder of the steps that were moved aside; None if there are none."""
    folder = os.path.join(self._layout.directory, 'damaged')
    return folder if os.path.isdir(folder) and os.listdir(folder) else None

  def begin(self, step: int, sizes: Mapping[str, int], *, metric: float | None = None) -> int:
    """Makes room for a step and its folder, by the chief; waits only for an earlier save that is still under way.

    Args:
      step: optimizer steps that the state has seen.
      sizes: bytes of each array of the step.
      metric: see `save`.

    Returns:
      A token for `save`, for all processes; 0 where the disk refuses, which counts as a save that failed.

    Raises:
      CheckpointError: the last `MOST_FAILURES` saves have all failed.
    """
    assert self._writer and step >= 0, step
    self._join()
    self._check_failures()
    self._sizes, token = dict(sizes), secrets.randbits(48) | 1
    try:
      self._layout.tidy(step)
      if later := [other for other in self.steps() if other > step]:
        logging.warning('step %d is saved beside later steps (%s): a restart resumes from the latest', step, later)
      self._make_room(step, sizes, metric)
      if self._members > 1:
        os.mkdir(self._layout.saving(step, token))
    except OSError as error:
      self._failed(step, error)
      return 0
    return token

  def share(self, sizes: Mapping[str, int]) -> set[str]:
    """Which of the arrays this process is to give `save`; all of them where it writes alone."""
    return parts.share(sizes, self._members)[self._member]

  def save(
    self,
    step: int,
    arrays: dict[str, np.ndarray],
    host: dict[str, Any],
    *,
    metric: float | None = None,
    token: int | None = None,
  ) -> None:
    """Saves a step in the background; waits only for an earlier save that is still under way.

    A save that fails is logged and kept in `failure`; the older steps are untouched. A step that exists is replaced.

    Args:
      step: optimizer steps that the state has seen.
      arrays: by name; this process' share. They are not copied and must not change until the save has ended: a change
        is found out, and fails the save.
      host: what is not an array, as JSON (string keys, lists, no tuples); taken over before this returns.
      metric: ranks the step among the best; None or NaN: not among them.
      token: what `begin` gave the chief; None: it is begun here.

    Raises:
      CheckpointError: the last `MOST_FAILURES` saves have all failed.
      TypeError: an array has a dtype that a checkpoint cannot hold, or `host` is not JSON.
    """
    manifest.check_savable(arrays)
    frozen = json.dumps(host)
    if token is None:
      token = self.begin(step, {name: array.nbytes for name, array in arrays.items()}, metric=metric)
    if not token:
      return
    self._join()
    rank = None if metric is None else float(metric)
    self._began = time.monotonic()
    # Not a daemon: a process that ends waits for its last save (see _finish_all).
    self._thread = threading.Thread(
      target=self._save, args=(int(step), dict(arrays), frozen, rank, token), name=f'checkpoint-{step}', daemon=False
    )
    self._thread.start()

  def refused(self, step: int, error: Exception) -> None:
    """Counts a save that could not begin, because what has to be on the disk before it is not, as one that failed.

    Raises:
      CheckpointError: as `save`.
    """
    self._join()
    self._check_failures()
    self._failed(step, error)

  def wait(self) -> None:
    """Returns when no save is under way.

    Raises:
      CheckpointError: the last save failed.
    """
    self._join()
    if self._failure is not None:
      raise CheckpointError(f'the last checkpoint was not saved: {reason(self._failure)}') from self._failure

  def saving_for(self) -> float | None:
    """For how many seconds a save has been under way; None if none is. For any thread."""
    thread, began = self._thread, self._began
    return time.monotonic() - began if thread is not None and thread.is_alive() and began is not None else None

  def failure(self) -> Exception | None:
    """Why the last save that has ended failed; None if it did not."""
    return self._failure

  def give_up(self) -> None:
    """Tells a save under way that a process is lost, whose part may never come."""
    self._given_up.set()

  def close(self) -> None:
    """Waits for a save that is under way; to be called before the process ends.

    Does not raise: `wait` tells whether the last save succeeded.
    """
    self._join()
    _writers.discard(self)

  def restore(self, step: int) -> Restored:
    """Reads a step and verifies every file, array, shape, dtype and hash.

    Raises:
      DamagedCheckpoint: the bytes on disk are not those that were saved.
      NoSuchCheckpoint: the step is not complete, or was deleted while it was read.
      CheckpointError: the files are whole, but this version of Orbax cannot read them.
    """
    self._join()
    found = self._layout.read(step)
    self._known_good.add(step)
    return found

  def newest_intact(self) -> Restored | None:
    """The newest complete step that verifies; None if there is none.

    Every damaged step that is newer is named in a warning and, by a writer, moved to damaged/, so that its step can be
    saved again.

    Raises:
      CheckpointError: a step's files are whole, but this version of Orbax cannot read them.
    """
    self._join()
    tried: set[int] = set()
    while untried := [step for step in self.steps() if step not in tried]:
      tried.add(step := untried[-1])
      try:
        return self.restore(step)
      except NoSuchCheckpoint:
        continue  # the writer deleted it meanwhile, so there is a newer one
      except DamagedCheckpoint as damage:
        where = f'moved to {self._layout.set_aside(step)}' if self._writer else 'left where it is'
        logging.warning('%s; %s; falling back to an older checkpoint', damage, where)
    return None

  def clean(self) -> None:
    """Removes what interrupted saves and deletions of ours left behind; for the writer, at start.

    A step without a complete marker that does not look like an interrupted save of ours is moved to damaged/ with a
    warning. Everything else in the folder is left alone.
    """
    assert self._writer
    self._join()
    for step in self._layout.leftovers():
      self._layout.tidy(step)

  def _save(self, step: int, arrays: dict[str, np.ndarray], host: str, metric: float | None, token: int) -> None:
    """One save from beginning to end; the body of the thread."""
    started, folder = time.monotonic(), self._layout.saving(step, token)
    try:
      path = os.path.join(folder, parts.folder(self._member, self._members)).rstrip(os.sep)
      specs, files = parts.write(path, arrays, self._compare, lambda stage: on_stage(stage))
      own = manifest.Manifest(step, metric, json.loads(host), specs, files, orbax_io.VERSION)
      if not self._writer:
        parts.announce(folder, self._member, own)
        self._failure, self._failures = None, 0
        return
      others = parts.collect(folder, range(1, self._members), time.monotonic() - started, self._given_up)
      self._layout.commit(parts.joined(own, others, self._sizes), folder)
    except Exception as error:  # noqa: BLE001  (a thread has nobody to raise to: it is logged, counted and kept)
      self._failed(step, error)
      if not self._writer:
        parts.announce_failure(folder, self._member, error)
        return
      self._untidy.add(step)
      self._attempt('remove what a failed save left behind', lambda: self._layout.tidy(step))
      return
    self._failure, self._failures, self.save_seconds = None, 0, time.monotonic() - started
    self._known_good.add(step)
    size = sum(self._sizes.values()) / 1e9
    logging.info('saved checkpoint of step %d: %.3f GB in %.1f s', step, size, time.monotonic() - started)
    self._attempt('delete old checkpoints', lambda: self._collect(step))
    on_stage('collected')

  def _check_failures(self) -> None:
    if self._failures >= MOST_FAILURES:
      raise CheckpointError(
        f'{self._failures} checkpoints in a row could not be saved to {self._layout.directory!r}; the last: '
        f'{reason(self._failure)}'
      ) from self._failure

  def _failed(self, step: int, error: Exception) -> None:
    self._failures += 1
    left = MOST_FAILURES - self._failures
    after = f'training goes on, {left} more in a row will end it' if left > 0 else 'the next save will end training'
    logging.error('checkpoint of step %d was not saved: %s; %s', step, reason(error), after)
    self._failure = error

  def _make_room(self, step: int, sizes: Mapping[str, int], metric: float | None) -> None:
    """Where the disk is too full for a save, deletes first what would be surplus after it, oldest first.

    Raises:
      OSError: there still is not enough room.
    """
    needed = sum(sizes.values()) + _OVERHEAD_BYTES + _OVERHEAD_BYTES_PER_ARRAY * len(sizes)
    free = disk.free_bytes(self._layout.directory)
    missing = needed - free
    going: list[int] = []
    if missing > 0 and self.steps():
      for old in self._surplus({step: metric}):
        if missing > 0:
          missing -= sum(file.bytes for file in self._layout.read_manifest(old).files.values())
          going.append(old)
    if missing > 0:
      raise OSError(errno.ENOSPC, f'{needed / 1e9:.3f} GB needed, {free / 1e9:.3f} GB free')
    for old in going:
      logging.warning('the disk is too full for step %d: step %d, which would go after it, is deleted first', step, old)
      self._layout.delete(old)

  def _surplus(self, coming: dict[int, float | None]) -> list[int]:
    """The complete steps that need not be kept, ascending; never the newest that is known to be good.

    Args:
      coming: the metric of a step that will be complete, and count among the kept.
    """
    there = {other: self.metric(other) for other in self.steps()}
    protected = {*coming, max(self._known_good & there.keys(), default=max(there))}
    found = retention.surplus(
      {**there, **coming},
      keep=self._keep,
      keep_best=self._keep_best,
      best_mode=self._best_mode,
      protected=protected,
    )
    return [old for old in found if old in there]

  def _compare(self, folder: str, specs: Mapping[str, manifest.ArraySpec]) -> None:
    """Reads back what was first written, some arrays at a time, and compares it with what was given."""
    if self._read_back:
      return
    for names in manifest.groups(specs, _READ_BACK_BYTES):
      if fault := manifest.difference({name: specs[name] for name in names}, orbax_io.read(folder, names)):
        raise CheckpointError(f'Orbax {orbax_io.VERSION} does not give back what it wrote: {fault}')
    self._read_back = True

  def _collect(self, step: int) -> None:
    """Deletes the surplus, now that a step is complete; never that step, nor the newest that is known to be good."""
    for unsure in (step, *self._untidy):
      self._layout.tidy(unsure)
    self._untidy.clear()
    for old in self._surplus({step: self.metric(step)}):
      self._layout.delete(old)

  def _attempt(self, what: str, action: Callable[[], None]) -> None:
    """Does what no save depends on; if the disk refuses, says so and goes on."""
    try:
      action()
    except OSError as error:
      logging.warning('could not %s in %s: %s', what, self._layout.directory, reason(error))

  def _join(self) -> None:
    if self._thread is not None:
      self._thread.join()
      self._thread = None


_writers: weakref.WeakSet[Checkpoints] = weakref.WeakSet()


def _finish_all() -> None:
  for writer in list(_writers):
    writer.close()


# Before Python waits, at its end, for the threads that are not daemons, it stops all thread pools, and Orbax needs them
# to write. This hook runs earlier still; no public one does (`atexit` runs after the wait). Python 3.12 alone lets no
# thread start even here: there a save that nobody waits for fails at the end of the process, and says so. So `close`.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
