"""Where a run stands: a live bar on a terminal, plain lines elsewhere.

Called once per block of steps, never per step. The time to go is reckoned from the wall time of this attempt after its
first block (which compiles), so evaluations and saves are in it, as they will be in what is to come.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.report import words
from trainer.report.throughput import Rate

# Off a terminal, no two lines of progress come closer than this, but for the first and the last.
_LINE_SECONDS = 5.0
_WIDEST_BAR, _NARROWEST_BAR = 30, 8


@dataclasses.dataclass
class _Shown:
  """What the line says; None where nothing is known yet."""

  step: int
  loss: float | None = None
  learning_rate: float | None = None
  rate: Rate | None = None


class Progress:
  """The progress line of one attempt; use it as a context manager, so that the terminal is left in order."""

  def __init__(
    self,
    step: int,
    total_steps: int,
    *,
    stream: TextIO | None = None,
    live: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Args:
    step: where the attempt begins.
    total_steps: where the run ends.
    stream: where to write; None: stdout.
    live: a bar that moves, rather than lines; None: if `stream` is a terminal.
    clock: seconds.
    """
    self.total_steps, self._clock = total_steps, clock
    self._shown = _Shown(step)
    self._since: tuple[int, float] | None = None  # step and time at the end of the first block
    self._last_line: float | None = None
    self._stream = stream or sys.stdout
    self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
    self._is_live = self._console.is_terminal if live is None else live
    self._live: Live | None = None
    self._silent = False

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def block(self, step: int, rate: Rate) -> None:
    """A block of steps has ended.

    Args:
      step: steps done.
      rate: since the last row of metrics.
    """
    if self._since is None:
      self._since = step, self._clock()
    self._shown.step = step
    if rate.steps:
      self._shown.rate = rate
    if self._is_live:
      self._refresh()

  def row(self, step: int, *, loss: float | None, learning_rate: float | None, rate: Rate) -> None:
    """A row of training metrics has been written: their values are shown from now on.

    Args:
      step: steps done.
      loss, learning_rate: means over the steps of the row.
      rate: over the steps of the row.
    """
    self._shown = _Shown(step, loss, learning_rate, rate)
    if self._is_live:
      self._refresh()
    elif self._line_is_due(step):
      self._last_line = self._clock()
      self.print(self.line())

  def rewind(self, step: int) -> None:
    """The run has gone back to an earlier step."""
    self._shown, self._since = _Shown(step), None

  def print(self, text: str) -> None:
    """Prints lines of text, above the bar where there is one."""
    if self._live:
      self._tell(lambda: self._console.print(text, markup=False))
    else:
      self._tell(lambda: print(text, file=self._stream, flush=True))

  def close(self) -> None:
    """Leaves the last state of the bar standing; what is printed afterwards comes below it."""
    if self._live:
      self._tell(self._live.stop)
      self._live = None

  def line(self) -> str:
    """'step 1,200/10,000 (12 %)  loss 0.1234  lr 1.000e-03  1,234 examples/s  12.3 ms/step  ETA 3 min 20 s'."""
    shown, share = self._shown, 100 * self._shown.step // max(1, self.total_steps)
    parts = [
      f'step {shown.step:,}/{self.total_steps:,} ({share} %)',
      f'loss {words.value(shown.loss)}',
      f'lr {words.value(shown.learning_rate)}',
      words.rate(shown.rate.examples_per_second if shown.rate else None),
      f'{words.milliseconds(shown.rate.step_milliseconds if shown.rate else None)}/step',
    ]
    if shown.step < self.total_steps:
      seconds = self.seconds_to_go()
      parts.append(f'ETA {words.duration(None if seconds is None else max(1.0, seconds))}')
    return '  '.join(parts)

  def seconds_to_go(self) -> float | None:
    """Wall time until the last step if all goes on as in this attempt so far; None when that is not known yet."""
    if self._since is None or self._shown.step <= self._since[0]:
      return None
    first, start = self._since
    return (self._clock() - start) / (self._shown.step - first) * (self.total_steps - self._shown.step)

  def _line_is_due(self, step: int) -> bool:
    if self._last_line is None or step >= self.total_steps:
      return True
    return self._clock() - self._last_line >= _LINE_SECONDS

  def _tell(self, action: Callable[[], None]) -> None:
    """Says something; goes on in silence where nobody reads any more: a terminal that was closed, a pipe that ended."""
    if self._silent:
      return
    try:
      action()
    except OSError:
      self._silent = True

  def _refresh(self) -> None:
    self._tell(self._draw)

  def _draw(self) -> None:
    if self._live is None:
      # No thread of its own: it is drawn when something has changed. A killed process must not leave the cursor hidden.
      self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=True, redirect_stderr=True)
      self._live.start()
      self._console.show_cursor(True)
    self._live.update(self._bar(), refresh=True)

  def _bar(self) -> Table:
    text = self.line()
    room = self._console.width - len(text) - 2
    bar = Table.grid(padding=(0, 2, 0, 0))
    cells: list[ProgressBar | Text] = [Text(text, no_wrap=True, overflow='ellipsis')]
    if room >= _NARROWEST_BAR:
      cells.insert(0, ProgressBar(self.total_steps, self._shown.step, width=min(room, _WIDEST_BAR)))
    bar.add_row(*cells)
    return bar
