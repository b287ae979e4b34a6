"""The outcome of each cell of the matrix: a JSON object a line, in the file that an environment variable names."""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import Any

VARIABLE = 'TRAINER_FAULTS_TABLE'
TOPOLOGIES = ('one device', 'two devices', 'four devices', 'two workers')
MOMENTS = ('start', 'restore', 'trace', 'seek', 'compile', 'step', 'save_block', 'save, before', 'save, after')
MOMENTS += ('eval', 'barrier')


def note(fault: str, moment: str, topology: str, result: str, **facts: Any) -> None:
  """Appends one outcome, if anybody wants to know; several processes may do so at once.

  Args:
    fault: as in 'SIGKILL'.
    moment: as in 'save, before'.
    topology: one of TOPOLOGIES.
    result: 'ok', or what it is instead.
    **facts: 'code' (exit code of each worker), 'lost' (steps), 'seconds' (from the fault to the end), 'error'.
  """
  path = os.environ.get(VARIABLE)
  if not path:
    return
  line = {'fault': fault, 'moment': moment, 'topology': topology, 'result': result, **facts}
  with open(path, 'ab', buffering=0) as file:
    file.write(json.dumps(line).encode() + b'\n')


def read(path: str) -> list[dict[str, Any]]:
  return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def text(cells: list[dict[str, Any]]) -> str:
  """The table: a row per fault and moment, a column per topology; the worst of what was noted of a cell."""
  grouped = collections.defaultdict(list)
  for cell in cells:
    grouped[cell['fault'], cell['moment'], cell['topology']].append(cell)
  rows = sorted({cell[:2] for cell in grouped}, key=lambda row: (row[0].lower(), MOMENTS.index(row[1])))
  topologies = [name for name in TOPOLOGIES if any(cell[2] == name for cell in grouped)]
  lines = [('fault', 'moment', *topologies)]
  for fault, moment in rows:
    lines.append((fault, moment, *(_words(grouped.get((fault, moment, topology), [])) for topology in topologies)))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, tuple('-' * width for width in widths))
  padded = ('  '.join(part.ljust(width) for part, width in zip(line, widths, strict=True)) for line in lines)
  return '\n'.join(line.rstrip() for line in padded)


def _words(cells: list[dict[str, Any]]) -> str:
  """As in 'ok  -9  7 lost  0.1 s'; '' where there is no such cell."""
  if not cells:
    return ''
  bad = [cell for cell in cells if cell['result'] != 'ok']
  worst = bad[0] if bad else max(cells, key=lambda cell: (cell['lost'] or 0, cell['seconds'] or 0))
  words = [worst['result'] if bad else 'ok']
  if worst['code'] is not None:
    words.append('exit ' + '/'.join(map(str, worst['code'])))
  if worst['lost'] is not None:
    words.append(f'{worst["lost"]} lost')
  if worst['seconds'] is not None:
    words.append(f'{worst["seconds"]:.1f} s')
  return ', '.join(words)
