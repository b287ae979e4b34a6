"""The instructions of a Dockerfile, as far as ours uses them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: as in 'COPY'.
    text: what follows, on one line.
    flags: options in front of it, as in {'chown': '1000:1000'}.
  """

  name: str
  text: str
  flags: dict[str, str]

  @property
  def words(self) -> list[str]:
    """The words of it, of the form ["a", "b"] as well."""
    return json.loads(self.text) if self.text.startswith('[') else shlex.split(self.text)


def parse(text: str) -> list[Instruction]:
  """The instructions in order.

  Raises:
    ValueError: a line is none.
  """
  lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith('#')]
  found = []
  for line in '\n'.join(lines).replace('\\\n', ' ').splitlines():
    match = re.fullmatch(r'([A-Z]+)((?:\s+--[a-z-]+=\S+)*)\s+(.*\S)\s*', line)
    if not match:
      raise ValueError(f'{line!r} is no instruction')
    flags = dict(word.removeprefix('--').split('=', 1) for word in match[2].split())
    found.append(Instruction(match[1], ' '.join(match[3].split()), flags))
  return found
