"""The server that attempts are forked from, one unbroken run per topology and config, and a disk that can be filled."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from tests.faults.attempts import Link, Site


@pytest.fixture(scope='session', autouse=True)
def forked(fork_server):
  pass


@pytest.fixture(scope='session')
def unbroken(tmp_path_factory, data_dir):
  """A function from a topology (and what makes its one attempt) to the Site of a run that nothing has disturbed."""
  made = {}

  def make(topology: str, *args: str, link: Link = Link()) -> Site:  # noqa: B008  (it is frozen)
    if (topology, args, link) not in made:
      site = Site(topology, tmp_path_factory.mktemp('unbroken'), data_dir, *args)
      ended = site.attempt(link)
      assert [each.code for each in ended] == [0] * site.workers, [each.stderr for each in ended]
      made[topology, args, link] = site
    return made[topology, args, link]

  return make


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own of 24 MB."""
  mount = tmp_path / 'disk'
  mount.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(mount)], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'this machine does not let us mount a tmpfs: {done.stderr.strip()}')
  yield mount
  subprocess.run(['umount', str(mount)], check=True)


@pytest.fixture
def data_copy(unbroken, data_dir, tmp_path) -> tuple[str, str]:
  """(a data directory that can be damaged, the file of it that holds the training split, beside it with .good)."""
  unbroken('one device')  # has prepared the data
  copy = tmp_path / 'tfds'
  shutil.copytree(pathlib.Path(data_dir) / 'uci_digits', copy / 'uci_digits')
  (file,) = copy.glob('uci_digits/*/*train*tfrecord*')
  shutil.copyfile(file, f'{file}.good')
  return str(copy), str(file)
