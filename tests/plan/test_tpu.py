"""The compiler for TPUs takes the step, for one chip and for a slice; the numbers are those of its parts."""

import pytest

from tests.plan.test_making import config
from trainer.errors import ConfigError
from trainer.plan import making, tpu

pytest.importorskip('libtpu', reason='the compiler for TPUs is not installed')


@pytest.fixture(scope='module')
def one():
  return making.make(config(), 'v5e:1')


def test_one_chip(one):
  target, held = one['target'], one['bytes_per_replica']
  assert one['precision'] == 'mixed_bfloat16' and target['fits'] and not target['collectives']
  state = held['weights'] + held['optimizer'] + held['batch']
  # Arrays are padded to the tiles of the chip.
  assert state <= target['argument_bytes'] < 4 * state + 65_536
  assert target['temporary_bytes'] > 0 and target['accessed_bytes_loops_once'] > 0
  assert one['estimate']['step_seconds'] > 0


def test_a_slice_has_one_all_reduce_of_all_gradients(one):
  plan = making.make(config(), 'v5e:2x2')
  assert plan['replicas'] == 4
  (kind,) = plan['target']['collectives']
  found = plan['target']['collectives'][kind]
  gradients = plan['bytes_per_replica']['gradients']
  assert kind == 'all-reduce' and found['count'] == 1 and gradients < found['bytes'] < gradients + 1024


def test_a_slice_that_the_compiler_does_not_know():
  with pytest.raises(ConfigError, match=r"--target='v5e:3x4' is no slice that the compiler knows"):
    making.make(config(), 'v5e:3x4')


def test_a_step_that_does_not_fit(monkeypatch):
  def refuse(*_):
    raise tpu.DoesNotFit('RESOURCE_EXHAUSTED: Ran out of memory')

  monkeypatch.setattr(tpu, 'compiled', refuse)
  plan = making.make(config(), 'v5e:1')
  assert not plan['target']['fits']
  assert any('does not fit' in warning and 'train.micro_batches=2' in warning for warning in plan['warnings'])
