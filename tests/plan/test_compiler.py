"""The compilers take the step, for one chip and for several; the numbers are those of its parts."""

import importlib.util
import os

import pytest

from tests.plan.test_making import config
from trainer.errors import ConfigError
from trainer.plan import chips, compiler, making, search

needs_tpu = pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='the compiler for TPUs is not installed')
needs_gpu = pytest.mark.skipif(
  not importlib.util.find_spec('jax_cuda13_plugin'), reason='the compiler for GPUs is not installed'
)


@pytest.fixture(scope='module')
def one():
  return making.make(config(), 'v5e:1')


@needs_tpu
def test_one_chip(one):
  target, held = one['target'], one['bytes_per_replica']
  assert one['precision'] == 'mixed_bfloat16' and target['fits'] and not target['collectives']
  state = held['weights'] + held['optimizer'] + held['batch']
  # Arrays are padded to the tiles of the chip.
  assert state <= target['argument_bytes'] < 4 * state + 65_536
  assert target['temporary_bytes'] > 0 and target['accessed_bytes_loops_once'] > 0
  assert one['estimate']['step_seconds'] > 0 and one['estimate']['collective_seconds'] == 0


@needs_tpu
def test_a_slice_has_one_all_reduce_of_all_gradients(one):
  plan = making.make(config(), 'v5e:2x2')
  assert plan['replicas'] == 4
  (kind,) = plan['target']['collectives']
  found = plan['target']['collectives'][kind]
  gradients = plan['bytes_per_replica']['gradients']
  assert kind == 'all-reduce' and found['count'] == 1 and gradients < found['bytes'] < gradients + 1024
  assert plan['estimate']['collective_seconds'] > 2 * 3 / 4 * gradients / 200e9


@needs_tpu
@pytest.mark.parametrize(
  ('target', 'replicas'), [('v2:2x2', 8), ('v3:2x2', 8), ('v3:1', 1), ('v4:2x2x1', 4), ('v5p:2x2x2', 8), ('v6e:2x2', 4)]
)
def test_every_kind_of_chip_has_the_replicas_that_tensorflow_would_have(target, replicas):
  devices = compiler._devices(chips.target(target))
  assert len(devices) >= replicas == chips.target(target).chips
  # With two cores as one device there is one for each chip.
  places = {tuple(device.coords) for device in devices}
  assert len(devices) == len(places) * chips.target(target).chip.cores


@needs_tpu
@pytest.mark.parametrize('target', ['v3:2x2', 'v4:2x2x1', 'v5p:2x2x1', 'v6e:1'])
def test_other_chips(target):
  plan = making.make(search.with_batch(config(), 24), target)
  replicas = chips.target(target).chips
  assert plan['target']['fits'] and plan['replicas'] == replicas
  assert [found['count'] for found in plan['target']['collectives'].values()] == ([1] if replicas > 1 else [])


@needs_tpu
def test_a_slice_that_the_compiler_does_not_know():
  with pytest.raises(ConfigError, match=r"--target='v5e:3x4' is no slice that the compiler knows"):
    making.make(config(), 'v5e:3x4')


def test_a_compiler_that_another_process_has_for_itself(monkeypatch):
  from jax.experimental import topologies

  asked = []

  def refuse(**_):
    asked.append(os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'])
    raise RuntimeError('ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm ..."')

  monkeypatch.setattr(compiler, 'check', lambda target: None)
  monkeypatch.setattr(topologies, 'get_topology_desc', refuse)
  for value in ('0', '1'):
    monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', value)
    with pytest.raises(ConfigError, match=r"--target='v5e:2x2': another process has libtpu for itself; wait until"):
      compiler._devices(chips.target('v5e:2x2'))
  monkeypatch.delenv('ALLOW_MULTIPLE_LIBTPU_LOAD')
  with pytest.raises(ConfigError, match='for itself'):
    compiler._devices(chips.target('v5e:2x2'))
  assert asked == ['0', '1', '1'] and 'ALLOW_MULTIPLE_LIBTPU_LOAD' not in os.environ


@needs_tpu
@pytest.mark.parametrize(
  ('said', 'verdict'),
  [
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 30.81G of '
      '15.75G hbm. Exceeded hbm capacity by 15.06G.',
      'does not fit, short by 15.06 GiB. What',
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Exceeded hbm capacity by 512.00M.',
      'short by 0.50 GiB.',
    ),
    ('RESOURCE_EXHAUSTED: Ran out of memory', 'does not fit. What'),
  ],
)
def test_a_step_that_does_not_fit(monkeypatch, said, verdict):
  def refuse(*_):
    raise compiler.DoesNotFit(said)

  monkeypatch.setattr(compiler, 'compiled', refuse)
  plan = making.make(config(), 'v5e:1')
  assert not plan['target']['fits']
  assert any(verdict in warning and 'train.micro_batches=2' in warning for warning in plan['warnings'])


@needs_gpu
def test_gpus():
  plan = making.make(config(), 'h100:4')
  target, held = plan['target'], plan['bytes_per_replica']
  assert plan['precision'] == 'mixed_bfloat16' and plan['replicas'] == 4 and target['fits']
  assert target['argument_bytes'] >= held['weights'] + held['optimizer'] + held['batch']
  assert target['bound'] is None and target['accessed_bytes_loops_once'] is None
  (kind,) = target['collectives']
  found = target['collectives'][kind]
  assert kind == 'all-reduce' and found['count'] == 1
  assert held['gradients'] < found['bytes'] < held['gradients'] + 1024
