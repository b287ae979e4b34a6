"""Whatever happens to a run, every second is in one bucket, and every step that was done again is found."""

from __future__ import annotations

import dataclasses
import tempfile

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from trainer.report import goodput
from trainer.report.ledger import Ledger
from trainer.runtime.phases import Phases

from .conftest import NEVER, Clock, assert_is_a_trace, kill


class KilledError(Exception):
  """The simulated process is gone."""


@dataclasses.dataclass
class Done:
  """A step that was done, to be counted by itself."""

  step: int
  seconds: float
  again: bool = False


class Simulated:
  """A run in simulated time that is written to a real ledger, and told step by step beside it."""

  def __init__(self, folder: str, clock: Clock):
    self.folder, self.clock = folder, clock
    self.done: list[Done] = []
    self.saved = [0]
    self.first_start: float | None = None
    self.last_sign = 0.0

  def attempt(self, actions: list[tuple], *, killed_after: float, resume: int, code: int, interval: float) -> None:
    """One process; it is killed where it has not ended before."""
    self.began, self.interval = self.clock.now, interval
    self.killed_at = self.began + killed_after
    self.opened: float | None = None
    self.now = Phases(self.began)
    self.ledger = Ledger(self.now, NEVER)
    self.known = len(self.done)
    try:
      self.pass_time(1.5)
      self.phase('build', 0.7)
      self.ledger.open(self.folder, 0)
      self.opened = self.beaten = self.clock.now
      if self.first_start is None:
        self.first_start = self.began
      self.sign()
      self.phase('restore', 0.4)
      self.go_back(resume)
      self.phase('seek', 0.1)
      self.steps('compile', 2.0, 0.0, 0.0, [1])
      for action, *arguments in actions:
        getattr(self, action)(*arguments)
      self.ledger.close(code)
      self.sign()
    except KilledError:
      kill(self.ledger)
      del self.done[self.known :]  # nobody knows of them any more
      assert self.opened is None or self.clock.now - self.last_sign <= interval + 1e-9

  def pass_time(self, seconds: float) -> None:
    end = min(self.clock.now + seconds, self.killed_at)
    if self.opened is not None:
      # Of the heartbeats until then only the last is of any consequence.
      beat = self.opened + (end - self.opened) // self.interval * self.interval
      if self.beaten < beat <= end and beat >= self.clock.now:
        self.clock.now = self.beaten = beat
        self.ledger.beat()
        self.sign()
    self.clock.now = end
    if end == self.killed_at:
      raise KilledError

  def sign(self) -> None:
    """What has been done until now is known to the ledger."""
    self.known, self.last_sign = len(self.done), self.clock.now

  def enter(self, name: str, step: int | None = None) -> None:
    before = self.now.current
    self.now.enter(name, step)
    if self.opened is not None and self.now.current is not before:
      self.sign()

  def phase(self, name: str, seconds: float) -> None:
    self.enter(name)
    self.pass_time(seconds)

  def steps(self, name: str, seconds: float, share: float, between: float, blocks: list[int]) -> None:
    """Blocks of steps of the same duration, a share of it waiting for data, and time between blocks."""
    self.enter(name)
    for steps in blocks:
      self.pass_time(steps * seconds)
      step, waited = self.now.current.last, steps * seconds * share
      useful = (seconds * (1 - share)) if name == 'step' else 0.0
      self.done += [Done(step + number, useful) for number in range(1, steps + 1)]
      self.now.progress(step + steps, steps * seconds, waited)
      self.pass_time(between)

  def go_back(self, which: int) -> None:
    step = self.saved[which % len(self.saved)]
    self.saved = [saved for saved in self.saved if saved <= step]
    self.ledger.resumed(step)
    for done in self.done:
      done.again = done.again or done.step > step
    self.sign()
    self.enter('restore', step)

  def save(self, seconds: float) -> None:
    self.phase('save_block', seconds)
    self.saved.append(self.now.current.last)

  def roll_back(self, which: int) -> None:
    self.phase('restore', 0.3)
    self.go_back(which)


def durations(most: float = 5.0) -> st.SearchStrategy[float]:
  return st.floats(0, most).map(lambda seconds: round(seconds, 3))


ACTIONS = st.one_of(
  st.tuples(st.just('phase'), st.sampled_from(['eval', 'other', 'seek', 'barrier']), durations()),
  st.tuples(
    *(st.just('steps'), st.just('step'), st.floats(0.001, 1), st.floats(0, 1), durations(1)),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
  ),
  st.tuples(st.just('save'), durations()),
  st.tuples(st.just('roll_back'), st.integers(0, 9)),
)
ATTEMPTS = st.fixed_dictionaries(
  {
    'actions': st.lists(ACTIONS, max_size=8),
    'killed_after': st.floats(0.5, 20) | st.floats(0.5, 60) | st.just(NEVER),
    'resume': st.integers(-3, -1),
    'code': st.sampled_from([0, 3, 75]),
    'interval': st.sampled_from([0.25, 1.0]),
  }
)


@given(attempts=st.lists(ATTEMPTS, min_size=1, max_size=5), down=durations(30))
def test_any_history_adds_up(attempts, down):
  with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
    clock = Clock.install(patch)
    run = Simulated(folder, clock)
    for attempt in attempts:
      run.attempt(**attempt)
      clock.now += down
    if run.first_start is None:
      return  # each was killed before it could write
    found = goodput.read(folder)
    summary = goodput.summarize(found)
    trace = goodput.trace(folder)
  wall = run.last_sign - run.first_start
  assert summary.wall_seconds == pytest.approx(wall, abs=1e-4)
  assert sum(summary.seconds.values()) == pytest.approx(wall, rel=0.01, abs=1e-3)
  assert summary.unaccounted_seconds == pytest.approx(0, abs=1e-3)
  assert min(summary.seconds.values()) >= 0
  assert 0 <= summary.goodput <= 1
  assert summary.goodput + sum(summary.badput.values()) == pytest.approx(1, abs=1e-4)
  assert summary.seconds['wasted'] == pytest.approx(sum(d.seconds for d in run.done if d.again), abs=1e-3)
  assert summary.seconds['step'] == pytest.approx(sum(d.seconds for d in run.done if not d.again), abs=1e-3)
  assert summary.steps_redone == sum(done.again for done in run.done)
  kept = [done.step for done in run.done if not done.again]
  assert kept == list(range(1, summary.steps + 1))
  event(f'{len(found)} attempts, steps redone: {summary.steps_redone > 0}, killed: {goodput.KILLED in summary.ends}')
  assert_is_a_trace(trace)
