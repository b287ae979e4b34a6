"""Notices from a file, a deadline and a metadata server that is made up here, over real HTTP."""

from __future__ import annotations

import math
import queue
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.programs.metadata_server import EVENT, LONG, NO_NOTICE, PREEMPTED, UPCOMING, Metadata
from trainer.errors import ConfigError
from trainer.runtime import notices as notices_lib
from trainer.runtime.notices import Maintenance, Notices, stop_at, stop_file, upcoming
from trainer.runtime.preemption import Stop

NEVER = 3600.0


class Heard(Stop):
  """A flag that can be waited for."""

  def __init__(self) -> None:
    super().__init__()
    self.at_once = False
    self.reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

  def request(self, reason: str, *, grace_seconds: float | None = None) -> None:
    super().request(reason, grace_seconds=grace_seconds)
    self.reasons.put(reason)

  def wait(self) -> str:
    return self.reasons.get(timeout=LONG)


@pytest.fixture
def server():
  metadata = Metadata()
  thread = threading.Thread(target=metadata.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  yield metadata
  metadata.end()
  thread.join()


@pytest.fixture
def stop():
  return Heard()


@pytest.fixture
def listen(stop, tmp_path, monkeypatch):
  """A function that makes a Notices, by default with no source but the stop file, which it never looks at again."""
  for name in ('GCE_METADATA_HOST', 'NO_GCE_CHECK'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(Notices, 'FILE_SECONDS', NEVER)
  monkeypatch.setattr(Notices, 'RETRY_SECONDS', 0.01)
  made = []

  def make(
    *, host: str = '', grace: float = 30.0, longest: float = 0.0, started: float | None = None, **keywords
  ) -> Notices:
    faults = SimpleNamespace(metadata_host=host, grace_seconds=grace, max_runtime_seconds=longest)
    keywords = {'workdir': str(tmp_path), 'is_chief': True, **keywords}
    made.append(Notices(stop, faults=faults, started=time.monotonic() if started is None else started, **keywords))
    return made[-1]

  yield make
  for notices in made:
    notices.close()


def begun(notices: Notices) -> set[str]:
  """The names of the threads that it starts."""
  before = set(threading.enumerate())
  notices.start()
  return {thread.name for thread in set(threading.enumerate()) - before}


def join(name: str) -> None:
  """Waits for the end of a thread of notices."""
  for thread in threading.enumerate():
    if thread.name == f'notices-{name}':
      thread.join(LONG)
      assert not thread.is_alive()


# -- preemption --------------------------------------------------------------------------------------------------------


def test_a_preemption_is_heard(server, stop, listen):
  listen(host=server.host).start()
  server.wait_for(PREEMPTED, waiting=True)
  assert not stop.requested
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'
  first, second, *_ = server.asked(PREEMPTED)
  assert first.query == {}
  assert second.query == {'wait_for_change': 'true', 'timeout_sec': '20', 'last_etag': '0'}
  assert {request.flavor for request in server.requests} == {'Google'}


def test_a_preemption_before_the_start_is_heard(server, stop, listen):
  server.set(PREEMPTED, 'TRUE')
  listen(host=server.host).start()
  assert stop.wait() == 'this machine is being preempted'


@pytest.mark.parametrize('is_chief', [True, False])
def test_each_machine_has_its_own(server, stop, listen, is_chief):
  listen(host=server.host, is_chief=is_chief).start()
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'


def test_the_environment_names_the_server(server, stop, listen, monkeypatch):
  monkeypatch.setenv('GCE_METADATA_HOST', server.host)
  listen(host='auto').start()
  server.set(PREEMPTED, 'TRUE')
  stop.wait()


def test_googles_own_names_are_tried(server, stop, listen, monkeypatch, free_port):
  monkeypatch.setattr(notices_lib, '_GOOGLE_HOSTS', (f'127.0.0.1:{free_port()}', server.host))
  listen(host='auto').start()
  server.set(PREEMPTED, 'TRUE')
  stop.wait()


def test_google_is_not_looked_for_where_the_environment_says_so(listen, monkeypatch):
  monkeypatch.setenv('NO_GCE_CHECK', 'true')
  assert begun(listen(host='auto')) == {'notices-stop-file'}


def test_no_host_is_no_server(listen, monkeypatch):
  monkeypatch.setenv('GCE_METADATA_HOST', '127.0.0.1:1')
  assert begun(listen(host='')) == {'notices-stop-file'}


def test_proxies_are_not_asked(server, stop, listen, monkeypatch):
  proxy = Metadata()  # not serving: who asks it waits for ever
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy'):
    monkeypatch.setenv(name, f'http://{proxy.host}')
  for name in ('no_proxy', 'NO_PROXY'):
    monkeypatch.delenv(name, raising=False)
  listen(host=server.host).start()
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'
  proxy.server_close()


# -- maintenance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('event', ['TERMINATE_ON_HOST_MAINTENANCE', 'SHUTDOWN_ON_HOST_MAINTENANCE'])
@pytest.mark.parametrize('has_accelerator', [True, False])
def test_a_termination_stops(server, stop, listen, event, has_accelerator):
  listen(host=server.host, has_accelerator=has_accelerator).start()
  server.wait_for(EVENT, waiting=True)
  server.set(EVENT, event)
  assert stop.wait() == f'host maintenance ({event})'


def test_a_migration_stops_a_machine_with_an_accelerator(server, stop, listen):
  listen(host=server.host, has_accelerator=True).start()
  server.wait_for(EVENT, waiting=True)
  server.set(EVENT, 'MIGRATE_ON_HOST_MAINTENANCE')
  assert stop.wait() == 'host maintenance (MIGRATE_ON_HOST_MAINTENANCE)'


def test_a_machine_without_an_accelerator_migrates_and_goes_on(server, stop, listen, capfd):
  listen(host=server.host).start()
  for number, event in enumerate(['MIGRATE_ON_HOST_MAINTENANCE', 'NONE', 'MIGRATE_ON_HOST_MAINTENANCE'], 1):
    server.wait_for(EVENT, number, waiting=True)
    server.set(EVENT, event)
  server.wait_for(EVENT, 4, waiting=True)
  assert not stop.requested
  line = 'trainer: this machine is about to be migrated to another host; training goes on\n'
  assert capfd.readouterr().err == line
  server.set(EVENT, 'TERMINATE_ON_HOST_MAINTENANCE')
  assert stop.wait() == 'host maintenance (TERMINATE_ON_HOST_MAINTENANCE)'


def window(seconds: float) -> str:
  return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + seconds))


@pytest.mark.parametrize(
  'notice',
  [
    '{"maintenanceStatus": "ONGOING", "windowStartTime": "2024-11-15T04:00:00Z", "canReschedule": false}',
    '{"Upcoming maintenance": {"maintenance_status": "ONGOING", "window_start_time": "2024-11-15T04:00:00Z"}}',
    '{"maintenance_status": "ONGOING"}',
    f'{{"maintenanceStatus": "PENDING", "windowStartTime": "{window(80)}"}}',
    f'{{"maintenanceStatus": "PENDING", "windowStartTime": "{window(-5)}"}}',
  ],
  ids=range(5),  # a time in the name of a test would be another one in each process that collects it
)
def test_maintenance_that_is_near_stops(server, stop, listen, notice):
  server.set(UPCOMING, notice)
  listen(host=server.host, grace=30.0).start()
  assert stop.wait().startswith('host maintenance')
  assert server.asked(UPCOMING)[0].query == {'alt': 'json'}


def test_maintenance_that_is_far_is_said_once(server, stop, listen, capfd, monkeypatch):
  monkeypatch.setattr(Notices, 'MAINTENANCE_SECONDS', 0.01)
  server.set(UPCOMING, '{"maintenanceStatus": "PENDING", "windowStartTime": "2124-11-15T04:00:00Z"}')
  listen(host=server.host).start()
  server.wait_for(UPCOMING, 5)
  assert not stop.requested
  line = 'trainer: host maintenance from 2124-11-15 04:00:00 UTC (PENDING); the run will stop before\n'
  assert capfd.readouterr().err == line
  server.set(UPCOMING, '{"maintenanceStatus": "ONGOING", "windowStartTime": "2124-11-15T04:00:00Z"}')
  assert stop.wait() == 'host maintenance from 2124-11-15 04:00:00 UTC (ONGOING)'


@pytest.mark.parametrize('nothing', [NO_NOTICE, '{}', 'NONE', '"NONE"', '', '[1]', 'gibberish'])
def test_no_maintenance_is_no_news(server, stop, listen, capfd, monkeypatch, nothing):
  monkeypatch.setattr(Notices, 'MAINTENANCE_SECONDS', 0.01)
  server.set(UPCOMING, nothing)
  listen(host=server.host).start()
  server.wait_for(UPCOMING, 3)
  assert not stop.requested
  assert capfd.readouterr().err == ''


def test_a_key_that_is_not_there_is_not_asked_for_again(server, stop, listen):
  server.set(UPCOMING, None)
  server.set(EVENT, None)
  listen(host=server.host).start()
  server.wait_for(UPCOMING)
  server.wait_for(EVENT)
  join('metadata')
  join('maintenance-event')
  assert len(server.asked(UPCOMING)) == len(server.asked(EVENT)) == 1
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'


@given(
  now=st.floats(0, 4e9),
  grace=st.floats(0, 1e5),
  away=st.floats(-1e5, 1e6),
  status=st.sampled_from(['PENDING', 'ONGOING']),
)
def test_when_maintenance_is_due(now, grace, away, status):
  maintenance = Maintenance(status, now + away)
  assert maintenance.is_due(now, grace) == (status == 'ONGOING' or (now + away) - now <= grace)
  assert not Maintenance('PENDING', None).is_due(now, grace)
  assert not Maintenance('COMPLETE', now).is_due(now, grace)


@given(
  start=st.integers(0, 4_000_000_000),
  status=st.sampled_from(['PENDING', 'ONGOING', 'Pending']),
  names=st.sampled_from([('maintenanceStatus', 'windowStartTime'), ('maintenance_status', 'window_start_time')]),
  zone=st.sampled_from(['Z', '+00:00', '.000000000Z', '']),
)
def test_a_notice_is_read_in_each_spelling(start, status, names, zone):
  moment = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(start)) + zone
  assert upcoming(f'{{"{names[0]}": "{status}", "{names[1]}": "{moment}"}}') == Maintenance(status.upper(), start)


# -- a server with faults ----------------------------------------------------------------------------------------------


def test_a_server_that_is_away_for_a_moment_is_asked_again(server, stop, listen):
  server.faults = [503, 503]
  listen(host=server.host).start()
  server.wait_for(PREEMPTED, waiting=True)
  server.faults = [503, 500]
  server.set(PREEMPTED, 'FALSE')
  server.wait_for(PREEMPTED, 3, waiting=True)
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'


def test_a_server_that_cannot_wait_is_not_overrun(server, stop, listen, monkeypatch):
  monkeypatch.setattr(Notices, 'RETRY_SECONDS', NEVER)
  server.waits = False
  notices = listen(host=server.host)
  notices.start()
  for key in (PREEMPTED, EVENT):
    server.wait_for(key, waiting=True)
  notices.close()
  join('preempted')
  join('maintenance-event')
  assert len(server.asked(PREEMPTED)) == len(server.asked(EVENT)) == 2


def test_nobody_waits_for_a_server_that_hangs(server, stop, listen):
  server.hung = True
  notices = listen(host=server.host)
  notices.start()  # returns though nothing has been answered, and nothing will be
  server.wait_for('')
  assert len(server.requests) == 1
  with server.changed:
    server.hung = False
    server.changed.notify_all()
  server.set(PREEMPTED, 'TRUE')
  assert stop.wait() == 'this machine is being preempted'


def test_a_name_that_takes_long_to_look_up_delays_nothing(stop, listen, monkeypatch):
  looked_up, answered = threading.Event(), threading.Event()

  def look_up(*args, **keywords):
    looked_up.set()
    answered.wait(LONG)
    raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

  monkeypatch.setattr(socket, 'getaddrinfo', look_up)
  monkeypatch.setattr(Notices, 'PROBES', 1)
  listen(host='metadata.made.up').start()
  assert looked_up.wait(LONG)
  assert not answered.is_set()
  answered.set()
  join('metadata')
  assert not stop.requested


def silent(server) -> None:
  server.hung = True


def another_clouds(server) -> None:
  server.flavor = None


def always_away(server) -> None:
  server.faults = [503] * 100
  server.flavor = None


def refuses(server) -> None:
  server.shutdown()
  server.server_close()


@pytest.mark.parametrize(
  ('fault', 'complaint', 'probes'),
  [
    (silent, '(timed out)', 3),
    (another_clouds, "(it answers 200 without 'Metadata-Flavor: Google')", 1),
    (always_away, "(it answers 503 without 'Metadata-Flavor: Google')", 3),
    (refuses, '([Errno 111] Connection refused)', 0),
  ],
)
@pytest.mark.parametrize('named', ['config', 'environment', 'nobody'])
def test_no_server_is_given_up(server, stop, listen, capfd, monkeypatch, fault, complaint, probes, named):
  monkeypatch.setattr(Notices, 'PROBE_SECONDS', 0.1 if fault is silent else LONG)
  if named == 'environment':
    monkeypatch.setenv('GCE_METADATA_HOST', server.host)
  monkeypatch.setattr(notices_lib, '_GOOGLE_HOSTS', (server.host,))
  fault(server)
  listen(host=server.host if named == 'config' else 'auto').start()
  join('metadata')
  assert not stop.requested
  if probes:
    server.wait_for('', probes)
  assert len(server.requests) == probes
  expected = f'trainer: warning: no metadata server of Google at {server.host} {complaint}, so notices of preemption'
  said = capfd.readouterr().err
  assert said.startswith(expected) if named != 'nobody' else said == ''
  assert said.count('\n') == (named != 'nobody')


@pytest.mark.parametrize('host', ['http://127.0.0.1:1', '127.0.0.1:port', 'a host', '\N{SNOWMAN}.example', ':'])
def test_a_host_that_is_none_is_said_to_be(listen, capfd, monkeypatch, host):
  monkeypatch.setattr(Notices, 'PROBES', 1)
  listen(host=host).start()
  join('metadata')
  assert capfd.readouterr().err.startswith(f'trainer: warning: no metadata server of Google at {host} (')


def test_a_server_that_is_not_googles_any_more_is_not_believed(server, stop, listen):
  listen(host=server.host).start()
  server.wait_for(PREEMPTED, waiting=True)
  server.flavor = None
  server.set(PREEMPTED, 'TRUE')
  server.wait_for(PREEMPTED, 4)
  assert not stop.requested
  server.flavor = 'Google'
  assert stop.wait() == 'this machine is being preempted'


def test_what_comes_after_the_end_has_no_effect(server, stop, listen):
  notices = listen(host=server.host)
  notices.start()
  server.wait_for(PREEMPTED, waiting=True)
  notices.close()
  server.set(PREEMPTED, 'TRUE')
  join('preempted')
  assert not stop.requested


# -- stop file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('is_chief', [True, False])
def test_the_stop_file_stops_and_stays(stop, listen, monkeypatch, tmp_path, is_chief):
  monkeypatch.setattr(Notices, 'FILE_SECONDS', 0.001)
  listen(is_chief=is_chief).start()
  path = tmp_path / 'STOP'
  path.touch()
  assert stop.wait() == f'the stop file {path}; remove it to go on'
  assert stop.grace_left(30) == math.inf
  assert path.exists()
  assert stop_file(str(tmp_path)) == str(path)


def test_the_directory_may_come_later(stop, listen, monkeypatch, tmp_path):
  monkeypatch.setattr(Notices, 'FILE_SECONDS', 0.001)
  listen(workdir=str(tmp_path / 'run')).start()
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'STOP').touch()
  stop.wait()


# -- deadline ----------------------------------------------------------------------------------------------------------


def test_the_deadline_leaves_time_for_a_save(stop, listen):
  listen(longest=100.0, grace=30.0, started=time.monotonic() - 71).start()
  assert stop.wait() == 'faults.max_runtime_seconds=100 is nearly over'
  assert stop.grace_left(1000) <= 29


def test_a_long_save_moves_the_deadline(stop, listen, monkeypatch):
  monkeypatch.setattr(Notices, 'DEADLINE_SECONDS', 0.001)
  asked = threading.Event()
  seconds = 0.0

  def save_seconds() -> float:
    asked.set()
    return seconds

  notices = listen(longest=1000.0, started=time.monotonic())
  notices.save_seconds = save_seconds
  notices.start()
  assert asked.wait(LONG)
  assert not stop.requested
  seconds = 700.0
  stop.wait()
  assert 900 < stop.grace_left(30) <= 1000  # the save that is expected to take 700 s has its time


def test_no_limit_is_no_deadline(listen):
  assert begun(listen(started=time.monotonic() - 1e9)) == {'notices-stop-file'}


@pytest.mark.parametrize('longest', [0.5, 30.0])
def test_a_limit_that_leaves_no_time_to_train_is_a_mistake(listen, longest):
  with pytest.raises(
    ConfigError, match=rf'^faults.max_runtime_seconds={longest:g} is not more than .*grace_seconds=30 '
  ):
    listen(longest=longest, grace=30.0)


@given(started=st.floats(0, 1e6), longest=st.floats(1, 1e6), grace=st.floats(0.1, 1e4), save=st.floats(0, 1e4))
def test_when_to_stop_for_the_deadline(started, longest, grace, save):
  left = started + longest - stop_at(started, longest, grace, save)
  assert left >= grace - 1e-6
  assert left >= 1.5 * save
  assert left == pytest.approx(grace, abs=1e-6) or left == pytest.approx(1.5 * save + 5, abs=1e-6)
