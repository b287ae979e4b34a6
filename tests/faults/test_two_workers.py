"""The matrix of faults on two workers."""

from __future__ import annotations

import pytest

from tests.faults import matrix
from tests.faults.attempts import Site
from tests.faults.chains import run_chain
from trainer.train.guard import BAD_STEPS

pytestmark = pytest.mark.slow

TOPOLOGY = 'two workers'
SIGNALS, DISK, NONFINITE = matrix.signals(2), matrix.disk(), matrix.nonfinite(1)


@pytest.mark.parametrize('fault', matrix.some(SIGNALS, 'SIGKILL', 'SIGUSR1'))
def test_signals(tmp_path, data_dir, unbroken, fault):
  run_chain(Site(TOPOLOGY, tmp_path, data_dir), SIGNALS[fault], unbroken(TOPOLOGY))


@pytest.mark.thorough
def test_a_damaged_checkpoint(tmp_path, data_dir, unbroken):
  run_chain(Site(TOPOLOGY, tmp_path, data_dir), matrix.DAMAGE, unbroken(TOPOLOGY))


@pytest.mark.parametrize('chain', matrix.some(DISK, 'for a while'))
def test_a_full_disk(tmp_path, data_dir, small_disk, unbroken, chain):
  run_chain(Site(TOPOLOGY, tmp_path, data_dir, workdir=small_disk / 'run'), DISK[chain], unbroken(TOPOLOGY))


@pytest.mark.parametrize('policy', matrix.some(NONFINITE))
def test_a_step_that_is_not_finite(tmp_path, data_dir, unbroken, policy):
  site, links = Site(TOPOLOGY, tmp_path, data_dir), NONFINITE[policy]
  whole = unbroken(TOPOLOGY, link=links[-1])
  run_chain(site, links, whole)
  if policy != 'raise':
    assert (site.workdir / BAD_STEPS).read_bytes() == (whole.workdir / BAD_STEPS).read_bytes()


@pytest.mark.thorough
def test_streamed_data(tmp_path, data_dir, data_copy, unbroken):
  directory, file = data_copy
  site = Site(TOPOLOGY, tmp_path, directory, *matrix.STREAMED, data_file=file)
  run_chain(site, matrix.data(), unbroken(TOPOLOGY, *matrix.STREAMED))


def test_hangs(tmp_path, data_dir, unbroken):
  run_chain(Site(TOPOLOGY, tmp_path, data_dir), matrix.hangs(2), unbroken(TOPOLOGY))
