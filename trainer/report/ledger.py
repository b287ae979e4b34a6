"""ledger.jsonl: where the time of a run went, across restarts; goodput.py adds it up.

Each process has a file of its own, ledger.jsonl (the chief) or ledger.worker1.jsonl, ..., of one JSON object per line,
appended as things happen and never rewritten:

  {"kind": "attempt", "time", "pid", "host", "worker"}           a process has started
  {"kind": "span", "name", "begin", "seconds", "first", "last"}  a phase (trainer/runtime/phases.py) has ended; with
                                                                 "busy" and "data_wait" where it is 'step', the latter
                                                                 null if it is not measured
  {"kind": "resumed", "time", "step"}                            a checkpoint was restored; step 0: there was none
  {"kind": "end", "time", "code"}                                the attempt has ended with that exit code

Beside it lies ledger.heartbeat, or ledger.worker1.heartbeat: one object, replaced every second, that says what phase is
under way. After a SIGKILL the next attempt finds it there, and adds what it says as a last span of the killed attempt,
with "cut": true. So a kill loses at most one interval.

Times are seconds since 1970 by the clock as it stood when the process started; it may be set meanwhile. A file that
cannot be written to is said to be so, and never ends a run.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from trainer.runtime.phases import Phase, Phases

# Lines that wait for a disk that cannot be written to; beyond that the oldest are dropped.
_MOST_PENDING = 10_000
# Times are rounded to microseconds, so sums of them are good to a few.
_CLOSE = 1e-5

_FIELDS = {
  'attempt': ('time',),
  'span': ('begin', 'seconds', 'first', 'last'),
  'resumed': ('time', 'step'),
  'end': ('time', 'code'),
}
_BEAT_FIELDS = ('time', 'attempt', 'begin', 'first', 'last', 'busy')
_NAME = re.compile(r'ledger(?:\.worker([1-9][0-9]*))?\.(?:jsonl|heartbeat)')

Line = dict[str, Any]


class Ledger:
  """The writer of one process: made when the process starts, opened when it is known where to write.

  What happens before it is opened is kept, as is what happens while the disk is full; both are written as soon as that
  is possible. A process that never opens it, since there was nothing to do, leaves no trace.
  """

  def __init__(self, phases: Phases, interval_seconds: float = 1.0):
    """Listens from now on. To be made before the first phase has ended.

    Args:
      phases: of this process.
      interval_seconds: time between heartbeats; so much may be lost in a kill.
    """
    self._phases, self._interval = phases, interval_seconds
    self._anchor = time.time() - time.monotonic()
    self._began = self._unix(phases.current.begin)
    self._workdir = self._path = self._heartbeat = ''
    self._head: list[bytes] = []  # the last span of a killed attempt, until it is written, and the line of this one
    self._announced = False
    self._pending: collections.deque[bytes] = collections.deque(maxlen=_MOST_PENDING)
    # Held for no longer than an append takes: the main thread waits for it at the end of each phase.
    self._lock = threading.Lock()
    self._beating = threading.Lock()  # two heartbeats have one temporary name
    self._failing = False
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._beat_on, name='ledger', daemon=True)
    phases.listeners.append(self._phase_ended)

  def open(self, workdir: str, worker: int) -> None:
    """Accounts for an attempt that was killed, writes what has been so far, and begins the heartbeat.

    Args:
      workdir: directory of the run; the chief has claimed it.
      worker: number of this process; 0 is the chief.
    """
    assert not self._path, 'opened twice'
    self._workdir = workdir
    self._heartbeat = os.path.join(workdir, heartbeat_name(worker))
    path = os.path.join(workdir, file_name(worker))
    attempt = {'kind': 'attempt', 'time': self._began, 'pid': os.getpid(), 'host': socket.gethostname()}
    self._head = [_encode({**attempt, 'worker': worker})]
    try:
      if cut := unfinished(read(path), read_heartbeat(self._heartbeat)):
        self._head.insert(0, _encode(cut))
    except OSError as error:
      self._failed(path, error)
    self._path = path
    self.beat()
    self._thread.start()

  def resumed(self, step: int) -> None:
    """Training goes on from this step: a checkpoint was restored, at the start or to roll back, or there is none."""
    self._append({'kind': 'resumed', 'time': self._unix(time.monotonic()), 'step': step})
    if self._path:
      self.beat()  # so that a kill right after it leaves no gap between the last heartbeat and this line

  def beat(self) -> None:
    """Writes what is waiting to be written, and the heartbeat; the thread calls it."""
    try:
      with self._lock:
        self._flush()
      # Not without the lines: a heartbeat is worth nothing where the line of its attempt is missing.
      with self._beating:
        self._write_heartbeat()
    except OSError as error:
      self._failed(self._path, error)
      return
    with self._lock:
      works_again, self._failing = self._failing, False
    if works_again:
      logging.warning('the ledger %s is written again', self._path)

  def close(self, code: int) -> None:
    """Ends the phase that is under way and the attempt, if it was opened. For any thread; the second call does nothing.

    Args:
      code: exit code of the process.
    """
    with self._lock:
      if not self._path or self._closing.is_set():
        return
      self._closing.set()
    if self._thread.is_alive():
      self._thread.join()
    now = time.monotonic()
    try:
      with self._lock:
        self._pending.append(_encode(self._span(self._phases.current, now)))
        self._pending.append(_encode({'kind': 'end', 'time': self._unix(now), 'code': code}))
        self._flush()
      # The temporary one is there if its write failed, or a kill cut it.
      for path in (self._heartbeat, _temporary(self._heartbeat)):
        with contextlib.suppress(FileNotFoundError):
          os.unlink(path)
    except OSError as error:
      self._failed(self._path, error)

  def others(self) -> list[Line]:
    """The newest heartbeats of the workers of this attempt, this one included, each with "worker" and "age" in seconds.

    Those of an earlier attempt are left out: it may have had more workers. One that has ended has no heartbeat. The
    ages are as good as the clocks of the hosts agree.

    Raises:
      OSError: the work directory cannot be read.
    """
    if not self._path:
      return []
    now, found = self._unix(time.monotonic()), []
    for worker in workers(self._workdir):
      beat = read_heartbeat(os.path.join(self._workdir, heartbeat_name(worker)))
      if beat and beat['time'] >= self._began:
        found.append({'worker': worker, 'age': max(0.0, now - beat['time']), **beat})
    return found

  def _phase_ended(self, phase: Phase, end: float) -> None:
    if not self._closing.is_set():
      self._append(self._span(phase, end))

  def _append(self, line: Line) -> None:
    try:
      with self._lock:
        self._pending.append(_encode(line))
        # A disk that fails is the thread's to try again: the main thread shall not wait for it.
        if self._path and not self._failing:
          self._flush()
    except OSError as error:
      self._failed(self._path, error)

  def _flush(self) -> None:
    """Appends in one piece all that is waiting, with the lock held.

    Opened by name each time: a directory that was moved or deleted would take writes to a file that is open for ever.

    Raises:
      OSError: nothing was written.
    """
    if self._announced and not self._pending:
      return
    handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
      size = _mend(handle)
      head = [] if self._announced and size else self._head  # a file that was deleted begins anew, with this attempt
      contents = b''.join([*head, *self._pending])
      try:
        _write_all(handle, contents)
      except OSError:
        os.ftruncate(handle, size)
        raise
    finally:
      os.close(handle)
    self._announced, self._head = True, self._head[-1:]
    self._pending.clear()

  def _write_heartbeat(self) -> None:
    # The clock first: what is said of the phase holds at that time, or the phase has begun since.
    beat = {'time': self._unix(time.monotonic()), 'pid': os.getpid(), 'attempt': self._began}
    beat |= self._facts(self._phases.current)
    temporary = _temporary(self._heartbeat)
    with open(temporary, 'wb', buffering=0) as file:
      _write_all(file.fileno(), _encode(beat))
    os.replace(temporary, self._heartbeat)

  def _beat_on(self) -> None:
    while not self._closing.wait(self._interval):
      self.beat()

  def _failed(self, path: str, error: OSError) -> None:
    """Says so, the first time."""
    with self._lock:
      known, self._failing = self._failing, True
    if not known:
      logging.warning(
        'the ledger %s cannot be written (%s): make room, set the permissions or bring the directory back; training '
        'goes on, and what is missing is written as soon as that is possible',
        path,
        error.strerror or error,
      )

  def _span(self, phase: Phase, end: float) -> Line:
    return _span(self._facts(phase), end - phase.begin)

  def _facts(self, phase: Phase) -> Line:
    return {
      'name': phase.name,
      'begin': self._unix(phase.begin),
      'first': phase.first,
      'last': phase.last,
      'busy': round(phase.busy, 6),
      'data_wait': None if math.isnan(phase.data_wait) else round(phase.data_wait, 6),
    }

  def _unix(self, monotonic: float) -> float:
    return round(self._anchor + monotonic, 6)


def file_name(worker: int) -> str:
  return f'ledger.worker{worker}.jsonl' if worker else 'ledger.jsonl'


def heartbeat_name(worker: int) -> str:
  return f'ledger.worker{worker}.heartbeat' if worker else 'ledger.heartbeat'


def _temporary(heartbeat: str) -> str:
  return f'{heartbeat}.tmp'


def workers(workdir: str) -> list[int]:
  """The workers that have left a ledger or a heartbeat in a work directory, ascending.

  Raises:
    OSError: it cannot be read.
  """
  return sorted({int(match[1] or 0) for match in map(_NAME.fullmatch, os.listdir(workdir)) if match})


def read(path: str) -> list[Line]:
  """The lines of a file, in their order; [] if there is none. A torn last line, of a write under way, is no line.

  Raises:
    OSError: it cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      *texts, _ = file.read().split(b'\n')
  except FileNotFoundError:
    return []
  lines = [_decode(text) for text in texts]
  if None in lines:
    # Nothing is forced to the disk, so a machine that loses its power may leave anything.
    logging.warning('%s: line %d is not a line of a ledger; left out', path, lines.index(None) + 1)
  return [line for line in lines if line is not None]


def read_heartbeat(path: str) -> Line | None:
  """A heartbeat, or None where there is none, or none that can be read as such.

  Raises:
    OSError: the file cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      beat = json.load(file)
    return beat if _are_numbers(beat, _BEAT_FIELDS) and _is_phase(beat) else None
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return None


def unfinished(lines: Sequence[Line], beat: Line | None) -> Line | None:
  """The span that a heartbeat adds to the lines: of an attempt without an end, in a phase that no line has yet.

  Returns:
    The line; None where there is nothing to add.
  """
  last = max((number for number, line in enumerate(lines) if line['kind'] == 'attempt'), default=None)
  if beat is None or last is None or lines[last]['time'] != beat['attempt']:
    return None
  if any(line['kind'] == 'end' for line in lines[last:]):
    return None
  ends = [line['begin'] + line['seconds'] for line in lines[last:] if line['kind'] == 'span']
  if beat['begin'] < max(ends, default=beat['attempt']) - _CLOSE:
    return None  # the phase has ended since, and the next one had no heartbeat yet
  return {**_span(beat, beat['time'] - beat['begin']), 'cut': True}


def _span(phase: Line, seconds: float) -> Line:
  # A heartbeat may be a moment older than its phase.
  span = {'kind': 'span', 'name': phase['name'], 'begin': phase['begin'], 'seconds': round(max(0.0, seconds), 6)}
  names = ('first', 'last', 'busy', 'data_wait') if phase['name'] == 'step' else ('first', 'last')
  return span | {name: phase[name] for name in names}


def _write_all(handle: int, contents: bytes) -> None:
  while contents:  # a disk that becomes full takes a part first, and says so at the next try
    contents = contents[os.write(handle, contents) :]


def _mend(handle: int) -> int:
  """Cuts off a last line that a kill or a full disk has torn; returns the size of the file."""
  size = os.fstat(handle).st_size
  if not size or os.pread(handle, 1, size - 1) == b'\n':
    return size
  whole = os.pread(handle, size, 0).rfind(b'\n') + 1
  os.ftruncate(handle, whole)
  return whole


def _encode(line: Line) -> bytes:
  return json.dumps(line).encode() + b'\n'


def _decode(text: bytes) -> Line | None:
  try:
    line = json.loads(text)
    good = _are_numbers(line, _FIELDS[line['kind']])
    return line if good and (line['kind'] != 'span' or _is_phase(line)) else None
  except (ValueError, KeyError, TypeError):
    return None


def _is_phase(line: Line) -> bool:
  if line['name'] != 'step':
    return isinstance(line['name'], str)
  return _are_numbers(line, ('busy',)) and (line['data_wait'] is None or _are_numbers(line, ('data_wait',)))


def _are_numbers(line: Line, names: tuple[str, ...]) -> bool:
  return all(isinstance(line[name], int | float) for name in names)
