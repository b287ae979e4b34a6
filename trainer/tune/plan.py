"""What a sweep runs next, and what it makes of the end of a run. Knows tune.json and the runs' files, no process."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from trainer.errors import EXIT_COMPLETE, EXIT_DIVERGED, EXIT_USER_MISTAKE, ConfigError
from trainer.tune import halving, record, results, search
from trainer.tune.checking import Checker, changed
from trainer.tune.record import Point, Record
from trainer.tune.space import Overrides, Points, Space, as_space

_ENDS = {EXIT_USER_MISTAKE: record.FAILED, EXIT_DIVERGED: record.DIVERGED}


@dataclasses.dataclass(frozen=True)
class Job:
  """A run to be started.

  Attributes:
    point: whose.
    to: the step that it is to be trained to: its last, or a rung.
    pauses: whether that is a rung.
  """

  point: Point
  to: int
  pauses: bool


@dataclasses.dataclass(frozen=True)
class Options:
  """How a sweep is searched.

  Attributes:
    search: 'grid' (all of its points, in order), 'random' or 'tpe'.
    count: points to draw; 0: as many as the sweep says.
    seed: of the draws; -1: the sweep's own.
    halving: whether points are compared before their end.
    eta: one in so many is promoted.
    rungs: steps at which they are compared; empty: chosen here.
  """

  search: str = ''
  count: int = 0
  seed: int = -1
  halving: bool = False
  eta: int = 3
  rungs: tuple[int, ...] = ()


class Sweep:
  """A sweep in its directory, which the caller has claimed. `record` is what is known; `said` is for the user to read.

  Args:
    folder: the directory.
    config_flag, flags: of the trainer.
    swept: what is tried.
    options: how.
    checker: of this config and these flags.

  Raises:
    ConfigError: a point cannot run, the options do not fit together, or the directory holds a sweep of another config.
  """

  def __init__(
    self, folder: str, config_flag: str, flags: list[str], swept: Points | Space, options: Options, checker: Checker
  ):
    self._checker, self._eta, self._exhausted = checker, options.eta, False
    self._results: dict[int, results.Result] = {}  # point -> what its run has written
    kind, drawn, listed = _asked(swept, options)
    self._space = drawn if kind == search.TPE else None  # what points are drawn from one by one
    self._count = drawn.count if drawn else len(listed)
    checked = checker.check(listed)
    self.said: list[str] = []
    if kind == search.RANDOM and len(listed) < self._count:
      self.said.append(f'the space holds {len(listed)} different points only')
    self._rungs = _rungs(checked, options, len(listed)) if options.halving else []
    found: dict[str, Any] = {'kind': kind, 'rungs': self._rungs}
    if options.halving:
      found['eta'] = options.eta
    if drawn:
      found |= {'count': drawn.count, 'seed': drawn.seed}
    made = Record(folder, config_flag, flags, found, checked.metric, checked.mode, checked.steps, checked.base)
    before = record.read(folder)
    self.record = self._continued(before, made) if before else made
    known = {point.key for point in self.record.points}
    for point in self.record.points:
      point.in_sweep = False
    for overrides in listed if self._space is None else []:
      self.record.add(overrides)
    if self._space is not None:
      for point in self.record.points:
        point.in_sweep = search.fits(self._space, point.overrides)
    if before:
      self._say_what_changed(known)
    for point in self.record.points:
      self._look(point)

  def due(self) -> list[Job]:
    """The runs that may be done now, of points that are known; those under way among them."""
    current = {point.number: point for point in self._current()}
    if not self._rungs:
      return [
        Job(point, self.record.steps_of(point), False) for point in current.values() if point.state == record.OPEN
      ]
    standings = {number: self._standing(point) for number, point in current.items()}
    due = halving.due(standings, self._rungs, self._eta, self.record.mode)
    return [Job(current[number], to, to < self._rungs[-1]) for number, to in due.items()]

  def next(self, busy: Collection[int]) -> Job | None:
    """The run to start now; None if there is none until one of those that are busy has ended.

    Args:
      busy: numbers of points that are running, wait for another attempt, or have been set aside.
    """
    job = next((job for job in self.due() if job.point.number not in busy), None)
    return job if job is not None or self._space is None else self._drawn_next()

  def begun(self, job: Job) -> None:
    """Writes down that a run is about to start."""
    job.point.attempts += 1
    job.point.state, job.point.exit_code, job.point.message = record.OPEN, None, ''
    self.record.write()

  def ended(self, job: Job, code: int, message: str) -> bool:
    """Takes in that a run has ended; returns whether it is where it was to be, or will never be.

    Args:
      job: of the run.
      code: its exit code, -N for signal N.
      message: the last line that it wrote.
    """
    point = job.point
    point.exit_code = code
    self._look(point)
    if code in _ENDS:
      point.state, point.message = _ENDS[code], message
    elif code == EXIT_COMPLETE:
      point.state = record.COMPLETE
    self.record.write()
    return point.state != record.OPEN or (job.pauses and self._at(point, job.to))

  def gave_up(self, job: Job, message: str) -> None:
    """Takes in that there will be no further attempt of a run, which has crashed again and again."""
    job.point.state, job.point.message = record.CRASHED, message
    self.record.write()

  def retry_ended(self) -> list[Point]:
    """Opens again what failed or crashed; what diverged would diverge again."""
    found = [point for point in self.record.points if point.state in (record.FAILED, record.CRASHED)]
    for point in found:
      point.state = record.OPEN
    return found

  def settle(self) -> bool:
    """Brings the record to what is known at the end; returns whether nothing is left to run."""
    due = {job.point.number for job in self.due()}
    for point in self._current():
      if point.state == record.OPEN and self._rungs and not due:
        point.state = record.NOT_PROMOTED
    self.record.write()
    return not due and (self._space is None or len(self._current()) >= self._count or self._exhausted)

  def flags(self, job: Job) -> list[str]:
    """The trainer's arguments for a run."""
    pause = [f'--config.train.pause_at_step={job.to}'] if job.pauses else []
    return [
      f'--config={self.record.config}',
      f'--workdir={self.record.workdir(job.point)}',
      *self.record.flags,
      *record.as_flags(job.point.overrides),
      *pause,
    ]

  def _current(self) -> list[Point]:
    return [point for point in self.record.points if point.in_sweep]

  def _standing(self, point: Point) -> halving.Standing:
    result = self._results[point.number]
    reached = {rung: result.values[rung] for rung in self._rungs[:-1] if result.at(rung)}
    if point.state == record.COMPLETE:
      reached[self._rungs[-1]] = result.values.get(self._rungs[-1])
    return halving.Standing(reached, point.state in record.DEAD)

  def _at(self, point: Point, rung: int) -> bool:
    return self._results[point.number].at(rung)

  def _look(self, point: Point) -> None:
    """Reads what a run has written."""
    if point.state == record.NOT_PROMOTED:
      point.state = record.OPEN
    self._results[point.number] = self.record.refresh(point)

  def _drawn_next(self) -> Job | None:
    """Draws a point with what is known of the others."""
    assert self._space is not None
    current = self._current()
    if len(current) >= self._count:
      return None
    known = [
      search.Known(p.overrides, p.metric if p.state == record.COMPLETE else None, p.state == record.OPEN)
      for p in current
    ]
    drawn = search.draw(self._space, search.TPE, len(current), self.record.mode, known)
    if drawn is None:
      if not self._exhausted:
        self._exhausted = True
        self.said.append(f'the space holds nothing new after {len(current)} points')
      return None
    message = ''
    try:
      drawn = self._checker.one(drawn)
    except ConfigError as error:
      message = str(error)
    point = self.record.add(drawn)
    self._look(point)
    if message:
      point.state, point.message, point.exit_code = record.FAILED, f'error: {message}', EXIT_USER_MISTAKE
      self.said.append(f'point {point.number} ({record.words(drawn)}) cannot run: {message}')
      self.record.write()
      return self._drawn_next()
    return Job(point, self.record.steps_of(point), False)

  def _continued(self, before: Record, made: Record) -> Record:
    """The record of a sweep that goes on."""
    breaking = changed(before.base, made.base)
    if breaking:
      raise ConfigError(
        f'--workdir={made.folder} holds a sweep of another config: {"; ".join(breaking)}. Choose another --workdir, or '
        'set back what changed'
      )
    for what in ('metric', 'mode', 'search'):
      old, new = getattr(before, what), getattr(made, what)
      if old != new:
        self.said.append(f'{what} was {_shown(old)} and is now {_shown(new)}')
    made.points = before.points
    return made

  def _say_what_changed(self, known: Collection[str]) -> None:
    added = [point for point in self.record.points if point.key not in known]
    left = [point for point in self.record.points if not point.in_sweep]
    if added and known:
      self.said.append(f'new in the sweep: {_names(added)}')
    if left:
      self.said.append(f'no longer in the sweep, and kept: {_names(left)}')


def _asked(swept: Points | Space, options: Options) -> tuple[str, Space | None, list[Overrides]]:
  """(kind of search, what points are drawn from if they are, points to be checked before the first one runs)."""
  kind = options.search or ('random' if isinstance(swept, Space) else 'grid')
  if kind == 'grid':
    if isinstance(swept, Space):
      raise ConfigError('--search=grid is for lists of values, and the sweep is drawn from ranges: leave it out')
    if options.count:
      raise ConfigError(f'--count={options.count} is for --search=random or tpe: add that, or leave it out')
    return swept.kind, None, list(swept.points)
  search.check_installed()
  drawn = as_space(swept, options.count, options.seed)
  if kind == search.RANDOM:
    return kind, drawn, search.all_at_once(drawn)
  if options.halving:
    raise ConfigError(
      '--halving needs all points at the first rung, and --search=tpe draws each from the ends of others: take '
      '--search=random'
    )
  # What it will draw is not known yet, and is looked at then; some of the space shows now whether its fields exist.
  return kind, drawn, search.all_at_once(dataclasses.replace(drawn, count=min(drawn.count, 10)))


def _rungs(checked: Any, options: Options, count: int) -> list[int]:
  if options.eta < 2:
    raise ConfigError(f'--eta={options.eta} must be at least 2: one in so many points is promoted')
  if checked.eval_every is None:
    raise ConfigError('--halving compares points at the same steps: do not sweep train.steps and eval.every_steps')
  if not 0 < checked.eval_every < checked.steps:
    raise ConfigError(
      f'--halving compares points by evaluations before the last step, train.steps={checked.steps}: set '
      f'eval.every_steps={checked.eval_every} below it, as in -- --config.eval.every_steps={max(1, checked.steps // 9)}'
    )
  if options.rungs:
    return halving.check_rungs(options.rungs, checked.steps, checked.eval_every)
  return halving.rungs(checked.steps, checked.eval_every, options.eta, count)


def _names(points: list[Point]) -> str:
  shown = [f'{point.number} ({record.words(point.overrides)})' for point in points[:3]]
  return ', '.join(shown) + (f' and {len(points) - 3} more' if len(points) > 3 else '')


def _shown(value: Any) -> str:
  if isinstance(value, dict):
    return ' '.join(f'{name}={each}' for name, each in value.items() if each)
  return str(value)
