"""What the modes beside training have left: a benchmark, a range test of learning rates, a batch learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.report import words
from trainer.report.page import curves
from trainer.report.page.folder import Run
from trainer.report.page.settings import at


def benchmark(run: Run) -> dict[str, Any] | None:
  """{'valid', 'why': sentences, 'rows': [(name, words)]} of benchmark.json; None where there is none."""
  found = run.benchmark
  if not found:
    return None

  def number(path: str) -> float | None:
    value = at(found, path)
    return float(value) if curves.is_number(value) else None

  def milliseconds(path: str) -> str:
    value = number(path)
    return words.milliseconds(None if value is None else 1000 * value)

  def percent(path: str) -> str:
    value = number(path)
    return words.NOT_MEASURED if value is None else f'{100 * value:.1f} %'

  def text(path: str) -> str:
    value = at(found, path)
    return words.NOT_MEASURED if value is None else str(value)

  why = at(found, 'why_not_valid')
  return {
    'valid': at(found, 'valid') is True,
    'why': [str(reason) for reason in why] if isinstance(why, list) else [],
    'rows': [
      ('measured', text('started')),
      ('on', f'{text("topology.replicas")} x {text("topology.device")}, {text("precision.policy")}'),
      ('real input', words.rate(number('input.real.examples_per_second'))),
      ('one batch repeated', words.rate(number('input.repeated.examples_per_second'))),
      ('share of a step that waits for input', percent('input_share')),
      ('slowest stage of the input', text('input.slowest_stage')),
      ('step, mean', milliseconds('input.real.step_seconds.mean')),
      ('step, p50', milliseconds('single_steps.p50')),
      ('step, p90', milliseconds('single_steps.p90')),
      ('step, p99', milliseconds('single_steps.p99')),
      ('first step', words.duration(number('first_step.seconds'))),
      ('from the start to the second step', words.duration(number('first_step.from_process_start_seconds'))),
      ('collective', milliseconds('collective.seconds')),
      ('a save blocks training for', milliseconds('save.blocked_seconds')),
      ('a save', f'{words.size(number("save.bytes"))} in {words.duration(number("save.seconds"))}'),
      ('memory of the host', words.size(number('memory.host_bytes'))),
      ('memory of the device', words.size(number('memory.device_bytes'))),
      ('model FLOPs utilisation', percent('compute.mfu')),
      ('hardware FLOPs utilisation', percent('compute.hfu')),
    ],
  }


def lr_test(run: Run, number: int) -> dict[str, Any] | None:
  """{'rows': [(name, words)], 'plot'} of lr_test.json; None where there is none."""
  found = run.lr_test
  rates, losses, smooth = (_numbers(found.get(name)) for name in ('rates', 'losses', 'smoothed'))
  if not rates:
    return None
  names = {
    'proposal': 'proposed learning rate',
    'rate_of_fastest_fall': 'rate of the fastest fall',
    'rate_of_lowest_loss': 'rate of the lowest loss',
  }
  rows = [(text, words.value(found[name])) for name, text in names.items() if curves.is_number(found.get(name))]
  plot = _plot('loss by learning rate', number, {'smoothed': (rates, smooth), 'loss': (rates, losses)})
  return {'rows': rows, 'plot': {**plot, 'axis': 'learning rate', 'logx': True}}


def overfit(run: Run, number: int) -> dict[str, Any] | None:
  """{'learnt', 'rows', 'plot'} of overfit.json; None where there is none."""
  losses = _numbers(run.overfit.get('losses'))
  if not losses:
    return None
  steps: list[float | None] = [*range(1, len(losses) + 1)]
  rows = [('first loss', words.value(losses[0])), ('last loss', words.value(losses[-1])), ('steps', f'{len(losses):,}')]
  return {
    'learnt': run.overfit.get('learnt') is True,
    'rows': rows,
    'plot': {**_plot('loss of one batch', number, {'train': (steps, losses)}), 'axis': 'step'},
  }


def _numbers(values: Any) -> list[float | None]:
  """The numbers of a list; None in the place of each that is not finite."""
  values = values if isinstance(values, list) else []
  return [float(value) if curves.is_number(value) else None for value in values]


def _plot(
  name: str, number: int, lines: dict[str, tuple[Sequence[float | None], Sequence[float | None]]]
) -> dict[str, Any]:
  """A plot of a few lines, as `curves.plots` gives them."""
  series = []
  for split, (x, y) in lines.items():
    rows = [(a, b) for a, b in zip(x, y, strict=False) if a is not None and b is not None]
    kept, _ = curves.thin([(a, b, None) for a, b in rows], 1000)  # type: ignore[misc]
    if kept:
      series.append({
        'run': number, 'split': split, 'x': [point[0] for point in kept], 'y': [point[1] for point in kept], 't': None,
        'rows': len(rows), 'kept': len(kept), 'bad': [], 'bads': len(y) - len(rows),
      })  # fmt: skip
  return {'name': name, 'section': 'checks', 'unit': '', 'series': series}
