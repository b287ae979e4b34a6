"""Raw features as files that `reading` reads back: a few inputs that go with an export, to try it on."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.report import gallery


def write(folder: str, told: Mapping[str, Any], values: Sequence[Any]) -> None:
  """Writes examples into a folder, which is made: a file each, but rows of a table together.

  Args:
    folder: its path.
    told: the description (trainer/serve/reading.py).
    values: raw features as a dataset gives them, np.ndarray; of a table {column: np.ndarray}, of a text bytes.

  Raises:
    OSError: the folder cannot be written to.
  """
  os.makedirs(folder)
  if told['kind'] in ('table', 'numbers'):
    columns = [column['name'] for column in told['columns']] if told['kind'] == 'table' else []
    rows = [_row(told, columns, value) for value in values]
    _csv(os.path.join(folder, 'rows.csv'), [columns] * bool(columns) + rows)
    return
  for number, value in enumerate(values):
    path = os.path.join(folder, f'{number}')
    if told['kind'] == 'image':
      with open(f'{path}.png', 'wb') as file:
        file.write(gallery.png(value))
    elif told['kind'] == 'sound':
      samples = value if np.issubdtype(value.dtype, np.integer) else np.round(np.clip(value, -1, 1) * (2**15 - 1))
      gallery.write_sound(f'{path}.wav', samples.astype(np.int16), told['rate'])
    elif told['kind'] == 'text':
      with open(f'{path}.txt', 'wb') as file:
        file.write(value)
    else:
      _csv(f'{path}.csv', value.tolist())


def _row(told: Mapping[str, Any], columns: Sequence[str], value: Any) -> list[Any]:
  if not columns:
    return ['' if np.isnan(number) else number for number in np.asarray(value).ravel().tolist()]
  classes = {column['name']: column['classes'] for column in told['columns']}
  cells = [value[name].item() for name in columns]
  return [_cell(cell, classes[name]) for name, cell in zip(columns, cells, strict=True)]


def _cell(value: Any, classes: Sequence[str] | None) -> Any:
  """A number, or the name of a class; nothing where it is missing."""
  if classes:
    return classes[value] if value >= 0 else ''
  return '' if value != value else value


def _csv(path: str, rows: Sequence[Sequence[Any]]) -> None:
  with open(path, 'w', newline='') as file:
    csv.writer(file).writerows(rows)
