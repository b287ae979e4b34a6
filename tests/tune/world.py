"""Runs that take no time: what they write is written, and a kill may come between any two things that they do."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from trainer.tune.checking import Checked
from trainer.tune.plan import Job, Options, Sweep

STEPS, EVERY = 90, 10


class Killed(Exception):
  """The sweep and its runs have been killed."""


class Accepting:
  """A checker that takes each point as it is."""

  def check(self, points) -> Checked:
    return Checked({'train.steps': STEPS, 'seed': 0}, [dict(p) for p in points], 'accuracy', 'max', STEPS, EVERY)

  def one(self, point):
    return dict(point)


@dataclasses.dataclass
class World:
  """Where runs are done.

  Attributes:
    folder: of the sweep.
    fates: point -> (exit code, step): how it ends before its last step; none: it ends well.
    moments_left: things that may still happen before the kill; None: there is none.
    steps_done: how often each step of each point was done.
  """

  folder: pathlib.Path
  fates: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
  moments_left: int | None = None
  steps_done: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)

  def sweep(self, swept, options: Options | None = None) -> Sweep:
    made = Sweep(str(self.folder), 'configs/some.py', [], swept, options or Options(), Accepting())  # type: ignore[arg-type]
    made.record.write()
    return made

  def follow(self, sweep: Sweep) -> None:
    """Runs it to its end, one point after another."""
    given_up: set[int] = set()
    while job := sweep.next(given_up):
      sweep.begun(job)
      self.moment()
      code = self.train(sweep, job)
      self.moment()
      if not sweep.ended(job, code, 'the last line') and code != 75:
        sweep.gave_up(job, 'the last line')
      self.moment()
    assert sweep.settle()

  def train(self, sweep: Sweep, job: Job) -> int:
    """Trains a point as the trainer does, evaluated before it is saved; returns the exit code."""
    number = job.point.number
    workdir = pathlib.Path(sweep.record.workdir(job.point))
    workdir.mkdir(parents=True, exist_ok=True)
    saved = max((int(path.parent.name) for path in workdir.glob('checkpoints/*/complete.json')), default=0)
    rows = [row for row in self._rows(workdir) if row['step'] <= saved]
    (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    code, ends_at = self.fates.get(number, (0, STEPS + 1))
    for step in range(saved + EVERY, job.to + 1, EVERY):
      if step >= ends_at:
        return code
      self.steps_done[number, step] = self.steps_done.get((number, step), 0) + 1
      with open(workdir / 'metrics.jsonl', 'a') as file:
        file.write(json.dumps({'step': step, 'split': 'eval', 'time': 0.0, 'accuracy': value(number, step)}) + '\n')
      self.moment()
      (workdir / 'checkpoints' / str(step)).mkdir(parents=True, exist_ok=True)
      (workdir / 'checkpoints' / str(step) / 'complete.json').touch()
      self.moment()
    return 75 if job.pauses else 0

  def moment(self) -> None:
    if self.moments_left is not None:
      self.moments_left -= 1
      if self.moments_left < 0:
        raise Killed

  def _rows(self, workdir: pathlib.Path) -> list[dict[str, Any]]:
    path = workdir / 'metrics.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def value(number: int, step: int) -> float:
  """The accuracy of a point; the lines of two points may cross."""
  return round(((7 * number) % 10) / 10 + step / 1000 * ((3 * number) % 5), 4)


def rows(sweep: Sweep) -> list[tuple[Any, ...]]:
  """What the table says, but for attempts and times."""
  return [(p.number, p.overrides, p.state, p.metric, p.metric_step, p.step, p.message) for p in sweep.record.points]
