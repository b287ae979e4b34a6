"""When a run is started again, and when not: what scripts/supervise, launch_local, launch_ssh and slurm_job share.

An attempt that ends with 0 (complete), 2 (a mistake of the user's) or 3 (diverged) is the last. Any other end is
followed by another attempt: 75 (stopped, run me again), a signal, any other code. Progress is a complete checkpoint of
a later step than there ever was; without it in --attempts attempts in a row we give up.

There is no wait after an attempt that made progress. Otherwise the wait is --backoff_seconds, twice that the next time,
and so on up to a minute; progress begins it anew. There is no restart after SIGTERM, SIGINT or SIGHUP, nor
while the file STOP lies in the work directory.

Of a run in a bucket, the trainer's copy on this machine is looked at. Before the first attempt that may be out of date,
and the trainer itself looks for STOP in the bucket.

Of the trainer only trainer/storage/place.py is loaded here: the rest takes seconds, and this must start at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

import children
from children import Events

# By its file: its package imports jax, which the Python of a launcher need not have.
_spec = importlib.util.spec_from_file_location('place', children.ROOT / 'trainer' / 'storage' / 'place.py')
assert _spec is not None and _spec.loader is not None
place = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(place)

COMPLETE, USER_MISTAKE, DIVERGED = 0, 2, 3
FINAL = (COMPLETE, USER_MISTAKE, DIVERGED)
RUN_AGAIN = 75
STOP_FILE = 'STOP'
LONGEST_SECONDS = 60.0
_CHECKPOINTS, _COMPLETE = 'checkpoints', 'complete.json'
_STEP = re.compile(r'0|[1-9][0-9]*')
_SIGNALS = {int(number): number.name for number in signal.Signals}


class Policy:
  """Decides after each attempt that may be followed by another; knows no clock, no file and no process.

  Attributes:
    fruitless: attempts in a row, the last one included, that made no progress.
    furthest: the newest complete checkpoint that there ever was; -1: there was none.
  """

  def __init__(self, attempts: int, backoff_seconds: float, step: int | None, fruitless: int = 0):
    """Args:
    attempts: so many in a row without progress are the last.
    backoff_seconds: the first wait.
    step: newest complete checkpoint before the first attempt; None: there is none.
    fruitless: attempts before the first one that made no progress, of a run that goes on elsewhere.
    """
    self.fruitless = fruitless
    self._attempts, self._first = attempts, backoff_seconds
    self._wait = min(backoff_seconds * 2**fruitless, max(LONGEST_SECONDS, backoff_seconds))
    self.furthest = -1 if step is None else step

  def wait_seconds(self, step: int | None) -> float | None:
    """How long to wait before the next attempt; None: there is to be none.

    Args:
      step: newest complete checkpoint now; None: there is none.
    """
    # Not only newer than before this attempt: a run that goes back and forth between two steps makes no progress.
    if step is not None and step > self.furthest:
      self.furthest, self.fruitless, self._wait = step, 0, self._first
      return 0.0
    self.fruitless += 1
    if self.fruitless >= self._attempts:
      return None
    wait = self._wait
    self._wait = min(2 * wait, max(LONGEST_SECONDS, self._first))
    return wait


def run(name: str, options: argparse.Namespace, args: Sequence[str], attempt: Callable[[], int], events: Events) -> int:
  """Makes attempts until one is the last. Returns the exit code.

  Args:
    name: of the script, for what it says.
    options: with those of `add_options`.
    args: the trainer's arguments.
    attempt: makes one attempt and returns its exit code, -N for signal N.
    events: of this process; the attempts take from them what happens while they last.
  """
  workdir = find_workdir(args)
  if not workdir:
    print("error: --workdir is missing: name the directory of the run behind '--', as for the trainer", file=sys.stderr)
    return USER_MISTAKE
  policy = Policy(options.attempts, options.backoff_seconds, newest_step(workdir))
  stop_file = os.path.join(place.local_copy(workdir), STOP_FILE)
  number = 0
  while True:
    # What lies in the copy of a bucket may be old until the trainer has looked there.
    if os.path.lexists(stop_file) and (number or not place.is_remote(workdir)):
      _say(name, f'{os.path.join(workdir, STOP_FILE)} is there: remove it to go on')
      return RUN_AGAIN
    if events.stopping:  # while no attempt was under way: all is saved as far as it could be
      return RUN_AGAIN
    number += 1
    code = attempt()
    if code in FINAL or events.stopping:
      return exit_code(code)
    if os.path.lexists(stop_file):
      continue
    step = newest_step(workdir)
    wait = policy.wait_seconds(step)
    end = f'attempt {number} ended with {describe(code)}, newest checkpoint: '
    end += 'none' if step is None else f'step {step}'
    if wait is None:
      row = f'{options.attempts} attempts in a row' if options.attempts > 1 else '1 attempt'
      _say(name, f'giving up: {end}; no progress in {row}')
      return exit_code(code)
    if policy.fruitless:
      end += f' ({policy.fruitless} of {options.attempts} without progress)'
    when = f'in {wait:g} s' if wait else 'at once'
    _say(name, f'{end}; starting attempt {number + 1} {when}')
    events.pause(wait)


def add_options(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the policy."""
  parser.add_argument(
    '--attempts', type=positive, default=5, help='give up after so many in a row without a new checkpoint (default: 5)'
  )
  parser.add_argument(
    '--backoff_seconds', type=seconds, default=1.0, help='first wait before a restart, doubled up to 60 (default: 1)'
  )


def find_workdir(args: Sequence[str]) -> str:
  """The work directory that the trainer's arguments name; '' for none."""
  return find_flag(args, 'workdir')


def find_flag(args: Sequence[str], name: str) -> str:
  """The value of a flag among the trainer's arguments, as absl reads them: the last one counts; '' for none."""
  found, rest = '', iter(args)
  for argument in rest:
    if argument == '--':
      break
    if argument in (f'--{name}', f'-{name}'):
      found = next(rest, '')
    elif argument.startswith((f'--{name}=', f'-{name}=')):
      found = argument.partition('=')[2]
  return found


def is_in_bucket(workdir: str) -> bool:
  """Whether a work directory is a folder in a bucket of Google's storage."""
  return bool(re.fullmatch('gs://[a-z0-9][-_.a-z0-9]+[a-z0-9](/[^/]+)+/?', workdir))


def newest_step(workdir: str) -> int | None:
  """The newest complete checkpoint (trainer/checkpoint/layout.py says what that is); None where there is none."""
  folder = os.path.join(place.local_copy(workdir), _CHECKPOINTS)
  try:
    names = os.listdir(folder)
  except OSError:  # not there yet, or not to be read just now: no progress is to be seen, and that is all
    return None
  steps = sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)
  return next((step for step in steps if os.path.lexists(os.path.join(folder, str(step), _COMPLETE))), None)


def describe(code: int) -> str:
  """The end of a process in words; `code` is -N for signal N."""
  return f'signal {_SIGNALS.get(-code, -code)}' if code < 0 else f'exit code {code}'


def exit_code(code: int) -> int:
  """What a shell makes of the end of a process: 128 + N for signal N."""
  return 128 - code if code < 0 else code


def seconds(text: str) -> float:
  """The value of an option in seconds.

  Raises:
    argparse.ArgumentTypeError: it is no time.
  """
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 <= value < math.inf:
    raise argparse.ArgumentTypeError(f'{text} must be a number of seconds, at least 0')
  return value


def positive(text: str) -> int:
  if not re.fullmatch('0*[1-9][0-9]*', text):
    raise argparse.ArgumentTypeError(f'{text} must be a whole number, at least 1')
  return int(text)


def _say(name: str, text: str) -> None:
  print(f'{name}: {text}', file=sys.stderr, flush=True)
