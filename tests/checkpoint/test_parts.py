"""A step that several processes write together: whole again when it is read, and never half there."""

import errno
import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoint.conftest import assert_equal, make_state
from trainer.checkpoint import CheckpointError, Checkpoints, DamagedCheckpoint, checkpoints, manifest, orbax_io, parts

MEMBERS = 3


@pytest.fixture
def team(folder, monkeypatch):
  """Three processes' views of one folder; a thread each, and Orbax bears but one save at a time in a process."""
  lock, write, read = threading.Lock(), orbax_io.write, orbax_io.read

  def write_alone(path, arrays):
    with lock:
      write(path, arrays)

  def read_alone(path, names=None):
    with lock:
      return read(path, names)

  monkeypatch.setattr(orbax_io, 'write', write_alone)
  monkeypatch.setattr(orbax_io, 'read', read_alone)
  settings = {'keep': 10, 'keep_best': 0, 'best_mode': 'max', 'members': MEMBERS}
  team = [Checkpoints(str(folder), writer=member == 0, member=member, **settings) for member in range(MEMBERS)]
  yield team
  for each in team:
    each.close()


def sizes_of(state):
  return {name: array.nbytes for name, array in state.items()}


def save(team, step, state, skip=()):
  """Begins a save as the processes of a run do; those in `skip` never come to it."""
  token = team[0].begin(step, sizes_of(state))
  for member, each in enumerate(team):
    if member not in skip:
      share = each.share(sizes_of(state))
      each.save(step, {name: array for name, array in state.items() if name in share}, {'step': step}, token=token)


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**9), max_size=30), st.integers(1, 6))
def test_shares_are_everything_once_and_about_equal(sizes, members):
  shares = parts.share(sizes, members)
  assert sorted(name for share in shares for name in share) == sorted(sizes)
  loads = [sum(sizes[name] for name in share) for share in shares]
  assert max(loads) - min(loads) <= max(sizes.values(), default=0)
  assert parts.share(dict(reversed(sizes.items())), members) == shares, 'each process must come to the same answer'


def test_what_several_wrote_is_read_as_one(team, folder):
  for step in (10, 20):
    save(team, step, make_state(step))
  for each in team:
    each.wait()
  reader = Checkpoints(str(folder), keep=1, keep_best=0, best_mode='max', writer=False)
  assert reader.steps() == [10, 20]
  for step in (10, 20):
    found = reader.restore(step)
    assert_equal(found.arrays, make_state(step))
    assert found.host == {'step': step}
  assert sorted(path.name for path in (folder / '20').iterdir()) == ['complete.json', 'part-0', 'part-1', 'part-2']
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


def test_a_flipped_bit_in_another_ones_part_is_found(team, folder):
  save(team, 10, make_state(10))
  for each in team:
    each.wait()
  largest = max((folder / '10' / 'part-2').rglob('*'), key=lambda path: path.is_file() and path.stat().st_size)
  contents = bytearray(largest.read_bytes())
  contents[len(contents) // 2] ^= 1
  largest.write_bytes(contents)
  with pytest.raises(DamagedCheckpoint, match=r'file part-2/.* has other contents'):
    team[1].restore(10)


def test_a_part_that_cannot_be_written_fails_the_step_with_its_reason(team, folder, monkeypatch):
  save(team, 10, make_state(10))
  write = orbax_io.write

  def full(path, arrays):
    if path.endswith('part-1'):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, arrays)

  with monkeypatch.context() as patch:
    patch.setattr(orbax_io, 'write', full)
    save(team, 20, make_state(20))
    for each in team:
      each._join()
  with pytest.raises(CheckpointError, match=r'worker 1 could not write its part: the disk is full \(No space left'):
    team[0].wait()
  assert team[0].steps() == [10]
  save(team, 20, make_state(20))
  team[0].wait()
  assert_equal(team[0].restore(20).arrays, make_state(20))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20'], 'what others still wrote is removed too'


def test_a_part_that_never_comes_fails_the_step_as_soon_as_that_is_known(team, folder, monkeypatch):
  monkeypatch.setattr(parts, '_GIVEN_UP_SECONDS', 0.1)
  save(team, 10, make_state(10), skip=[2])
  team[1].wait()
  assert team[0].saving_for() is not None
  team[0].give_up()
  with pytest.raises(CheckpointError, match='worker 2 did not write its part in time'):
    team[0].wait()
  assert not list(folder.iterdir())


def test_patience_has_an_end(team, monkeypatch):
  monkeypatch.setattr(parts, '_PATIENCE_SECONDS', 0.1)
  monkeypatch.setattr(parts, '_PATIENCE', 0.0)
  save(team, 10, make_state(10), skip=[1])
  team[2].wait()
  with pytest.raises(CheckpointError, match='worker 1 did not write its part in time'):
    team[0].wait()


def test_parts_of_different_states_are_not_joined(team, folder):
  state = make_state(10)
  token = team[0].begin(10, sizes_of(state))
  for each in team:
    each.save(10, state, {}, token=token)  # all of it, each
  with pytest.raises(CheckpointError, match='not those of one state'):
    team[0].wait()
  assert team[0].steps() == []


def test_nothing_is_begun_on_a_disk_that_is_full(team, monkeypatch):
  monkeypatch.setattr(checkpoints.disk, 'free_bytes', lambda path: 1000)
  assert team[0].begin(10, {'a': 10**6}) == 0
  assert 'needed' in str(team[0].failure())


def test_a_step_written_before_there_were_parts_is_read(open_writer, folder):
  writer = open_writer()
  writer.save(1, {'a': np.arange(5)}, {})
  writer.wait()
  marker = folder / '1' / 'complete.json'
  body = json.loads(marker.read_bytes())['manifest']
  del body['parts']
  body['format'] = 1
  marker.write_bytes(json.dumps({'xxh3_128': manifest._hash_json(body), 'manifest': body}, indent=1).encode())
  np.testing.assert_array_equal(writer.restore(1).arrays['a'], np.arange(5))
