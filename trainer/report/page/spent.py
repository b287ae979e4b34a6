"""Where the time of a run went, as it is drawn: the buckets of the ledger, over time, and how each attempt ended."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.errors import EXIT_COMPLETE, EXIT_DIVERGED, EXIT_RUN_AGAIN, EXIT_USER_MISTAKE
from trainer.report import goodput, words
from trainer.report.page.folder import Run

COLUMNS = 240  # of the picture of time
_MOST_ATTEMPTS = 200  # rows of the table
MEANINGS = {
  'step': 'steps that brought the run forward: goodput',
  'wasted': 'steps that were done again, since no checkpoint had them',
  'data_wait': 'waiting for input',
  'compile': 'graph of a step, and first block of steps, of each attempt',
  'init': 'start of the process, data and model',
  'restore': 'reading checkpoints',
  'eval': 'evaluation',
  'save_block': 'training waits for a save',
  'other': 'between blocks of steps',
  'down': 'from the end of an attempt to the next',
}
_ENDS = {
  EXIT_COMPLETE: ('complete', 'good'),
  EXIT_USER_MISTAKE: ('a mistake in config, data or machine (exit code 2)', 'bad'),
  EXIT_DIVERGED: ('diverged (exit code 3)', 'bad'),
  EXIT_RUN_AGAIN: ('stopped, to be run again (exit code 75)', 'warn'),
  goodput.KILLED: ('killed, without a last word', 'bad'),
  goodput.RUNNING: ('under way', 'live'),
}


def end_in_words(end: int | str) -> tuple[str, str]:
  """(how an attempt ended, 'good', 'warn', 'bad' or 'live')."""
  return _ENDS.get(end, (f'ended by an error (exit code {end})', 'bad'))


def view(run: Run) -> dict[str, Any] | None:
  """What is shown of the time of a run; None where there is no ledger of its chief.

  Returns:
    {'summary': goodput.Summary, 'lead': words that follow its goodput, 'buckets': [(name, seconds, share, meaning)] of
    those that took time, 'begin', 'end': seconds since 1970, 'paths': [(bucket, path)] of a picture 1000 wide and 100
    high, 'curve': {'t', 'y'}: goodput up to each moment, 'lanes': [(worker, [(x, width, number, end in words, tone)])],
    'attempts': rows of a table, newest first, 'left_out': how many attempts are not in it}
  """
  attempts = run.ledgers.get(0)
  if not attempts:
    return None
  summary = goodput.summarize(attempts)
  begin = min(every[0].begin for every in run.ledgers.values())
  end = max(every[-1].last_sign for every in run.ledgers.values())
  slices = _slices(attempts, begin, end)
  total = sum(summary.seconds.values()) or 1.0
  return {
    'summary': summary,
    'lead': _lead(summary),
    'buckets': [
      (name, seconds, seconds / total, MEANINGS[name]) for name, seconds in summary.seconds.items() if seconds > 0
    ],
    'begin': begin,
    'end': end,
    'paths': list(_paths(slices)),
    'curve': _curve(slices, (end - begin) / COLUMNS),
    'lanes': [(worker, _lane(every, begin, end)) for worker, every in run.ledgers.items()],
    'attempts': [_row(attempts, number) for number in reversed(range(len(attempts)))][:_MOST_ATTEMPTS],
    'left_out': max(0, len(attempts) - _MOST_ATTEMPTS),
  }


def clock(seconds: float) -> str:
  """Seconds since 1970 as '2026-01-31 12:00:00'; '' where no calendar has them."""
  try:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime('%Y-%m-%d %H:%M:%S')
  except (OverflowError, ValueError, OSError):
    return ''


def _lead(summary: goodput.Summary) -> str:
  number = len(summary.ends)
  parts = [
    f'of {words.duration(summary.wall_seconds)} brought the run forward, in {number:,} attempt{"s" * (number > 1)}'
  ]
  if summary.steps_redone:
    parts.append(f'{summary.steps_redone:,} steps were done again')
  if summary.restart_seconds is not None:
    restart = words.duration(summary.restart_seconds)
    parts.append(f'{restart} from the end of an attempt to the first step after it (mean)')
  if summary.set_back_seconds:
    parts.append(f'the clock was set back by {words.duration(summary.set_back_seconds)}')
  return '; '.join(parts) + '.'


def _slices(attempts: Sequence[goodput.Attempt], begin: float, end: float) -> list[dict[str, float]]:
  """Seconds of each bucket in each of COLUMNS equal slices of the time."""
  width = (end - begin) / COLUMNS
  slices: list[dict[str, float]] = [{} for _ in range(COLUMNS)]
  if width <= 0:
    return slices

  def put(bucket: str, since: float, seconds: float) -> None:
    at, until = max(since, begin), min(since + seconds, end)
    column = min(COLUMNS - 1, max(0, int((at - begin) / width)))
    while at < until:
      border = until if column == COLUMNS - 1 else min(until, begin + (column + 1) * width)
      if border > at:
        slices[column][bucket] = slices[column].get(bucket, 0.0) + border - at
        at = border
      column = min(COLUMNS - 1, column + 1)

  for span, parts in goodput.parts_of_spans(attempts):
    # Steps that are lost are the last ones of their span; all else is spread over it.
    lost = sum(seconds for bucket, seconds in parts if bucket == 'wasted')
    rest = span['seconds'] - lost
    if lost:
      put('wasted', span['begin'] + rest, lost)
    pieces = [(bucket, seconds) for bucket, seconds in parts if bucket != 'wasted' and seconds > 0]
    if len(pieces) == 1:
      put(pieces[0][0], span['begin'], rest)
      continue
    rounds = max(1, min(COLUMNS, round(rest / width)))
    at = span['begin']
    for _ in range(rounds if rest > 0 else 0):
      for bucket, seconds in pieces:
        put(bucket, at, seconds / rounds)
        at += seconds / rounds
  for earlier, later in itertools.pairwise(attempts):
    put('down', earlier.last_sign, later.begin - earlier.last_sign)
  return slices


def _paths(slices: Sequence[dict[str, float]]) -> Iterator[tuple[str, str]]:
  """Each bucket as one path of rectangles, one on top of the other."""
  pieces: dict[str, list[str]] = {}
  width = 1000 / COLUMNS
  for number, parts in enumerate(slices):
    total = sum(parts.values())
    low = 100.0
    for bucket in goodput.BUCKETS:
      if share := parts.get(bucket, 0.0) / total if total else 0.0:
        height = 100 * share
        low -= height
        if height >= 0.2:
          path = f'M{number * width:.2f} {low:.1f}h{width + 0.1:.2f}v{height:.1f}h-{width + 0.1:.2f}z'
          pieces.setdefault(bucket, []).append(path)
  for bucket in goodput.BUCKETS:
    if bucket in pieces:
      yield bucket, ''.join(pieces[bucket])


def _curve(slices: Sequence[dict[str, float]], width: float) -> dict[str, list[float]]:
  good = every = 0.0
  found: dict[str, list[float]] = {'t': [], 'y': []}
  for number, parts in enumerate(slices, 1):
    good, every = good + parts.get('step', 0.0), every + sum(parts.values())
    if every:
      found['t'].append(round(number * width, 2))
      found['y'].append(round(100 * good / every, 2))
  return found


def _lane(attempts: Sequence[goodput.Attempt], begin: float, end: float) -> list[tuple[float, float, int, str, str]]:
  scale = 1000 / (end - begin) if end > begin else 0.0
  return [
    (
      round((attempt.begin - begin) * scale, 2),
      round(max(1.5, (attempt.last_sign - attempt.begin) * scale), 2),
      number,
      *end_in_words(attempt.end),
    )
    for number, attempt in enumerate(attempts, 1)
  ]


def _row(attempts: Sequence[goodput.Attempt], number: int) -> dict[str, Any]:
  """One attempt, as a row of the table."""
  attempt = attempts[number]
  spans = attempt.spans
  text, tone = end_in_words(attempt.end)
  resumed = [event['step'] for event in attempt.events if event['kind'] == 'resumed']
  return {
    'number': number + 1,
    'begin': clock(attempt.begin),
    'seconds': attempt.last_sign - attempt.begin,
    'down': attempt.begin - attempts[number - 1].last_sign if number else None,
    'from': resumed[0] if resumed else None,
    'rollbacks': len(resumed) - 1 if len(resumed) > 1 else 0,
    'to': max((span['last'] for span in spans), default=0),
    'doing': spans[-1]['name'] if spans and attempt.end != EXIT_COMPLETE else '',
    'host': str(attempt.host),
    'end': text,
    'tone': tone,
  }
