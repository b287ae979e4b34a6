"""The processes that the matrix is made of are as good as fresh ones, and hurt themselves as they are told."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from tests.faults import processes
from tests.faults.attempts import RUN, Link, Site
from tests.faults.checks import assert_same
from tests.faults.program import Hit


def server_pid() -> int:
  return multiprocessing.forkserver._forkserver._forkserver_pid


def test_what_is_forked_has_no_threads_to_lose(unbroken):
  unbroken('one device')  # the server has imported all, and forked
  names = os.listdir(f'/proc/{server_pid()}/task')
  assert len(names) == 1, 'a thread of the server would be missing in its forks, with the locks that it holds'


@pytest.mark.slow
def test_a_fork_computes_what_a_fresh_process_does(run_trainer, unbroken, tmp_path, data_dir):
  fresh = Site('one device', tmp_path, data_dir)
  run_trainer(*RUN, f'--config.data.data_dir={data_dir}', f'--workdir={fresh.workdir}', check=True)
  assert_same(unbroken('one device'), fresh)


@pytest.mark.parametrize('name', ['SIGKILL', 'exit'])
def test_the_end_of_a_fork_is_told_as_it_was(tmp_path, data_dir, name):
  (ended,) = Site('one device', tmp_path, data_dir).attempt(Link((Hit(name, 'start'),)))
  assert ended.code == (-signal.SIGKILL if name == 'SIGKILL' else 1)
  assert list(ended.hits()) == [f'{name} at start']
  assert ended.reached is None


def test_ports_are_kept():
  with processes.reserved_ports(2) as first, processes.reserved_ports(2) as second:
    assert len({*first, *second}) == 4
