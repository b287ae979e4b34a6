"""The ledger's writer: what it writes, and what a kill loses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.report import goodput, ledger
from trainer.report.ledger import Ledger
from trainer.runtime.phases import Phases

from .conftest import NEVER, START, Clock, heartbeat, kill, lines, spans


def test_an_attempt_from_its_start_to_its_end(tmp_path, clock):
  now = Phases(clock.now)
  written = Ledger(now, NEVER)
  clock.now += 2
  now.enter('build')
  clock.now += 1
  assert os.listdir(tmp_path) == []
  written.open(str(tmp_path), 0)
  now.enter('restore')
  clock.now += 3
  written.resumed(540)
  now.enter('step', 540)
  clock.now += 10
  now.progress(560, 8.0, 0.5)
  now.enter('eval')
  clock.now += 0.25
  written.close(75)
  attempt, *rest = lines(tmp_path)
  assert attempt == {'kind': 'attempt', 'time': START, 'pid': os.getpid(), 'host': attempt['host'], 'worker': 0}
  assert rest == [
    {'kind': 'span', 'name': 'import', 'begin': START, 'seconds': 2.0, 'first': 0, 'last': 0},
    {'kind': 'span', 'name': 'build', 'begin': START + 2, 'seconds': 1.0, 'first': 0, 'last': 0},
    {'kind': 'resumed', 'time': START + 6, 'step': 540},
    {'kind': 'span', 'name': 'restore', 'begin': START + 3, 'seconds': 3.0, 'first': 0, 'last': 0},
    {
      'kind': 'span', 'name': 'step', 'begin': START + 6, 'seconds': 10.0, 'first': 540, 'last': 560, 'busy': 8.0,
      'data_wait': 0.5,
    },
    {'kind': 'span', 'name': 'eval', 'begin': START + 16, 'seconds': 0.25, 'first': 560, 'last': 560},
    {'kind': 'end', 'time': START + 16.25, 'code': 75},
  ]  # fmt: skip
  assert os.listdir(tmp_path) == ['ledger.jsonl']


def test_what_is_never_opened_or_closed_already_writes_nothing(tmp_path, clock, begin):
  now = Phases(clock.now)
  unopened = Ledger(now, NEVER)
  now.enter('build')
  unopened.resumed(3)
  unopened.close(2)
  assert unopened.others() == [] and os.listdir(tmp_path) == []
  now, written = begin()
  written.close(0)
  before = lines(tmp_path)
  written.close(75)
  now.enter('step')
  assert lines(tmp_path) == before and before[-1]['code'] == 0


def test_another_thread_may_end_the_attempt(tmp_path, clock, begin):
  now, written = begin()
  now.enter('step')
  watchdog = threading.Thread(target=written.close, args=(75,))
  watchdog.start()
  watchdog.join(60)
  now.enter('eval')
  assert spans(tmp_path) == ['import', 'step']
  assert lines(tmp_path)[-1]['code'] == 75


def test_each_line_is_there_when_its_phase_has_ended(tmp_path, clock, begin):
  now, _ = begin()
  for count, name in enumerate(('build', 'seek', 'compile', 'step'), 1):
    now.enter(name)
    assert len(spans(tmp_path)) == count


def test_a_clock_that_is_set_back_meanwhile_does_no_harm(tmp_path, clock, begin):
  now, written = begin()
  clock.now += 5
  clock.unix -= 3600
  now.enter('build')
  clock.now += 1
  written.close(0)
  assert lines(tmp_path)[2]['begin'] == START + 5
  assert lines(tmp_path)[-1]['time'] == START + 6


def test_a_wait_that_is_not_measured_is_null(tmp_path, clock, begin):
  now, written = begin()
  now.enter('step')
  clock.now += 5
  now.progress(10, 4.0, math.nan)
  written.beat()
  assert ledger.read_heartbeat(str(tmp_path / 'ledger.heartbeat'))['data_wait'] is None
  kill(written)
  begin()
  assert [
    (line['data_wait'], line['cut']) for line in ledger.read(str(tmp_path / 'ledger.jsonl')) if 'cut' in line
  ] == [(None, True)]


def test_the_heartbeat_says_what_is_under_way(tmp_path, clock, begin):
  now, written = begin()
  assert heartbeat(tmp_path)['name'] == 'import'
  now.enter('step', 30)
  clock.now += 4
  now.progress(50, 3.0, 1.0)
  clock.now += 1
  written.beat()
  assert heartbeat(tmp_path) == {
    'time': START + 5, 'pid': os.getpid(), 'attempt': START, 'name': 'step', 'begin': START, 'first': 30, 'last': 50,
    'busy': 3.0, 'data_wait': 1.0,
  }  # fmt: skip
  assert sorted(os.listdir(tmp_path)) == ['ledger.heartbeat', 'ledger.jsonl']


def test_the_thread_beats(tmp_path, monkeypatch):
  beat, third, count = Ledger.beat, threading.Event(), 0

  def counted(self):
    nonlocal count
    beat(self)
    count += 1
    if count == 3:
      third.set()

  monkeypatch.setattr(Ledger, 'beat', counted)
  written = Ledger(Phases(time.monotonic()), 0.01)
  written.open(str(tmp_path), 0)
  assert third.wait(60)
  assert heartbeat(tmp_path)['time'] > lines(tmp_path)[0]['time']
  written.close(0)
  assert not written._thread.is_alive()


def test_each_worker_has_its_own_files_and_sees_the_others(tmp_path, clock, begin):
  for worker in (0, 1, 12):
    begin(worker=worker)[1].beat()
  clock.now += 10
  now, chief = begin()  # the next attempt, of two workers
  clock.now += 5
  _, other = begin(worker=1)
  clock.now += 2
  now.enter('compile')
  chief.beat()
  assert [(beat['worker'], beat['age'], beat['name']) for beat in chief.others()] == [
    (0, 0, 'compile'),
    (1, 2, 'import'),
  ]
  assert [beat['worker'] for beat in other.others()] == [0, 1]
  assert lines(tmp_path, 'ledger.worker1.jsonl')[-1]['worker'] == 1
  assert ledger.workers(str(tmp_path)) == [0, 1, 12]
  other.close(0)
  assert [beat['worker'] for beat in chief.others()] == [0]


def test_the_next_attempt_accounts_for_a_killed_one_once(tmp_path, clock, begin):
  now, written = begin()
  now.enter('step')
  clock.now += 30
  now.progress(570, 20.0, 2.0)
  clock.now += 1
  written.beat()
  clock.now += 0.9
  kill(written)
  clock.now += 60
  _, written = begin()
  cut, attempt = lines(tmp_path)[-2:]
  assert cut == {
    'kind': 'span', 'name': 'step', 'begin': START, 'seconds': 31.0, 'first': 0, 'last': 570, 'busy': 20.0,
    'data_wait': 2.0, 'cut': True,
  }  # fmt: skip
  assert (attempt['kind'], attempt['time']) == ('attempt', START + 91.9)
  clock.now += 1
  kill(written)  # in the same moment, so to say: with no phase ended
  begin()
  assert [line['kind'] for line in lines(tmp_path)] == ['attempt', 'span', 'span', 'attempt', 'span', 'attempt']
  assert sum('cut' in line for line in lines(tmp_path)) == 2


def test_a_heartbeat_of_a_phase_that_has_ended_adds_nothing(tmp_path, clock, begin):
  now, written = begin()
  clock.now += 5
  written.beat()
  clock.now += 0.5
  now.enter('build')
  kill(written)
  begin()
  assert [line['kind'] for line in lines(tmp_path)] == ['attempt', 'span', 'attempt']


def test_a_heartbeat_that_outlived_its_end_adds_nothing(tmp_path, clock, begin):
  now, written = begin()
  now.enter('step')
  clock.now += 5
  written.beat()
  left = (tmp_path / 'ledger.heartbeat').read_bytes()
  written.close(75)
  (tmp_path / 'ledger.heartbeat').write_bytes(left)
  beat = heartbeat(tmp_path)
  begin()
  assert not any('cut' in line for line in lines(tmp_path))
  assert ledger.unfinished(lines(tmp_path)[:1], beat)
  assert ledger.unfinished([lines(tmp_path)[0], {'kind': 'end', 'time': START, 'code': 75}], beat) is None


def test_a_heartbeat_that_is_older_than_its_phase_counts_as_no_time(tmp_path, clock, begin):
  now, written = begin()
  now.enter('build')
  written.beat()
  beat = {**heartbeat(tmp_path), 'time': START - 0.001}
  assert ledger.unfinished(lines(tmp_path), beat)['seconds'] == 0


@pytest.mark.parametrize('contents', [b'', b'{"time": 1', b'[]', b'{"time": 1}', b'\0' * 200])
def test_a_damaged_heartbeat_is_none(tmp_path, clock, begin, contents):
  kill(begin()[1])
  (tmp_path / 'ledger.heartbeat').write_bytes(contents)
  assert ledger.read_heartbeat(str(tmp_path / 'ledger.heartbeat')) is None
  begin()
  assert [line['kind'] for line in lines(tmp_path)] == ['attempt', 'attempt']


@given(cut=st.integers(0, 400))
def test_a_kill_at_any_byte_of_a_write_loses_that_line_only(tmp_path_factory, cut):
  folder = tmp_path_factory.mktemp('torn')
  with pytest.MonkeyPatch.context() as patch:
    clock = Clock.install(patch)
    now = Phases(clock.now)
    written = Ledger(now, NEVER)
    written.open(str(folder), 0)
    now.enter('build')
    written.close(75)
    path = folder / 'ledger.jsonl'
    contents = path.read_bytes()
    torn = contents[: max(0, len(contents) - cut)]
    whole = [json.loads(line) for line in torn.split(b'\n')[:-1]]
    path.write_bytes(torn)
    assert ledger.read(str(path)) == whole
    written = Ledger(Phases(clock.now), NEVER)
    written.open(str(folder), 0)
    written.close(0)
  assert lines(folder)[: len(whole)] == whole
  assert [line['kind'] for line in lines(folder)[len(whole) :]] == ['attempt', 'span', 'end']


def test_a_damaged_line_is_named_and_left_out(tmp_path, log):
  path = tmp_path / 'ledger.jsonl'
  good = b'{"kind": "resumed", "time": 1.5, "step": 3}\n'
  for bad in (b'\0\0\0', b'nonsense', b'[1]', b'{"kind": "resumed", "time": 1}', b'{"kind": "party"}', b'{"kind": []}'):
    path.write_bytes(good + bad + b'\n' + good)
    log.clear()
    assert [line['step'] for line in ledger.read(str(path))] == [3, 3]
    assert log == [f'{path}: line 2 is not a line of a ledger; left out']


PROGRAM = """
import os, signal, sys, time
from trainer.report.ledger import Ledger
from trainer.runtime.phases import Phases, process_start
phases = Phases(process_start())
ledger = Ledger(phases, float(sys.argv[2]))
phases.enter('build')
ledger.open(sys.argv[1], 0)
phases.enter('step')
phases.progress(7, 0.0, 0.0)
first = None
while True:
  now, beat = time.time(), ledger.others()[0]
  first = first or beat['time']
  # In the middle of an interval, some heartbeats on.
  if beat['time'] > first + 1 and now - beat['time'] > float(sys.argv[2]) / 2:
    print(now, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_loses_at_most_one_heartbeat(tmp_path, begin):
  interval, started = 0.5, time.time()
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(tmp_path), str(interval)], capture_output=True, text=True, check=False
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  killed = float(done.stdout)
  _, written = begin()
  written.close(0)
  first, second = goodput.read(str(tmp_path))
  assert (first.end, second.end) == (goodput.KILLED, 0)
  # The start of a process is known to a second.
  assert abs(first.begin - started) < 1.5
  assert [span['name'] for span in first.spans] == ['import', 'build', 'step']
  assert first.spans[-1]['last'] == 7 and first.spans[-1]['cut']
  assert 0 <= killed - first.last_sign < interval
  summary = goodput.summarize([first, second])
  assert summary.seconds['down'] == pytest.approx(second.begin - first.last_sign)
  assert abs(summary.unaccounted_seconds) < 1e-3
