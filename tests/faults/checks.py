"""What must hold after each attempt, and in the end."""

from __future__ import annotations

import os
import re

import numpy as np

from tests.faults.attempts import HEARTBEAT_SECONDS, LEAVE_SECONDS, SAVES, START_SECONDS, STEPS, Link, Site
from tests.faults.processes import Ended
from tests.faults.program import NOTICES, STAGES, Hit

REASONS = {
  'SIGTERM': 'SIGTERM',
  'SIGINT': 'SIGINT',
  'metadata notice': 'this machine is being preempted',
  'stop file': 'the stop file ',
  'deadline': 'faults.max_runtime_seconds=3600 is nearly over',
}


def assert_intact(site: Site) -> None:
  """Every checkpoint loads."""
  checkpoints = site.checkpoints()
  for step in checkpoints.steps():
    assert checkpoints.restore(step).host['progress']['step'] == step


def assert_same(site: Site, whole: Site, steps: int = STEPS) -> None:
  """Both runs have ended with the same bytes: variables, slots, averages, progress, rows; and nothing is left over."""
  assert site.rows() == whole.rows()
  found, expected = site.checkpoints().restore(steps), whole.checkpoints().restore(steps)
  assert found.host == expected.host
  assert found.arrays.keys() == expected.arrays.keys()
  for name, value in expected.arrays.items():
    assert found.arrays[name].dtype == value.dtype
    np.testing.assert_array_equal(found.arrays[name], value, err_msg=name)
  assert_clean(site)
  assert not list(site.workdir.glob('*heartbeat*')), 'each worker has taken its own away'


def assert_clean(site: Site) -> None:
  """No temporary file or folder is left in the work directory."""
  names = {name for name in os.listdir(site.workdir / 'checkpoints') if not name.isdigit()}
  assert names <= {'damaged'}, names
  left = [path.name for path in site.workdir.rglob('*') if re.search(r'tmp|saving', path.name)]
  assert not left, left


def check_codes(link: Link, hit: Hit | None, ended: list[Ended]) -> None:
  for index, each in enumerate(ended):
    expected = link.code
    if hit and len(ended) > 1 and index != hit.victim and link.code not in (0, 2, 3):
      expected = 75
    if hit and hit.fault == 'SIGSTOP' and index == hit.victim and len(ended) > 1:
      assert each.killed
      expected = -9
    if link.code == 2 and each.code == 75 and any(other.code == 2 for other in ended):
      continue  # any of them may be the first to find out, and leaves the others alone
    assert each.code == expected, (index, each.code, expected)
    assert 'Traceback' not in each.stderr


def steps_lost(site: Site, link: Link, hit: Hit | None, ended: list[Ended]) -> int:
  """Steps that were done and have to be done again; no more than they may be."""
  reached = max((each.reached for each in ended if each.reached is not None), default=None)
  newest = site.newest()
  lost = 0 if reached is None else reached - newest
  if not hit or link.code in (0, 2, 3):
    return lost
  if hit.fault in NOTICES:
    assert lost == 0, f'step {reached} was reached, step {newest} is saved'
    return lost
  # A save that is stuck is missed when the next one is due.
  allowed = 2 * SAVES if hit.fault == 'hang' and hit.moment in STAGES else SAVES
  assert lost <= allowed, f'step {reached} was reached, step {newest} is saved'
  if hit.to is not None:
    assert newest == hit.step, 'the save that was under way is completed'
  return lost


def seconds(link: Link, hit: Hit | None, ended: list[Ended]) -> float | None:
  """From the last fault to the end of the last worker that was not killed here; None if it goes on, and ends later."""
  if hit is None or not link.code:
    return None
  began = max(ended[hit.at].hits().values())
  return round(max(each.at for each in ended if not each.killed) - began, 2)


def check_words(link: Link, hit: Hit | None, ended: list[Ended]) -> None:
  if link.says:
    assert any(re.search(link.says, each.stderr, re.MULTILINE) for each in ended), link.says
  if not hit or hit.fault not in NOTICES or not link.code:
    return
  line = ended[hit.victim].line('stopped')
  assert line.startswith(f'stopped: {REASONS[hit.fault]}'), line
  if hit.is_early:
    assert line.endswith('; before the first step, nothing to save'), line
  elif hit.victim == 0:
    assert line.endswith(f'; step {ended[0].reached} is saved'), line
  else:
    assert line.endswith(f'; step {ended[0].reached} is for the chief to save'), line
    # A stop file is seen by all, sooner or later.
    heard = f'(another worker was told to stop|{REASONS[hit.fault]}.*)' if hit.fault == 'stop file' else 'another.*stop'
    assert re.fullmatch(f'stopped: {heard}; step {ended[0].reached} is saved', ended[0].line('stopped'))


def check_lost_peer(hit: Hit | None, ended: list[Ended]) -> None:
  """The others have noticed in time, and say so in one line."""
  if not hit or len(ended) == 1 or hit.fault in ('hang', 'SIGUSR1') or (hit.fault in NOTICES and not hit.is_early):
    return
  lost_at = max(ended[hit.at].hits().values())
  limit = (START_SECONDS if hit.moment == 'start' else HEARTBEAT_SECONDS) + LEAVE_SECONDS
  for index, each in enumerate(ended):
    if index == hit.victim or each.code != 75:
      continue
    line = each.line('stopped')
    if hit.fault == 'stop file' and line.startswith('stopped: the stop file'):
      continue  # it has seen the file too
    if hit.fault == 'second SIGINT' and line.startswith('stopped: another worker was told to stop'):
      continue  # it was about to leave
    assert re.search('a worker was lost near step|in vain for worker|could not start to talk', line), line
    assert each.at - lost_at < limit, f'worker {index} left {each.at - lost_at:.1f} s after the loss of its peer'


def check_stall(site: Site, hit: Hit, ended: Ended) -> None:
  """What has hung is told, with all stacks."""
  phase = {'start': 'build', 'save, before': 'save_block'}.get(hit.moment, hit.moment)
  what = f'a block of 1 steps after step {hit.step}' if phase == 'step' else f"phase '{phase}'"
  reports = (site.workdir / 'stalls').glob(f'*-worker{hit.at}*')
  newest = max(reports, key=lambda path: path.stat().st_mtime_ns).read_text()
  assert f'worker {hit.at} is stuck: {what} has taken' in newest
  assert f'stuck: {what} has taken' in ended.stderr
  for text in (newest, ended.stderr):
    assert re.search(r'program.py", line \d+ in _do', text), 'the stack of the thread that hangs'


def check_save_asked_for(hit: Hit, ended: Ended) -> None:
  """A step was saved soon after that would not have been saved otherwise."""
  at = ended.hits()[f'{hit.fault} at {hit.moment}']
  steps = [line['step'] for line in ended.trail if line['kind'] == 'stage' and line['at'] > at]
  done = next(line['step'] for line in ended.trail if line['kind'] == 'phase' and line['at'] >= at)
  assert any(step % SAVES and done <= step <= done + 2 * SAVES for step in steps), (done, steps)
