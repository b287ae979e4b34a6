"""Runs a chain of attempts in one work directory, each hit by a fault, and holds the end against an unbroken run."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

from tests.faults import checks, program, table
from tests.faults.attempts import Link, Site


def run_chain(site: Site, links: tuple[Link, ...], whole: Site | None) -> None:
  """Makes one attempt after the other, and holds what is left against an unbroken run; notes each cell in the table."""
  outcomes: list[dict[str, Any]] = [{'code': None, 'lost': None, 'seconds': None} for _ in links]
  done, error = 0, ''
  try:
    for link, outcome in zip(links, outcomes, strict=True):
      run_link(site, link, outcome)
      done += 1
    if whole:
      checks.assert_same(site, whole)
  except BaseException as raised:
    error = ' '.join(str(raised).split())[:300] or type(raised).__name__
    raise
  finally:
    for number, (link, outcome) in enumerate(zip(links, outcomes, strict=True)):
      result = 'ok'
      if error and done == len(links):
        result = 'FAILED'  # the run does not end as it should, and any of the faults may be why
      elif error:
        result = 'ok so far' if number < done else 'FAILED' if number == done else 'not run'
      for fault, moment in link.cells:
        table.note(fault, moment, site.topology, result, error=error, **outcome)


def run_link(site: Site, link: Link, outcome: dict[str, Any]) -> None:
  """Makes an attempt and checks all that holds after each; fills in what the table says of it."""
  damaged = site.newest() if link.before in ('bit flip', 'truncated file') else 0
  if link.before:
    BEFORE[link.before](site)
  saved_before = site.checkpoints().steps() if site.workdir.exists() else []
  ended = site.attempt(link)
  hit = link.hits[-1] if link.hits else None
  outcome['code'] = [each.code for each in ended]
  told = '\n'.join(f'--- worker {index}: {each.code}\n{each.stderr[-3000:]}' for index, each in enumerate(ended))
  try:
    checks.check_codes(link, hit, ended)
    outcome['lost'] = checks.steps_lost(site, link, hit, ended)
    outcome['seconds'] = checks.seconds(link, hit, ended)
    checks.check_words(link, hit, ended)
    checks.check_lost_peer(hit, ended)
    if damaged:
      assert f'checkpoint of step {damaged} is damaged' in ended[0].stderr
      assert (site.workdir / 'checkpoints' / 'damaged' / f'{damaged}-1').is_dir()
    for each in link.hits:
      if each.fault == 'SIGUSR1':
        checks.check_save_asked_for(each, ended[each.at])
      if each.fault == 'hang':
        checks.check_stall(site, each, ended[each.at])
    checks.assert_intact(site)
    if hit and hit.is_early and link.code not in (0, 2, 3):
      assert site.checkpoints().steps() == [step for step in saved_before if step != damaged]
  except AssertionError as error:
    error.add_note(told)
    raise


# -- what happens to the files between two attempts --------------------------------------------------------------------


def _largest_file(site: Site) -> pathlib.Path:
  newest = site.workdir / 'checkpoints' / str(site.newest())
  files = [path for path in newest.rglob('*') if path.is_file() and path.name != 'complete.json']
  return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(site: Site) -> None:
  path = _largest_file(site)
  contents = bytearray(path.read_bytes())
  contents[len(contents) // 2] ^= 1
  path.write_bytes(contents)


def truncate(site: Site) -> None:
  path = _largest_file(site)
  os.truncate(path, path.stat().st_size // 2)


def put_back(site: Site) -> None:
  shutil.copyfile(f'{site.data_file}.good', site.data_file)


BEFORE = {
  'bit flip': flip_a_bit,
  'truncated file': truncate,
  'disk freed': lambda site: os.unlink(program.filler(str(site.workdir))),
  'stop file removed': lambda site: os.unlink(site.workdir / 'STOP'),
  'data put back': put_back,
}
