"""What became of the wall time of a run: the ledger (ledger.py) of one work directory, added up over all attempts.

Every second from the start of the first attempt to the last sign of life belongs to one bucket. `step` is what brought
the run forward; its share of the wall time is the goodput. All else is badput, each bucket with its share:

  wasted      steps that were done again later, since no checkpoint had them
  data_wait   waiting for input; but in step where it is not measured inside of blocks of steps (config.deterministic)
  compile     the first block of steps of each attempt
  init        from the start of the process until the work directory, data and model are there
  restore     reading checkpoints
  eval        evaluation
  save_block  training waits for a save
  other       between blocks of steps (metrics, progress line), and blocks that a kill cut short
  down        from the last sign of life of an attempt to the start of the next one

Only the chief's ledger is added up. The trace shows all workers, for https://ui.perfetto.dev or chrome://tracing.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.errors import ConfigError
from trainer.report import ledger, words
from trainer.report.banner import banner
from trainer.runtime.phases import BUCKETS as BUCKET_OF

BUCKETS = ('step', 'wasted', 'data_wait', 'compile', 'init', 'restore', 'eval', 'save_block', 'other', 'down')

KILLED, RUNNING = 'killed', 'running'

# An attempt with no end line, whose heartbeat is younger than this, has not been killed.
_SILENCE_SECONDS = 10.0
# These begin where training goes on, so what was done beyond that is done again.
_DOES_STEPS = ('compile', 'step')
# The start of a process is known to about a second, so less than this is no clock that was set.
_START_ERROR_SECONDS = 2.0
_ROW_ATTEMPTS, _ROW_PHASES = 1, 2
_WORTH_A_WORD = 0.005  # share of the wall time from which on a bucket is named in the line


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One process of a run, as far as its ledger knows. Times are seconds since 1970.

  Attributes:
    begin: start of the process.
    last_sign: end of its last span, or its end.
    end: its exit code, KILLED or RUNNING.
    events: its lines of kinds 'span' and 'resumed', in their order.
    pid, host: of the process.
    overlap: seconds by which it seemed to begin before the one before it had ended; all its times are later by that.
  """

  begin: float
  last_sign: float
  end: int | str
  events: list[ledger.Line]
  pid: int
  host: str
  overlap: float

  @property
  def spans(self) -> list[ledger.Line]:
    return [event for event in self.events if event['kind'] == 'span']


@dataclasses.dataclass(frozen=True)
class Summary:
  """What became of the wall time of a run.

  Attributes:
    wall_seconds: from the start of the first attempt to the last sign of life.
    seconds: of each of BUCKETS.
    unaccounted_seconds: `wall_seconds` less the sum of `seconds`; not 0 where lines are missing.
    goodput: share of `step` in the wall time.
    badput: share of each other bucket.
    ends: exit code, KILLED or RUNNING of each attempt.
    steps: steps done, each counted once.
    steps_redone: steps that were done again, each as often as it was.
    restart_seconds: mean time from the end of an attempt to the first step after it; None if it never came to that.
    set_back_seconds: how far the clock was set back between attempts; that time counts as none.
    measured_data_wait: whether waiting for input inside of blocks of steps was measured, in all of them.
  """

  wall_seconds: float
  seconds: dict[str, float]
  unaccounted_seconds: float
  goodput: float
  badput: dict[str, float]
  ends: list[int | str]
  steps: int
  steps_redone: int
  restart_seconds: float | None
  set_back_seconds: float
  measured_data_wait: bool


def read(workdir: str, worker: int = 0) -> list[Attempt]:
  """The attempts of one worker so far, oldest first.

  Raises:
    ConfigError: there is no ledger of that worker, or it cannot be read.
  """
  if not os.path.isdir(workdir):
    raise ConfigError(f'{workdir} is not a directory: name the --workdir of a run')
  attempts = _load(workdir, worker)
  if not attempts:
    raise ConfigError(f'{workdir} holds no ledger ({ledger.file_name(worker)}): name the --workdir of a run')
  return attempts


def history(lines: Sequence[ledger.Line], beat: ledger.Line | None = None, now: float = math.inf) -> list[Attempt]:
  """The attempts that the lines of a ledger tell of, oldest first.

  Args:
    lines: of one worker.
    beat: its heartbeat, if there is one.
    now: seconds since 1970, to tell whether the heartbeat is young.
  """
  groups: list[list[ledger.Line]] = []
  under_way = ledger.unfinished(lines, beat)
  for line in [*lines, under_way] if under_way else lines:
    if line['kind'] == 'attempt':
      groups.append([line])
    elif groups:  # without the line of its attempt it tells nothing
      groups[-1].append(line)
  attempts: list[Attempt] = []
  for start, *rest in groups:
    overlap = max(0.0, attempts[-1].last_sign - start['time']) if attempts else 0.0
    alive = beat is not None and beat['attempt'] == start['time'] and now - beat['time'] < _SILENCE_SECONDS
    codes = [line['code'] for line in rest if line['kind'] == 'end']
    attempts.append(
      Attempt(
        begin=start['time'] + overlap,
        last_sign=max(map(_time, [start, *rest])) + overlap,
        end=codes[-1] if codes else RUNNING if alive else KILLED,
        events=[_later(line, overlap) for line in rest if line['kind'] != 'end'],
        pid=start.get('pid', 0),
        host=start.get('host', ''),
        overlap=overlap,
      )
    )
  return attempts


def summarize(attempts: Sequence[Attempt]) -> Summary:
  """Adds up a history of at least one attempt."""
  seconds = dict.fromkeys(BUCKETS, 0.0)
  done = redone = 0
  for span, again in _with_steps_redone(attempts):
    done, redone = done + span['last'] - span['first'], redone + again
  for _, parts in parts_of_spans(attempts):
    for bucket, share in parts:
      seconds[bucket] += share
  seconds['down'] = sum(later.begin - earlier.last_sign for earlier, later in itertools.pairwise(attempts))
  # Not from the spans: so it shows if some are missing.
  wall = attempts[-1].last_sign - attempts[0].begin
  total = max(wall, sum(seconds.values()))  # they may differ in the last digits
  shares = {bucket: spent / total if total else 0.0 for bucket, spent in seconds.items()}
  restarts = list(_restarts(attempts))
  return Summary(
    wall_seconds=wall,
    seconds=seconds,
    unaccounted_seconds=wall - sum(seconds.values()),
    goodput=shares.pop('step'),
    badput=shares,
    ends=[attempt.end for attempt in attempts],
    steps=done - redone,
    steps_redone=redone,
    restart_seconds=sum(restarts) / len(restarts) if restarts else None,
    set_back_seconds=sum(attempt.overlap for attempt in attempts if attempt.overlap > _START_ERROR_SECONDS),
    measured_data_wait=all(
      span['data_wait'] is not None for attempt in attempts for span in attempt.spans if span['name'] == 'step'
    ),
  )


def parts_of_spans(attempts: Sequence[Attempt]) -> Iterator[tuple[ledger.Line, list[tuple[str, float]]]]:
  """(span, [(bucket, seconds of it)]) of all spans, the last one first."""
  for span, again in _with_steps_redone(attempts):
    yield span, _split(span, again)


def table(summary: Summary) -> str:
  """The summary as people read it; what took no time is left out."""
  ends = collections.Counter(end if isinstance(end, str) else f'exit code {end}' for end in summary.ends)
  how = ', '.join(f'{number:,} {end}' if len(summary.ends) > 1 else end for end, number in ends.items())
  unaccounted = summary.unaccounted_seconds
  restart = f'{words.duration(summary.restart_seconds)} from the end of an attempt to the first step after it (mean)'
  facts = [
    *((bucket, _spent(summary, bucket)) for bucket in BUCKETS),
    ('unaccounted', _share(unaccounted / summary.wall_seconds, unaccounted) if abs(unaccounted) > 1e-3 else ''),
    ('attempts', f'{len(summary.ends):,}: {how}'),
    ('steps', f'{summary.steps:,}' + (f', and {summary.steps_redone:,} done again' if summary.steps_redone else '')),
    ('restart', restart if summary.restart_seconds is not None else ''),
    ('clock', f'set back by {words.duration(summary.set_back_seconds)}' if summary.set_back_seconds else ''),
  ]
  return banner(facts, title=f'Goodput {_percent(summary.goodput)} of {words.duration(summary.wall_seconds)}.')


def line(summary: Summary) -> str:
  """The summary in one line: '93.1 % of 2 h 05 min in 3 attempts (init 2.5 %, compile 2.1 %, ...)'."""
  spent = sorted(summary.badput.items(), key=lambda item: -item[1])
  others = ', '.join(f'{bucket} {_percent(share)}' for bucket, share in spent if share >= _WORTH_A_WORD)
  number = len(summary.ends)
  attempts = f' in {number:,} attempts' if number > 1 else ''
  return f'{_percent(summary.goodput)} of {words.duration(summary.wall_seconds)}{attempts} ({others})'


def trace(workdir: str) -> dict[str, Any]:
  """All workers' ledgers in the trace event format: a process each, with a row of attempts and one of phases.

  Raises:
    ConfigError: there is no ledger, or one cannot be read.
  """
  histories = {0: read(workdir)}
  for worker in ledger.workers(workdir):
    if worker and (attempts := _load(workdir, worker)):
      histories[worker] = attempts
  zero = min(attempts[0].begin for attempts in histories.values())
  events: list[dict[str, Any]] = []
  for worker, attempts in histories.items():
    role = 'chief' if worker == 0 else attempts[-1].host
    # Process 0 is the idle one to Perfetto.
    events += [
      _name('process_name', worker + 1, 0, f'worker {worker} ({role})'),
      _name('thread_name', worker + 1, _ROW_ATTEMPTS, 'attempts'),
      _name('thread_name', worker + 1, _ROW_PHASES, 'phases'),
      *_trace_of(attempts, worker + 1, zero),
    ]
  return {'traceEvents': events, 'displayTimeUnit': 'ms'}


def _load(workdir: str, worker: int) -> list[Attempt]:
  path = os.path.join(workdir, ledger.file_name(worker))
  try:
    lines = ledger.read(path)
    beat = ledger.read_heartbeat(os.path.join(workdir, ledger.heartbeat_name(worker)))
  except OSError as error:
    raise ConfigError(f'{path} cannot be read: {error.strerror}') from error
  return history(lines, beat, time.time())


def _with_steps_redone(attempts: Sequence[Attempt]) -> Iterator[tuple[ledger.Line, int]]:
  """(span, how many of its steps were done again later), the last span first.

  Seen from the end: a step was done again if any later event goes back to before it, and that once, however many do.
  """
  kept = math.inf  # steps beyond this one are done again
  for attempt in reversed(attempts):
    for event in reversed(attempt.events):
      if event['kind'] == 'resumed':
        kept = min(kept, event['step'])
        continue
      first, last = event['first'], event['last']
      yield event, last - int(max(first, kept)) if last > kept else 0
      if event['name'] in _DOES_STEPS:
        kept = min(kept, first)  # also where no checkpoint was restored: it began again at step 0


def _split(span: ledger.Line, again: int) -> list[tuple[str, float]]:
  """(bucket, seconds) of a span, of whose steps so many were done again."""
  if span['name'] != 'step':
    return [(BUCKET_OF.get(span['name'], 'other'), span['seconds'])]
  busy = min(span['busy'], span['seconds'])
  waited = min(span['data_wait'] or 0.0, busy)
  steps = span['last'] - span['first']
  wasted = (busy - waited) * (again / steps if steps else 0.0)
  return [
    ('step', busy - waited - wasted),
    ('wasted', wasted),
    ('data_wait', waited),
    ('other', span['seconds'] - busy),
  ]


def _restarts(attempts: Sequence[Attempt]) -> Iterator[float]:
  """Seconds from the end of each attempt to the first step after it, one for several attempts that came to no step."""
  since = None
  for attempt in attempts:
    first = next((span for span in attempt.spans if span['last'] > span['first']), None)
    if first and since is not None:
      yield first['begin'] + first['seconds'] / (first['last'] - first['first']) - since
    if first or since is None:
      since = attempt.last_sign


def _time(line: ledger.Line) -> float:
  return line['begin'] + line['seconds'] if line['kind'] == 'span' else line['time']


def _later(line: ledger.Line, seconds: float) -> ledger.Line:
  name = 'begin' if line['kind'] == 'span' else 'time'
  return {**line, name: line[name] + seconds}


def _spent(summary: Summary, bucket: str) -> str:
  """'12.3 %  4.5 s'; '' where that is nothing."""
  seconds = summary.seconds[bucket]
  share = summary.goodput if bucket == 'step' else summary.badput[bucket]
  text = _share(share, seconds) if seconds else ''
  if bucket == 'data_wait' and not summary.measured_data_wait:
    return f'{text or words.NOT_MEASURED}; what it was inside of blocks of steps is not measured, and counts as step'
  return text


def _percent(share: float) -> str:
  return f'{100 * share:.1f} %'


def _share(share: float, seconds: float) -> str:
  return f'{_percent(share):<8}{words.duration(seconds)}'


def _trace_of(attempts: Sequence[Attempt], process: int, zero: float) -> Iterator[dict[str, Any]]:
  """The events of one worker, each row in the order of time."""
  free = {_ROW_ATTEMPTS: 0, _ROW_PHASES: 0}

  def microseconds(seconds: float) -> int:
    return round(1e6 * (seconds - zero))

  def complete(name: str, category: str, row: int, begin: float, end: float, args: dict[str, Any]) -> dict[str, Any]:
    # Times are rounded, and events of a row that overlap by a microsecond are drawn inside each other.
    start = max(free[row], microseconds(begin))
    free[row] = max(start, microseconds(end))
    where = {'ts': start, 'dur': free[row] - start, 'pid': process, 'tid': row}
    return {'ph': 'X', 'name': name, 'cat': category, **where, 'args': args}

  def instant(name: str, at: float) -> dict[str, Any]:
    where = {'ts': max(0, microseconds(at)), 'pid': process, 'tid': _ROW_PHASES}
    return {'ph': 'i', 's': 'p', 'name': name, 'cat': 'event', **where, 'args': {}}

  for number, attempt in enumerate(attempts, 1):
    if number > 1:
      yield complete('down', 'down', _ROW_PHASES, attempts[number - 2].last_sign, attempt.begin, {})
    about = {'pid': attempt.pid, 'host': attempt.host, 'end': attempt.end}
    yield complete(f'attempt {number}', 'attempt', _ROW_ATTEMPTS, attempt.begin, attempt.last_sign, about)
    for event in attempt.events:
      if event['kind'] == 'resumed':
        yield instant(f'resumed at step {event["step"]}', event['time'])
      else:
        about = {name: event[name] for name in ('first', 'last', 'busy', 'data_wait', 'cut') if name in event}
        bucket = BUCKET_OF.get(event['name'], 'other')
        yield complete(event['name'], bucket, _ROW_PHASES, event['begin'], _time(event), about)
    if attempt.end != RUNNING:
      yield instant(attempt.end if attempt.end == KILLED else f'exit code {attempt.end}', attempt.last_sign)


def _name(what: str, process: int, row: int, name: str) -> dict[str, Any]:
  return {'ph': 'M', 'name': what, 'pid': process, 'tid': row, 'ts': 0, 'args': {'name': name}}
