"""Scaling on paper: what an all-reduce takes by the bytes that it sends, and what a step can hide of it."""

import json
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies

from tests.conftest import ROOT
from trainer.plan import scaling
from trainer.plan.scaling import LINK_SECONDS, NETWORK_SECONDS, Fabric, Step

FABRIC = Fabric(link=100e9, linked=8, network=10e9)


def test_a_ring_and_a_hierarchy_by_hand():
  assert scaling.all_reduce_seconds(8e9, 1, FABRIC) == 0
  # Seven eighths of the bytes go out, and come back, over the links of each of eight chips.
  inside = 2 * (7 / 8 * 8e9 / 100e9 + 7 * LINK_SECONDS)
  assert scaling.all_reduce_seconds(8e9, 8, FABRIC) == pytest.approx(inside)
  # Each of the four groups has an eighth per chip to reduce with the others.
  beyond = 2 * (3 / 4 * 1e9 / 10e9 + 3 * NETWORK_SECONDS)
  assert scaling.all_reduce_seconds(8e9, 32, FABRIC) == pytest.approx(inside + beyond)


def test_what_cannot_be_joined():
  with pytest.raises(ValueError, match='12 chips are no whole groups of 8'):
    scaling.all_reduce_seconds(1e9, 12, FABRIC)
  with pytest.raises(ValueError, match='16 chips are more than the 8 that links join'):
    scaling.all_reduce_seconds(1e9, 16, Fabric(100e9, 8, None))
  assert [step.chips for step in scaling.steps(1e12, 1e9, 1e14, Fabric(100e9, 8, None), 4096)] == [1, 2, 4, 8]


@hypothesis.given(
  strategies.floats(1e9, 1e15), strategies.floats(1e3, 1e11), strategies.floats(1e9, 1e12), strategies.floats(1e8, 1e11)
)
def test_more_chips_are_never_more_efficient(flops, size, link, network):
  found = scaling.steps(flops, size, 1e14, Fabric(link, 16, network), 4096)
  assert [step.chips for step in found] == [2**k for k in range(13)]
  for overlapped in (False, True):
    shares = [step.efficiency(overlapped=overlapped) for step in found]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and shares[-1] > 0
  assert all(step.compute <= step.overlapped <= step.apart for step in found)


def test_what_overlaps():
  assert Step(4, 3.0, 1.5).overlapped == 3.0  # the backward pass lasts 2 s
  assert Step(4, 3.0, 2.5).overlapped == pytest.approx(3.5)


def run(*arguments):
  return subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'scaling', *map(str, arguments)], capture_output=True, text=True, check=False
  )


def test_the_script(tmp_path):
  plan = {
    'target': {'name': 'h100:8'}, 'bytes_per_replica': {'gradients': 4e8}, 'flops_per_step_and_replica': 1e13,
    'examples_per_replica': 4,
  }  # fmt: skip
  (tmp_path / 'plan.json').write_text(json.dumps(plan))
  done = run(tmp_path / 'plan.json', '--most=64')
  assert done.returncode == 0 and done.stdout.count(' ms ') >= 7 and '100.0%' in done.stdout, done.stderr
  assert run(tmp_path / 'plan.json', '--chip=h1000').stderr.startswith("scaling: --chip='h1000' is not known")
  one, many = (
    {
      'batch': {'per_replica': 8}, 'topology': {'replicas': replicas}, 'valid': True, 'why_not_valid': [],
      'input': {'repeated': {'step_seconds': {'median': seconds}}}, 'collective': {'seconds': 0.1},
    }
    for replicas, seconds in ((1, 1.0), (2, 1.25))
  )  # fmt: skip
  for name, content in (('one', one), ('many', many)):
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
  done = run('--measured', tmp_path / 'one.json', tmp_path / 'many.json')
  assert '2 replicas, on paper 1100.000 ms (90.9%), measured 1250.000 ms (80.0%)' in done.stdout, done.stderr
  assert run('--measured', tmp_path / 'many.json', tmp_path / 'one.json').returncode != 0
