"""The ledger's reader: the buckets and the table, the trace, and the script."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from trainer.errors import ConfigError
from trainer.report import goodput
from trainer.report.ledger import heartbeat_name

from .conftest import assert_is_a_trace

ROOT = pathlib.Path(__file__).resolve().parents[2]


def attempt(time: float) -> dict:
  return {'kind': 'attempt', 'time': time, 'pid': 7, 'host': 'here', 'worker': 0}


def span(name: str, begin: float, seconds: float, first: int = 0, last: int = 0, **more) -> dict:
  more = {'busy': seconds, 'data_wait': 0.0, **more} if name == 'step' else more
  return {'kind': 'span', 'name': name, 'begin': begin, 'seconds': seconds, 'first': first, 'last': last, **more}


def summary_of(*lines: dict) -> goodput.Summary:
  found = goodput.summarize(goodput.history(lines))
  assert found.unaccounted_seconds == pytest.approx(0)
  assert found.goodput + sum(found.badput.values()) == pytest.approx(1)
  return found


# The example of the design: killed at step 570, resumed at step 540.
KILLED_ONCE = [
  attempt(0),
  span('import', 0, 10),
  span('compile', 10, 20, 0, 1),
  span('step', 30, 60, 1, 501, busy=50, data_wait=5),
  span('save_block', 90, 10, 501, 501),
  span('step', 100, 69, 501, 570, cut=True, data_wait=6.9),
  attempt(200),
  span('import', 200, 10),
  {'kind': 'resumed', 'time': 212, 'step': 540},
  span('restore', 210, 5),
  span('compile', 215, 20, 540, 541),
  span('step', 235, 100, 541, 641),
  span('barrier', 335, 5, 641, 641),
  {'kind': 'end', 'time': 340, 'code': 75},
]


def test_the_time_of_a_run_that_was_killed_once():
  summary = summary_of(*KILLED_ONCE)
  assert summary.wall_seconds == 340
  assert summary.seconds == pytest.approx(
    {
      'step': 45 + 39 * 0.9 + 100,
      'wasted': 30 * 0.9,
      'data_wait': 5 + 6.9,
      'compile': 40,
      'init': 20,
      'restore': 5,
      'eval': 0,
      'save_block': 10,
      'other': 10 + 5,
      'down': 31,
    }
  )
  assert summary.goodput == pytest.approx(summary.seconds['step'] / 340)
  assert summary.badput['down'] == pytest.approx(31 / 340)
  assert summary.ends == [goodput.KILLED, 75]
  assert (summary.steps, summary.steps_redone) == (641, 30)
  assert summary.restart_seconds == 235 - 169


def test_the_table_of_that_run():
  assert goodput.table(summary_of(*KILLED_ONCE)).splitlines() == [
    'Goodput 53.0 % of 5 min 40 s.',
    '  step        53.0 %  3 min 00 s',
    '  wasted      7.9 %   27 s',
    '  data_wait   3.5 %   12 s',
    '  compile     11.8 %  40 s',
    '  init        5.9 %   20 s',
    '  restore     1.5 %   5.0 s',
    '  save_block  2.9 %   10 s',
    '  other       4.4 %   15 s',
    '  down        9.1 %   31 s',
    '  attempts    2: 1 killed, 1 exit code 75',
    '  steps       641, and 30 done again',
    '  restart     1 min 06 s from the end of an attempt to the first step after it (mean)',
  ]


def test_the_table_of_a_run_that_was_never_killed():
  done = [attempt(0), span('compile', 0, 1, 0, 1), span('step', 1, 9, 1, 10), {'kind': 'end', 'time': 10, 'code': 0}]
  assert goodput.table(summary_of(*done)).splitlines() == [
    'Goodput 90.0 % of 10 s.',
    '  step      90.0 %  9.0 s',
    '  compile   10.0 %  1.0 s',
    '  attempts  1: exit code 0',
    '  steps     10',
  ]


def test_steps_that_are_lost_several_times_are_wasted_once_each():
  summary = summary_of(
    attempt(0),
    span('step', 0, 570, 0, 570),
    attempt(600),
    {'kind': 'resumed', 'time': 600, 'step': 540},
    span('step', 600, 10, 540, 550),
    attempt(700),
    {'kind': 'resumed', 'time': 700, 'step': 540},  # killed before its first step
    span('restore', 700, 1),
    attempt(800),
    {'kind': 'resumed', 'time': 800, 'step': 500},  # the checkpoint of 540 was damaged
    span('step', 800, 100, 500, 600),
  )
  assert summary.steps_redone == 70 + 10
  assert summary.seconds['wasted'] == 70 + 10
  assert summary.steps == 600
  assert summary.restart_seconds == ((601 - 570) + (801 - 610)) / 2


def test_a_rollback_inside_an_attempt_wastes_what_it_takes_back():
  summary = summary_of(
    attempt(0),
    span('step', 0, 60, 0, 60),
    {'kind': 'resumed', 'time': 61, 'step': 40},
    span('restore', 60, 2, 40, 40),
    span('step', 62, 60, 40, 100),
  )
  assert (summary.seconds['wasted'], summary.steps_redone, summary.steps) == (20, 20, 100)
  assert summary.restart_seconds is None


def test_a_run_that_begins_again_without_a_checkpoint_wastes_all():
  first = [attempt(0), span('step', 0, 30, 0, 30)]
  # As long as it has not begun to compile, it is not known where it goes on.
  assert summary_of(*first, attempt(40), span('build', 40, 5)).seconds['wasted'] == 0
  assert summary_of(*first, attempt(40), span('compile', 40, 5)).seconds['wasted'] == 30


def test_attempts_that_come_to_no_step_are_one_restart():
  summary = summary_of(
    attempt(0), span('step', 0, 10, 0, 10),
    attempt(20), span('import', 20, 5),
    attempt(40), span('import', 40, 5),
    attempt(60), {'kind': 'resumed', 'time': 60, 'step': 10}, span('compile', 60, 8, 10, 11),
  )  # fmt: skip
  assert summary.restart_seconds == 68 - 10
  assert summary.seconds['down'] == 10 + 15 + 15


def test_a_clock_that_was_set_back_between_attempts_leaves_it_adding_up():
  summary = summary_of(attempt(1000), span('step', 1000, 50, 0, 50), attempt(900), span('step', 900, 50, 50, 100))
  assert (summary.wall_seconds, summary.goodput, summary.set_back_seconds) == (100, 1, 150)
  assert 'clock     set back by 2 min 30 s' in goodput.table(summary)
  # The start of a process is known to a second.
  summary = summary_of(attempt(1000), span('step', 1000, 50, 0, 50), attempt(1049), span('step', 1049, 50, 50, 100))
  assert (summary.wall_seconds, summary.goodput, summary.set_back_seconds) == (100, 1, 0)


def test_a_wait_that_is_not_measured_is_said_to_be_so():
  summary = summary_of(attempt(0), span('step', 0, 10, 0, 10, busy=8, data_wait=None))
  assert (summary.seconds['step'], summary.seconds['data_wait'], summary.measured_data_wait) == (8, 0, False)
  said = '; what it was inside of blocks of steps is not measured, and counts as step'
  assert f'  data_wait  n/a{said}' in goodput.table(summary)
  summary = summary_of(attempt(0), span('seek', 0, 2), span('step', 2, 8, 0, 10, data_wait=None))
  assert f'  data_wait  20.0 %  2.0 s{said}' in goodput.table(summary)


def test_lines_that_are_missing_show():
  lines = [attempt(0), span('import', 0, 10), span('step', 40, 60, 0, 60)]
  summary = goodput.summarize(goodput.history(lines))
  assert (summary.wall_seconds, summary.unaccounted_seconds) == (100, 30)
  assert '  unaccounted  30.0 %  30 s' in goodput.table(summary)


def test_a_line_without_its_attempt_tells_nothing():
  assert goodput.history([span('import', 0, 10)]) == []
  assert goodput.history([span('import', 0, 10), attempt(20)])[0].events == []


@pytest.mark.parametrize(('silent', 'end'), [(1, goodput.RUNNING), (60, goodput.KILLED)])
def test_a_run_that_is_under_way_counts_to_its_last_heartbeat(silent, end):
  beat = {
    'time': 25.0,
    'attempt': 0,
    'name': 'step',
    'begin': 10.0,
    'first': 0,
    'last': 3,
    'busy': 12.0,
    'data_wait': 1.0,
  }
  (found,) = goodput.history([attempt(0), span('import', 0, 10)], beat, 25.0 + silent)
  assert (found.end, found.last_sign) == (end, 25)
  summary = goodput.summarize([found])
  assert (summary.wall_seconds, summary.seconds['step'], summary.seconds['other']) == (25, 11, 3)


def test_an_attempt_that_was_killed_at_once_can_be_shown():
  assert goodput.table(goodput.summarize(goodput.history([attempt(5)]))).splitlines() == [
    'Goodput 0.0 % of 0.00 ms.',
    '  attempts  1: killed',
    '  steps     0',
  ]


# -- the trace and the script ------------------------------------------------------------------------------------------


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
  """Of a run of two workers that was killed once."""
  for name in ('ledger.jsonl', 'ledger.worker1.jsonl'):
    (tmp_path / name).write_text(''.join(f'{json.dumps(line)}\n' for line in KILLED_ONCE))
  (tmp_path / heartbeat_name(2)).write_text('{}')  # of a worker that came to nothing else
  return tmp_path


def test_the_trace_shows_all_workers(workdir):
  trace = goodput.trace(str(workdir))
  assert_is_a_trace(trace)
  entries = [entry for entry in trace['traceEvents'] if entry['pid'] == 1]
  assert [
    (entry['name'], entry['ts'] / 1e6, entry['dur'] / 1e6)
    for entry in entries
    if entry['ph'] == 'X' and entry['tid'] == 2
  ] == [
    ('import', 0, 10), ('compile', 10, 20), ('step', 30, 60), ('save_block', 90, 10), ('step', 100, 69),
    ('down', 169, 31), ('import', 200, 10), ('restore', 210, 5), ('compile', 215, 20), ('step', 235, 100),
    ('barrier', 335, 5),
  ]  # fmt: skip
  assert [(entry['name'], entry['ts'] / 1e6) for entry in entries if entry['ph'] == 'i'] == [
    ('killed', 169),
    ('resumed at step 540', 212),
    ('exit code 75', 340),
  ]
  cut = next(entry for entry in entries if entry['args'].get('cut'))
  assert cut['args'] == {'first': 501, 'last': 570, 'busy': 69, 'data_wait': 6.9, 'cut': True}
  names = {(entry['pid'], entry['tid']): entry['args']['name'] for entry in trace['traceEvents'] if entry['ph'] == 'M'}
  assert names == {
    (1, 0): 'worker 0 (chief)', (1, 1): 'attempts', (1, 2): 'phases',
    (2, 0): 'worker 1 (here)', (2, 1): 'attempts', (2, 2): 'phases',
  }  # fmt: skip


def run_script(*args: object) -> subprocess.CompletedProcess[str]:
  command = [sys.executable, 'scripts/goodput', *map(str, args)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_script_prints_the_table_and_writes_the_trace(workdir):
  done = run_script(workdir)
  assert (done.returncode, done.stderr) == (0, '')
  summary = goodput.summarize(goodput.read(str(workdir)))
  trace = workdir / 'ledger_trace.json'
  assert done.stdout == f'{goodput.table(summary)}\n  trace: {trace} (open it in https://ui.perfetto.dev)\n'
  assert json.loads(trace.read_text()) == goodput.trace(str(workdir))


def test_the_script_prints_one_json_object(workdir):
  done = run_script(workdir, '--json', '--trace=')
  assert (done.returncode, done.stderr) == (0, '')
  assert json.loads(done.stdout) == dataclasses.asdict(goodput.summarize(goodput.read(str(workdir))))
  assert not (workdir / 'ledger_trace.json').exists()


def test_a_mistake_is_one_line(workdir, tmp_path_factory):
  empty = tmp_path_factory.mktemp('empty')
  for args, message in [
    ([empty / 'missing'], f'{empty}/missing is not a directory: name the --workdir of a run'),
    ([empty], f'{empty} holds no ledger (ledger.jsonl): name the --workdir of a run'),
    (
      [workdir, f'--trace={empty}'],
      f'the trace cannot be written to {empty}: Is a directory: name another place, --trace=FILE',
    ),
  ]:
    done = run_script(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, '', f'error: {message}\n')


def test_a_ledger_that_cannot_be_read_is_a_mistake(workdir):
  (workdir / 'ledger.jsonl').unlink()
  (workdir / 'ledger.jsonl').mkdir()
  with pytest.raises(ConfigError, match=r'ledger\.jsonl cannot be read: Is a directory'):
    goodput.read(str(workdir))
