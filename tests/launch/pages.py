"""The commands that a page of docs/ shows, for the test that runs them."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


def commands(page: str) -> list[str]:
  """The commands in a page's ```sh blocks, in order; one that goes on after a backslash is one command.

  Args:
    page: 'slurm' for docs/slurm.md.
  """
  text = (ROOT / 'docs' / f'{page}.md').read_text()
  found: list[str] = []
  for block in re.findall(r'^```sh\n(.*?)^```$', text, re.DOTALL | re.MULTILINE):
    lines = block.replace('\\\n', ' ').splitlines()
    found += [' '.join(line.split()) for line in lines if line.strip() and not line.startswith('#')]
  return found
