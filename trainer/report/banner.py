"""What a run says of itself at its start and at its end: two aligned columns of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report import words
from trainer.report.throughput import Rate

_WIDTH = 120
_SHORTEST_VALUE = 40
_LISTED = 8  # names of variables in a line


def banner(facts: Sequence[tuple[str, str]], title: str = '') -> str:
  """The facts as 'name   value' lines, values aligned; a long value goes on in the next line, under its start.

  Args:
    facts: (name, value); a value may hold line breaks; an empty one leaves the fact out.
    title: a line above.
  """
  facts = [(name, value) for name, value in facts if value]
  column = max((len(name) for name, _ in facts), default=0) + 2
  lines = [title] if title else []
  for name, value in facts:
    pieces = [piece for line in value.splitlines() for piece in _wrap(line, max(_WIDTH - column - 2, _SHORTEST_VALUE))]
    lines += [f'  {label:<{column}}{piece}' for label, piece in zip([name] + [''] * len(pieces), pieces, strict=False)]
  return '\n'.join(lines)


def summary(
  *,
  step: int,
  total_steps: int,
  seconds: float,
  train: Mapping[str, float] | None = None,
  evaluation: Mapping[str, float] | None = None,
  best: tuple[str, float, int] | None = None,
  rate: Rate,
  goodput: str = '',
  places: Sequence[tuple[str, str]] = (),
) -> str:
  """What came out of an attempt.

  Args:
    step: steps done, of `total_steps`.
    seconds: wall time of this attempt.
    train: last values of the training metrics.
    evaluation: values of the last evaluation.
    best: name, value and step of the best evaluation.
    rate: of the attempt; compilation, evaluation and saves are not in it.
    goodput: of the run, in a line.
    places: (what, path) of where things are.
  """
  done = step >= total_steps
  return banner(
    [
      ('steps', f'{step:,} of {total_steps:,}'),
      ('training', words.values(train) if train else ''),
      ('evaluation', words.values(evaluation) if evaluation else ''),
      ('best', f'{best[0]} {words.value(best[1])} at step {best[2]:,}' if best else ''),
      ('wall time', f'{words.duration(seconds)} (this attempt)'),
      ('throughput', _speed(rate)),
      ('goodput', goodput),
      *places,
    ],
    title='Training is complete.' if done else 'Training has stopped before its end; the same command goes on.',
  )


def _speed(rate: Rate) -> str:
  if rate.examples_per_second is None:
    return f'{words.NOT_MEASURED} (too few steps; the first block compiles and does not count)'
  return (
    f'{words.rate(rate.examples_per_second)}, {words.milliseconds(rate.step_milliseconds)} per step '
    f'(over {rate.steps:,} steps; without compilation, evaluation and saves)'
  )


def _wrap(text: str, width: int) -> list[str]:
  """Lines of at most `width` characters, broken at spaces; a word that is longer, such as a path, stays whole."""
  lines = ['']
  for word in text.split(' '):
    if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
      lines.append(word)
    else:
      lines[-1] += f' {word}' if lines[-1] else word
  return lines


def first_weights(record: Mapping[str, Any]) -> str:
  """What a warm start has set (trainer/checkpoint/warm_start.py, `Start.record`), in a line that run.json completes."""
  parts = [f'{len(record["set"])} variables from {record["path"]}']
  for what, names in (
    ('resized', record['resized']), ('left random', record['left_random']), ('not used of it', record['not_used']),
  ):  # fmt: skip
    if names:
      more = f' and {len(names) - _LISTED} more (run.json)' if len(names) > _LISTED else ''
      parts.append(f'{what}: {", ".join(names[:_LISTED])}{more}')
  return '; '.join(parts)
