"""Notices that the run is to stop, other than signals: a file, a deadline, and Google's metadata server.

Each source has daemon threads of its own and calls `Stop.request`. Nothing here delays a start or raises into training:
a machine without a metadata server, or without names, finds that out in a thread.

The metadata server, as its pages have it (cloud.google.com):

  compute/docs/metadata/querying-metadata        header 'Metadata-Flavor: Google', required in a request and given in an
                                                 answer; `wait_for_change`, `timeout_sec` and `last_etag` make it answer
                                                 when a value changes; it answers 503 at times, so try again
  compute/docs/instances/create-use-preemptible  `instance/preempted` is TRUE once a machine is being taken away, some
                                                 30 s before
  compute/docs/metadata/getting-live-migration-notice
  compute/docs/gpus/gpu-host-maintenance         `instance/maintenance-event`: NONE, MIGRATE_ON_HOST_MAINTENANCE or
                                                 TERMINATE_ON_HOST_MAINTENANCE, 60 s before (an hour with GPUs), and
                                                 only if somebody has asked since the last one; machines with
                                                 accelerators cannot be migrated
  tpu/docs/view-maintenance-notifications        `instance/upcoming-maintenance?alt=json`: maintenanceStatus PENDING or
                                                 ONGOING, windowStartTime; {"error": ...} where there is none
  compute/docs/instances/monitor-plan-host-maintenance-event
                                                 the same for other machines: maintenance_status, window_start_time,
                                                 maybe inside "Upcoming maintenance"; {} where there is none

What the pages do not say, but others have met: `upcoming-maintenance` answers 503 where there is none, and NONE or 404
where the kind of machine has no such notices.
"""

from __future__ import annotations

import dataclasses
import datetime
import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from trainer.errors import ConfigError
from trainer.runtime.preemption import Stop, say

STOP_FILE = 'STOP'

# A block of steps, the agreement and the exit take their time too.
_MARGIN_SECONDS = 5.0
_SAVE_FACTOR = 1.5
# Google's own agent uses these names too. The address comes first: looking up a name can take half a minute elsewhere.
_HOST_VARIABLE, _NO_CHECK_VARIABLE = 'GCE_METADATA_HOST', 'NO_GCE_CHECK'
_GOOGLE_HOSTS = ('169.254.169.254', 'metadata.google.internal')
_FLAVOR = 'Metadata-Flavor'
_ANSWER_BYTES = 65536
_ERRORS = (OSError, http.client.HTTPException, ValueError)


def stop_file(workdir: str) -> str:
  """The file whose being there stops a run, and keeps it from going on until the user removes it."""
  return os.path.join(workdir, STOP_FILE)


def stop_at(started: float, max_runtime_seconds: float, grace_seconds: float, save_seconds: float) -> float:
  """When to ask for a stop, so that a save fits before the deadline.

  Args:
    started: `time.monotonic()` at the start of the process.
    max_runtime_seconds: from there to the deadline.
    grace_seconds: least time to leave.
    save_seconds: what the last save took; 0 where there was none.
  """
  return started + max_runtime_seconds - max(grace_seconds, _SAVE_FACTOR * save_seconds + _MARGIN_SECONDS)


@dataclasses.dataclass(frozen=True)
class Maintenance:
  """What `instance/upcoming-maintenance` says.

  Attributes:
    status: 'PENDING', 'ONGOING', or what else there may be.
    start: when the window opens, seconds since 1970; None where that is not said.
  """

  status: str
  start: float | None

  def is_due(self, now: float, grace_seconds: float) -> bool:
    """Whether it has begun, or begins within the grace."""
    pending = self.status == 'PENDING' and self.start is not None and self.start - now <= grace_seconds
    return pending or self.status == 'ONGOING'

  def __str__(self) -> str:
    when = '' if self.start is None else f' from {datetime.datetime.fromtimestamp(self.start, datetime.UTC):%F %T} UTC'
    return f'host maintenance{when} ({self.status})'


def upcoming(text: str) -> Maintenance | None:
  """Reads an answer of `instance/upcoming-maintenance`; None where it announces nothing.

  Raises:
    ValueError: it is not JSON, or its time is none.
  """
  if text.strip() in ('', 'NONE'):
    return None
  said = _lower_keys(json.loads(text))
  said = _lower_keys(said.get('upcomingmaintenance', said))
  if 'maintenancestatus' not in said:
    return None
  start = said.get('windowstarttime')
  return Maintenance(str(said['maintenancestatus']).upper(), _seconds(str(start)) if start else None)


def _seconds(moment: str) -> float:
  """Seconds since 1970, from RFC 3339."""
  parsed = datetime.datetime.fromisoformat(moment)
  return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


def _lower_keys(value: Any) -> dict[str, Any]:
  """Keys without the differences between 'windowStartTime', 'window_start_time' and 'Window start time'."""
  if not isinstance(value, dict):
    return {}
  return {key.lower().replace('_', '').replace(' ', ''): item for key, item in value.items()}


@dataclasses.dataclass(frozen=True)
class _Answer:
  """What a server said; `is_google` if it says that it is Google's metadata server."""

  status: int
  is_google: bool
  text: str
  etag: str


class _Server:
  """A metadata server at `host`, if there is one."""

  def __init__(self, host: str):
    self.host = host
    # It is on this machine or in it: a proxy from the environment would ask somebody else's.
    self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

  def ask(self, path: str, timeout_seconds: float) -> _Answer:
    """Raises one of _ERRORS where nobody answers in HTTP."""
    request = urllib.request.Request(f'http://{self.host}/{path}', headers={_FLAVOR: 'Google'})
    try:
      answer = self._opener.open(request, timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
      answer = error
    with answer:
      headers, text = answer.headers, answer.read(_ANSWER_BYTES).decode()
      return _Answer(answer.status, headers.get(_FLAVOR) == 'Google', text, headers.get('ETag', ''))

  def value(self, key: str, timeout_seconds: float, **query: str) -> _Answer:
    """What it says of a key, as in 'instance/preempted'.

    Raises:
      LookupError: the server does not have this key.
      OSError, HTTPException, ValueError: it cannot be told now.
    """
    query_string = f'?{urllib.parse.urlencode(query)}' if query else ''
    answer = self.ask(f'computeMetadata/v1/{key}{query_string}', timeout_seconds)
    if answer.is_google and answer.status == http.client.NOT_FOUND:
      raise LookupError(key)
    if not answer.is_google or answer.status != http.client.OK:
      raise OSError(f'{self.host} answers {answer.status}')
    return answer


class Notices:
  """Listens to all sources but signals, from `start` to `close`.

  Attributes:
    save_seconds: tells how long the last save took; 0 as long as there was none.
    has_accelerator: whether this machine has a GPU or a TPU, with which it cannot be migrated. May be set later.
  """

  # Tests shorten these.
  FILE_SECONDS = 1.0
  DEADLINE_SECONDS = 1.0
  PROBES = 3  # before it is settled that there is no metadata server
  PROBE_SECONDS = 3.0
  # A notice of preemption comes 30 s before: a connection that has died in silence, or a server that was away, must not
  # cost it.
  WAIT_SECONDS = 20  # the longest that the server lets a request wait for a change
  RETRY_SECONDS = 1.0
  LONGEST_RETRY_SECONDS = 5.0
  MAINTENANCE_SECONDS = 30.0

  def __init__(
    self,
    stop: Stop,
    *,
    workdir: str,
    faults: Any,
    started: float,
    is_chief: bool,
    has_accelerator: bool = False,
    stop_file_name: str = '',
  ):
    """Does nothing yet.

    Args:
      stop: the flag.
      workdir: directory of the run, which need not be there yet.
      faults: section `faults` of the config.
      started: `time.monotonic()` at the start of the process.
      is_chief: the others look for the stop file less often: that one hears is enough, and the directory is shared.
      has_accelerator: see above.
      stop_file_name: what the user calls the stop file, where that is not its path here.

    Raises:
      ConfigError: the time limit leaves no time to train.
    """
    longest, grace = faults.max_runtime_seconds, faults.grace_seconds
    if 0 < longest <= grace:
      raise ConfigError(
        f'faults.max_runtime_seconds={longest:g} is not more than the faults.grace_seconds={grace:g} that are kept for '
        'the last save: raise the former or lower the latter'
      )
    self.save_seconds: Callable[[], float] = lambda: 0.0
    self.has_accelerator = has_accelerator
    self._stop_file_name = stop_file_name or stop_file(workdir)
    self._stop, self._workdir, self._faults, self._started, self._is_chief = stop, workdir, faults, started, is_chief
    named = os.environ.get(_HOST_VARIABLE, '') if faults.metadata_host == 'auto' else faults.metadata_host
    self._named = named  # by the user, who wants to know when it does not answer
    anywhere = faults.metadata_host == 'auto' and os.environ.get(_NO_CHECK_VARIABLE, '').lower() != 'true'
    self._hosts = (named,) if named else _GOOGLE_HOSTS if anywhere else ()
    self._closed = threading.Event()
    self._said: set[str] = set()

  def start(self) -> None:
    """Begins to listen; returns at once."""
    self._begin('stop-file', self._watch_file)
    if self._faults.max_runtime_seconds:
      self._begin('deadline', self._watch_deadline)
    if self._hosts:
      self._begin('metadata', self._find_server)

  def close(self) -> None:
    """Stops listening. Threads that wait for an answer are left to themselves, but have no effect any more."""
    self._closed.set()

  def _begin(self, name: str, listen: Callable[[], None]) -> None:
    threading.Thread(target=listen, name=f'notices-{name}', daemon=True).start()

  def _request(self, reason: str, *, grace_seconds: float | None = None) -> None:
    if not self._closed.is_set():
      self._stop.request(reason, grace_seconds=grace_seconds)

  def _say_once(self, text: str) -> None:
    if text not in self._said and not self._closed.is_set():
      self._said.add(text)
      say(text)

  # -- file and deadline ---------------------------------------------------------------------------------------------

  def _watch_file(self) -> None:
    path, pause = stop_file(self._workdir), self.FILE_SECONDS * (1 if self._is_chief else 10)
    while not os.path.exists(path):
      if self._closed.wait(pause):
        return
    self._request(f'the stop file {self._stop_file_name}; remove it to go on', grace_seconds=math.inf)

  def _watch_deadline(self) -> None:
    longest, grace = self._faults.max_runtime_seconds, self._faults.grace_seconds
    # The time of a save changes with each save.
    while (left := stop_at(self._started, longest, grace, self.save_seconds()) - time.monotonic()) > 0:
      if self._closed.wait(min(left, self.DEADLINE_SECONDS)):
        return
    left = self._started + longest - time.monotonic()
    self._request(f'faults.max_runtime_seconds={longest:g} is nearly over', grace_seconds=left)

  # -- metadata server -----------------------------------------------------------------------------------------------

  def _find_server(self) -> None:
    """Looks for a metadata server; listens to it, or gives up for good."""
    hosts, trouble = list(self._hosts), ''
    for probe in range(self.PROBES):
      if probe and self._closed.wait(self.RETRY_SECONDS):
        return
      for host in tuple(hosts):
        server = _Server(host)
        try:
          answer = server.ask('', self.PROBE_SECONDS)
        except _ERRORS as error:
          trouble = str(getattr(error, 'reason', error)) or type(error).__name__
          continue
        if answer.is_google:
          self._listen(server)
          return
        trouble = f"it answers {answer.status} without '{_FLAVOR}: Google'"
        if answer.status < 500:
          hosts.remove(host)  # it is another cloud's, or no metadata server at all
      if not hosts:
        break
    if self._named:
      self._say_once(
        f'warning: no metadata server of Google at {self._named} ({trouble}), so notices of preemption and maintenance '
        f'are not heard: mend faults.metadata_host or {_HOST_VARIABLE}'
      )

  def _listen(self, server: _Server) -> None:
    self._begin('preempted', lambda: self._watch(server, 'instance/preempted', self._heed_preempted))
    self._begin('maintenance-event', lambda: self._watch(server, 'instance/maintenance-event', self._heed_event))
    self._watch_upcoming(server)

  def _listening(self) -> bool:
    return not (self._closed.is_set() or self._stop.requested)

  def _watch(self, server: _Server, key: str, heed: Callable[[str], None]) -> None:
    """Heeds the value of a key, now and whenever it changes."""
    last: _Answer | None = None
    failures = 0
    while self._listening():
      query = {}
      if last is not None:
        query = {'wait_for_change': 'true', 'timeout_sec': str(self.WAIT_SECONDS)}
        if last.etag:
          query['last_etag'] = last.etag  # so that a change between two requests is not missed
      asked = time.monotonic()
      try:
        answer = server.value(key, self.WAIT_SECONDS + self.PROBE_SECONDS if query else self.PROBE_SECONDS, **query)
      except LookupError:
        return
      except _ERRORS:
        pause = min(self.RETRY_SECONDS * 2**failures, self.LONGEST_RETRY_SECONDS)
        failures = min(failures + 1, 10)
        if self._closed.wait(pause):
          return
        continue
      failures = 0
      heed(answer.text.strip().upper())
      # A server that answers at once though nothing has changed does not know how to wait.
      if last is not None and answer.text == last.text:
        self._closed.wait(max(0.0, asked + self.RETRY_SECONDS - time.monotonic()))
      last = answer

  def _heed_preempted(self, value: str) -> None:
    if value == 'TRUE':
      self._request('this machine is being preempted')

  def _heed_event(self, value: str) -> None:
    if value in ('', 'NONE'):
      return
    if value == 'MIGRATE_ON_HOST_MAINTENANCE' and not self.has_accelerator:
      self._say_once('this machine is about to be migrated to another host; training goes on')
      return
    self._request(f'host maintenance ({value})')

  def _watch_upcoming(self, server: _Server) -> None:
    # What begins before the next look must be heeded now.
    grace = self._faults.grace_seconds + 2 * self.MAINTENANCE_SECONDS
    while self._listening():
      try:
        answer = server.value('instance/upcoming-maintenance', self.PROBE_SECONDS, alt='json')
        maintenance = upcoming(answer.text)
      except LookupError:
        return
      except _ERRORS:
        maintenance = None  # for the time being: 503 is what most machines without a notice get
      if maintenance and maintenance.is_due(time.time(), grace):
        self._request(str(maintenance))
      elif maintenance and maintenance.status == 'PENDING':
        self._say_once(f'{maintenance}; the run will stop before')
      self._closed.wait(self.MAINTENANCE_SECONDS)
