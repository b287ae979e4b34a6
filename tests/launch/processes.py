"""The processes of the workers that a launcher has started somewhere, and how to wait for what they do."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping


def wait(condition: Callable[[], object], seconds: float, otherwise: Callable[[], str] | None = None) -> None:
  """Polls a condition until it holds; fails after so many seconds."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, otherwise() if otherwise else f'in vain for {seconds:g} s'
    time.sleep(0.05)


def workers(word: str = '', **variables: str) -> list[int]:
  """The processes of workers, in the order of their numbers.

  Args:
    word: that is in their command line.
    **variables: of their environment.
  """
  found = {}
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):  # it has ended
      words = (folder / 'cmdline').read_bytes().decode(errors='replace').split('\0')
      if words[1:3] != ['-P', '-m'] or not any(word in each for each in words):
        continue
      lines = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
      environment = dict(line.partition('=')[::2] for line in lines)
      if all(environment.get(name) == value for name, value in variables.items()):
        found[_number(environment)] = int(folder.name)
  return [found[number] for number in sorted(found)]


def having(variable: str, value: str) -> list[int]:
  """All processes but this one whose environment has this variable."""
  found = []
  for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
      if f'{variable}={value}'.encode() in pathlib.Path(f'/proc/{pid}/environ').read_bytes().split(b'\0'):
        found.append(pid)
  return [pid for pid in found if pid != os.getpid()]


def _number(environment: Mapping[str, str]) -> int:
  if 'TF_CONFIG' in environment:
    return json.loads(environment['TF_CONFIG'])['task']['index']
  return int(environment.get('SLURM_PROCID', '0'))
