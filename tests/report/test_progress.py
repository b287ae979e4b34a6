from __future__ import annotations

import errno
import io
import os
import pty
import re

import pytest

from trainer.report.progress import Progress
from trainer.report.throughput import Rate


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self) -> float:
    return self.now


def make(step=0, total=1000, **keywords):
  stream, clock = io.StringIO(), Clock()
  return Progress(step, total, stream=stream, clock=clock, **keywords), stream, clock


RATE = Rate(100, 1.23, 64)


def test_a_line_says_where_the_run_stands():
  progress, stream, clock = make(total=10_000)
  progress.block(1, Rate(0, 0.0, 64))
  clock.now += 20
  progress.block(1201, RATE)
  progress.row(1201, loss=0.12345, learning_rate=1e-3, rate=RATE)
  assert stream.getvalue() == (
    'step 1,201/10,000 (12 %)  loss 0.1235  lr 0.001000  5,203 examples/s  12.3 ms/step  ETA 2 min 27 s\n'
  )


def test_what_was_not_measured_is_not_a_number():
  progress, stream, _ = make()
  progress.row(100, loss=None, learning_rate=None, rate=Rate(0, 0.0, 64))
  assert stream.getvalue() == 'step 100/1,000 (10 %)  loss n/a  lr n/a  n/a examples/s  n/a/step  ETA n/a\n'


def test_the_time_to_go_counts_evaluations_but_not_the_compilation():
  progress, _, clock = make(step=500)
  assert progress.seconds_to_go() is None
  clock.now += 60  # start and compilation
  progress.block(501, Rate(0, 0.0, 64))
  assert progress.seconds_to_go() is None
  clock.now += 10
  progress.block(601, RATE)
  clock.now += 10  # an evaluation
  assert progress.seconds_to_go() == pytest.approx(20 / 100 * 399)


def test_lines_keep_their_distance_but_the_last_is_always_there():
  progress, stream, clock = make(total=40)
  for step in range(1, 41):
    progress.block(step, RATE)
    progress.row(step, loss=1.0, learning_rate=1.0, rate=RATE)
    clock.now += 0.5
  steps = [int(found) for found in re.findall(r'step (\d+)/40', stream.getvalue())]
  assert steps == [1, 11, 21, 31, 40]
  assert 'ETA' not in stream.getvalue().splitlines()[-1]


def test_blocks_print_nothing_off_a_terminal():
  progress, stream, _ = make()
  for step in range(50):
    progress.block(step, RATE)
  assert stream.getvalue() == ''


def test_a_terminal_gets_a_bar_and_keeps_its_cursor(monkeypatch):
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '140')
  monkeypatch.delenv('NO_COLOR', raising=False)
  ours, theirs = pty.openpty()
  with os.fdopen(theirs, 'w') as stream:
    with Progress(0, 1000, stream=stream) as progress:
      progress.block(10, RATE)
      progress.row(10, loss=0.5, learning_rate=0.1, rate=RATE)
      progress.print('evaluation at step 10: [b]accuracy[/b] 0.9')
      progress.block(20, RATE)
    progress.print('the end')
    stream.flush()
    seen = b''
    while b'the end' not in seen:  # a terminal hands over what it has so far
      seen += os.read(ours, 100_000)
  os.close(ours)
  seen = seen.decode()
  assert '━' in seen
  assert 'step 20/1,000 (2 %)  loss 0.5000' in seen
  assert 'evaluation at step 10: [b]accuracy[/b] 0.9' in seen
  assert seen.rindex('the end') > seen.rindex('step 20')
  assert seen.rfind('\x1b[?25h') > seen.rfind('\x1b[?25l')
  # Visible while it runs, too: a killed process cannot show it again.
  assert '\x1b[?25h' in seen[: seen.index('step 10/')]


def test_a_narrow_terminal_gets_the_text_without_a_bar(monkeypatch):
  monkeypatch.setenv('COLUMNS', '60')
  progress, stream, _ = make(live=True)
  progress.block(10, RATE)
  progress.close()
  assert 'step 10/1,000' in stream.getvalue()
  assert '━' not in stream.getvalue()


class Closed(io.StringIO):
  """A terminal that has gone."""

  def write(self, text):
    raise OSError(errno.EIO, 'Input/output error')


@pytest.mark.parametrize('live', [True, False])
def test_a_terminal_that_has_gone_is_no_reason_to_stop(live):
  with Progress(0, 100, stream=Closed(), live=live) as progress:
    progress.block(10, RATE)
    progress.row(10, loss=0.5, learning_rate=0.1, rate=RATE)
    progress.print('an evaluation')
