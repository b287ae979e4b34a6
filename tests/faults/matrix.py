"""The matrix of fault x moment, as chains of attempts: each attempt of a chain is hit by its fault, the last one ends.

A chain has one work directory. Saves are due at each 10th of 60 steps, evaluations at each 20th.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

from tests.faults.attempts import START_SECONDS, Link
from tests.faults.program import NOTICES, Hit
from tests.faults.tampering import Poison

# A process that dies at these moments, one after the other, and then goes on to the end.
_DEATHS = (
  ('start', -1), ('compile', -1), ('step', 7), ('save, before', 10), ('save, after', 10), ('eval', 40), ('restore', -1),
)  # fmt: skip
_STOPS = (
  ('start', -1), ('compile', -1), ('step', 5), ('save, before', 10), ('save, after', 20), ('restore', -1), ('eval', 40),
)  # fmt: skip
# In one attempt.
_PASSING = (
  ('start', -1), ('restore', -1), ('compile', -1), ('step', 5), ('save, before', 10), ('save, after', 20), ('eval', 40),
)  # fmt: skip

# Of two workers, saves are the chief's.
_VICTIMS = {'start': 1, 'compile': 0, 'step': 1, 'restore': 0, 'eval': 1}
_SHORT_START = (f'--config.faults.start_timeout_seconds={START_SECONDS}',)


def some(names: Iterable[Any], *always: Any) -> list[Any]:
  """Values for parametrize: those of `always`, and the others where everything is tried (tests/conftest.py)."""
  return [name if name in always else pytest.param(name, marks=pytest.mark.thorough) for name in names]


_CODES = {'SIGKILL': -9, 'exit': 1, 'SIGSTOP': -9} | dict.fromkeys(NOTICES, 75)


def signals(workers: int) -> dict[str, tuple[Link, ...]]:
  """What ends a process, or asks it to end or to save: name -> chain, for a topology of so many processes."""
  return {
    'SIGKILL': _deaths('SIGKILL', workers),
    'exit': _deaths('exit', workers),
    **{fault: _stops(fault, workers) for fault in NOTICES},
    'SIGSTOP': _passing('SIGSTOP') if workers == 1 else _deaths('SIGSTOP', workers),
    'SIGUSR1': _passing('SIGUSR1'),
  }


def _link(fault: str, moment: str, step: int, workers: int) -> Link:
  worker = _VICTIMS.get(moment, 0) if workers > 1 else 0
  if fault == 'stop file' and moment == 'start':
    worker = 0  # which makes the directory that the file lies in
  args = _SHORT_START if workers > 1 and moment == 'start' else ()
  return Link((Hit(fault, moment, step, worker),), _CODES[fault], args=args)


def _deaths(fault: str, workers: int) -> tuple[Link, ...]:
  links = [_link(fault, moment, step, workers) for moment, step in _DEATHS]
  if workers > 1:  # the chief too; and the other one while the chief saves, which it has to complete
    links.append(Link((Hit(fault, 'step', 45, 0),), _CODES[fault]))
    if fault != 'exit':
      links.append(Link((Hit(fault, 'save, before', 50, 0, to=1),), _CODES[fault]))
  return (*links, Link())


def _stops(fault: str, workers: int) -> tuple[Link, ...]:
  links = [*(_link(fault, moment, step, workers) for moment, step in _STOPS), Link()]
  # Another notice during the save that follows the first: it is completed, or given up where somebody wants that.
  if fault == 'SIGTERM':
    links.insert(-1, Link((Hit(fault, 'step', 45), Hit(fault, 'save, before', 46)), 75))
  if fault == 'SIGINT':
    links.insert(-1, Link((Hit(fault, 'step', 45), Hit('second SIGINT', 'save, before', 46)), 130))
  if fault != 'stop file':
    return tuple(links)
  # It is there until somebody removes it, and keeps the run from going on.
  refused = Link(code=75, says=r'^stopped: the stop file .*/STOP is there: remove it to go on$')
  removed = [dataclasses.replace(link, before='stop file removed') for link in links[1:]]
  return (links[0], refused, *removed)


def _passing(fault: str) -> tuple[Link, ...]:
  return (Link(tuple(Hit(fault, moment, step) for moment, step in _PASSING)),)


# The newest checkpoint is damaged while nobody looks.
DAMAGE = (
  Link((Hit('SIGKILL', 'step', 25),), -9),
  Link((Hit('SIGKILL', 'step', 35),), -9, before='bit flip', also=(('bit flip', 'restore'),)),
  Link(before='truncated file', also=(('truncated file', 'restore'),)),
)


def disk() -> dict[str, tuple[Link, ...]]:
  """A disk that is full for a while, or for good."""
  not_saved = r'checkpoint of step \d+ was not saved: the disk is full'
  return {
    'for a while': (
      Link(
        (
          Hit('disk full', 'step', 7), Hit('disk freed', 'step', 13),
          Hit('disk nearly full', 'save, before', 20), Hit('disk freed', 'step', 23),
          Hit('disk full', 'save, after', 30), Hit('disk freed', 'step', 33),
          Hit('disk full', 'eval', 40), Hit('disk freed', 'step', 43),
        ),
        says=not_saved,
      ),
    ),
    'for good': (
      Link((Hit('disk full for good', 'step', 25),), 2, says=r'^error: 3 checkpoints in a row could not be saved'),
      Link(code=2, says='^error: .* cannot be written', also=(('disk full for good', 'start'),)),
      Link(before='disk freed'),
    ),
  }  # fmt: skip


# A lane reads a few records at each step, so that there always are some to come.
STREAMED = ('--config.data.source=lanes', '--config.data.lanes=8', '--config.data.chunk_records=4',
  '--config.data.window_records=8')  # fmt: skip


def data() -> tuple[Link, ...]:
  """A data file is damaged, or goes, while it is streamed."""
  corrupt, gone = r'^error: data file .* is corrupt', r'^error: data file .* cannot be read'
  return (
    Link((Hit('corrupted TFRecord', 'start'),), 2, says=corrupt),
    Link((Hit('vanished data file', 'start'),), 2, before='data put back', says=gone),
    Link((Hit('corrupted TFRecord', 'step', 13),), 2, before='data put back', says=corrupt),
    Link((Hit('vanished data file', 'step', 23),), 2, before='data put back', says=gone),
    Link(before='data put back'),
  )


def _hang(moment: str, step: int, at: int, limits: dict[str, float], says: str = '') -> Link:
  args = tuple(f'--config.faults.{name}_timeout_seconds={seconds}' for name, seconds in limits.items())
  return Link((Hit('hang', moment, step, at),), 75, args=args, says=says)


def hangs(workers: int) -> tuple[Link, ...]:
  """In each phase. A time limit is short only where it is to expire: the machine of the tests may be slow."""
  if workers > 1:
    return (
      _hang('start', -1, 1, {'start': 2.0}),
      _hang('restore', -1, 1, {'restore': 2.0}),
      _hang('compile', -1, 0, {'compile': 2.0}),
      _hang('step', 5, 0, {'step': 2.0}),
      # The chief, which waits for it in the next step, can tell who is behind.
      _hang('save_block', 10, 1, {'save': 8.0, 'step': 3.0}, 'slowest: worker 1, still at step 10'),
      _hang('eval', 20, 1, {'eval': 2.0}),
      _hang('barrier', 60, 1, {'barrier': 2.0}),
      Link(),
    )
  return (
    _hang('start', -1, 0, {'start': 1.0}),
    _hang('restore', -1, 0, {'restore': 1.0}),
    _hang('seek', -1, 0, {'start': 5.0}),
    _hang('compile', -1, 0, {'compile': 1.0}),
    _hang('step', 5, 0, {'step': 1.0}),
    _hang('save, before', 10, 0, {'save': 1.0}),
    _hang('save_block', 10, 0, {'save': 1.0}),
    _hang('eval', 20, 0, {'eval': 1.0}),
    _hang('barrier', 60, 0, {'barrier': 1.0}),
    Link(),
  )


def nonfinite(replica: int) -> dict[str, tuple[Link, ...]]:
  """A step that is not finite on one replica, and kills around it, per policy; `Link()` alone is the unbroken run."""
  poison = Poison(23, replica)

  def link(policy: str, *hits: Hit, code: int = 0, says: str = '') -> Link:
    args = (f'--config.train.on_nonfinite={policy}',)
    return Link(hits, code, says=says, args=args, poison=poison, also=((f'not finite, {policy}', 'step'),))

  where = '' if replica == 0 else rf', on replica {replica}'
  message = (
    rf'^diverged: step 23: the loss \(inf\) or its gradient is not finite{where}; gradients of \S+; '
    r'examples \d+, \d+, \d+ and \d+ more \(all in \S+/bad_steps.jsonl\)'
  )
  return {
    'raise': (link('raise', code=3, says=message), Link()),
    'skip': (link('skip', Hit('SIGKILL', 'step', 26), code=-9), link('skip')),
    'rollback': (
      link('rollback', Hit('SIGKILL', 'restore', 23), code=-9),
      link('rollback', Hit('SIGKILL', 'save, before', 20), code=-9),
      link('rollback', Hit('SIGKILL', 'save, after', 20), code=-9),
      link('rollback', Hit('SIGKILL', 'step', 26), code=-9),
      link('rollback'),
    ),
  }
