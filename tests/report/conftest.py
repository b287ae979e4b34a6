"""A clock that a test moves, attempts by it, and what they leave in the test's folder."""

from __future__ import annotations

import json
import logging as python_logging
import pathlib
from collections.abc import Callable, Iterator

import pytest
from absl import logging

from trainer.report import ledger
from trainer.report.ledger import Ledger
from trainer.runtime import phases
from trainer.runtime.phases import Phases

NEVER = 1e6  # between heartbeats: the test calls `beat`
START = 1.7e9


class Clock:
  """Stands for the module `time`; it goes on when a test says so."""

  def __init__(self) -> None:
    self.now, self.unix = 100.0, START - 100.0

  def monotonic(self) -> float:
    return self.now

  def time(self) -> float:
    return self.unix + self.now

  @staticmethod
  def install(patch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    patch.setattr(ledger, 'time', clock)
    patch.setattr(phases, 'time', clock)
    return clock


def kill(written: Ledger) -> None:
  """Does to a writer what SIGKILL does."""
  written._closing.set()


@pytest.fixture
def clock(monkeypatch) -> Clock:
  return Clock.install(monkeypatch)


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., tuple[Phases, Ledger]]]:
  """A function that begins an attempt, in the test's folder unless it is to be elsewhere."""
  begun = []

  def one(folder: pathlib.Path = tmp_path, worker: int = 0) -> tuple[Phases, Ledger]:
    now = Phases(phases.time.monotonic())
    written = Ledger(now, NEVER)
    written.open(str(folder), worker)
    begun.append(written)
    return now, written

  yield one
  for written in begun:
    kill(written)


@pytest.fixture
def log() -> Iterator[list[str]]:
  """The warnings of the test."""
  records: list[str] = []

  class Keep(python_logging.Handler):
    def emit(self, record: python_logging.LogRecord) -> None:
      records.append(record.getMessage())

  handler = Keep()
  logging.get_absl_logger().addHandler(handler)
  yield records
  logging.get_absl_logger().removeHandler(handler)


def lines(folder: pathlib.Path, name: str = 'ledger.jsonl') -> list[dict]:
  return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def spans(folder: pathlib.Path) -> list[str]:
  return [line['name'] for line in lines(folder) if line['kind'] == 'span']


def heartbeat(folder: pathlib.Path) -> dict:
  return json.loads((folder / 'ledger.heartbeat').read_text())


def assert_is_a_trace(trace: dict) -> None:
  """Holds it against the trace event format, as far as we use it."""
  assert set(trace) == {'traceEvents', 'displayTimeUnit'} and trace['displayTimeUnit'] == 'ms'
  assert json.loads(json.dumps(trace, allow_nan=False)) == trace
  named, rows = set(), {}
  for entry in trace['traceEvents']:
    keys = {'M': {'args'}, 'X': {'dur', 'cat', 'args'}, 'i': {'s', 'cat', 'args'}}[entry['ph']]
    assert set(entry) == {'ph', 'name', 'pid', 'tid', 'ts', *keys}
    assert isinstance(entry['name'], str) and isinstance(entry['args'], dict)
    assert all(isinstance(entry[key], int) and entry[key] >= 0 for key in ('pid', 'tid', 'ts'))
    if entry['ph'] == 'M':
      assert entry['name'] in ('process_name', 'thread_name') and isinstance(entry['args']['name'], str)
      named.add((entry['pid'], entry['tid']))
    elif entry['ph'] == 'i':
      assert entry['s'] in ('g', 'p', 't')
    else:
      assert isinstance(entry['dur'], int) and entry['dur'] >= 0
      row = rows.setdefault((entry['pid'], entry['tid']), [])
      assert not row or entry['ts'] >= row[-1]['ts'] + row[-1]['dur']
      row.append(entry)
  assert rows.keys() <= named
  assert min(entry['ts'] for row in rows.values() for entry in row) == 0
