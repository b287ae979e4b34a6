"""One point of a sweep as a task of a Slurm array: python -m trainer.tune.point --workdir=DIR/array/NUMBER ...

Reads from DIR/tune.json what the point overrides, and goes on as the trainer does, in the point's own directory.
"""

from __future__ import annotations

import os
import sys

from trainer.errors import EXIT_USER_MISTAKE, ConfigError
from trainer.tune import record

ARRAY = 'array'
_WORKDIR = '--workdir='


def arguments(argv: list[str]) -> list[str]:
  """The trainer's arguments for those of a task.

  Raises:
    ConfigError: there is no such point.
  """
  workdir = next((each.removeprefix(_WORKDIR) for each in argv if each.startswith(_WORKDIR)), '')
  parent, number = os.path.split(workdir)
  folder = os.path.dirname(parent)
  found = record.read(folder) if os.path.basename(parent) == ARRAY else None
  if found is None or not number.isdigit() or int(number) >= len(found.points):
    raise ConfigError(
      f'{_WORKDIR}{workdir} is no point of a sweep: must be as in DIR/{ARRAY}/0, with DIR/{record.FILE}'
    )
  point = found.points[int(number)]
  rest = [each for each in argv if not each.startswith(_WORKDIR)]
  return [*rest, f'{_WORKDIR}{found.workdir(point)}', *record.as_flags(point.overrides)]


def prepare(found: record.Record, numbers: list[int]) -> None:
  """Makes the points' directories, under names that are their numbers too.

  Raises:
    ConfigError: they cannot be made.
  """
  folder = os.path.join(found.folder, ARRAY)
  try:
    os.makedirs(folder, exist_ok=True)
    for number in numbers:
      point, link = found.points[number], os.path.join(folder, str(number))
      os.makedirs(found.workdir(point), exist_ok=True)
      if not os.path.lexists(link):
        os.symlink(os.path.join(os.pardir, point.workdir), link)
  except OSError as error:
    raise ConfigError(f'--workdir={found.folder} cannot be written to: {error.strerror or error}') from error


if __name__ == '__main__':
  from trainer import main

  try:
    sys.argv[1:] = arguments(sys.argv[1:])
  except ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(EXIT_USER_MISTAKE)
  main.entry()
