"""Compilers for hardware that is not there: jax's compile-only clients, with libtpu for TPUs, its plugin for GPUs.

All private parts of jax and jaxlib that a plan needs are here. They are those of jax 0.10.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import signal
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.plan.chips import Target

_JAX = '0.10.'
# What libtpu would ask the metadata server of a TPU host; and that it need not be the only one there, since a compiler
# alone takes no chips.
_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a program, per chip.

  Attributes:
    argument_bytes: what it is given, weights and state included, and writes its results over.
    output_bytes: of the results that do not lie over an argument.
    temporary_bytes: what it needs beside, at most.
    code_bytes: of itself, constants included.
    flops: operations by its cost analysis; the body of a loop counts once. None where there is no such analysis.
    accessed_bytes: from and to memory, by the same.
    text: the optimised program.
  """

  argument_bytes: int
  output_bytes: int
  temporary_bytes: int
  code_bytes: int
  flops: float | None
  accessed_bytes: float | None
  text: str

  @property
  def total_bytes(self) -> int:
    return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


class DoesNotFit(Exception):
  """The compiler gave up: the program needs more memory than the chip has. The message is its first line."""

  @property
  def short_bytes(self) -> int | None:
    """By how much, to the two decimals that the compiler for TPUs says; None where it does not say."""
    said = re.search(r'Exceeded \w+ capacity by ([\d.]+)([KMG])', str(self))
    return round(float(said[1]) * 1024 ** ('KMG'.index(said[2]) + 1)) if said else None


def check(target: Target) -> None:
  """Whether its compiler is there.

  Raises:
    ConfigError: it is not, or in another version.
  """
  version, device = importlib.metadata.version('jax'), target.chip.device
  if not version.startswith(_JAX):
    raise ConfigError(
      f"--target needs jax {_JAX}x, and {version} is installed: pip install 'tf-trainer[plan-{device}]'"
    )
  if importlib.util.find_spec({'tpu': 'libtpu', 'gpu': 'jax_cuda13_plugin'}[device]) is None:
    raise ConfigError(f"--target needs the compiler for {device.upper()}s: pip install 'tf-trainer[plan-{device}]'")


def compiled(serialized: bytes, target: Target) -> Compiled:
  """Compiles a step for a slice.

  Args:
    serialized: HloModuleProto of one replica, of as many as the target has chips.
    target: the slice.

  Raises:
    ConfigError: the compiler does not know the slice or something in the step, or is kept for another process.
    DoesNotFit: see there.
  """
  from jax._src.interpreters import mlir as jax_mlir
  from jax._src.lib import xla_client
  from jax._src.lib.mlir import ir
  from jaxlib import _jax

  devices = _devices(target)[: target.chips]
  module_text = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(serialized))
  options = xla_client.CompileOptions()
  options.num_replicas, options.num_partitions = target.chips, 1
  options.executable_build_options.num_replicas = target.chips
  options.executable_build_options.num_partitions = 1
  options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id] for device in devices]))
  with jax_mlir.make_ir_context():
    module = ir.Module.parse(module_text)
    _adapt(module.operation, target.chip.device)
    try:
      executable = devices[0].client.compile(module, _jax.DeviceList(tuple(devices)), options)
    except Exception as error:  # the class of jaxlib's error is not part of what it promises
      if 'RESOURCE_EXHAUSTED' in str(error):
        raise DoesNotFit(str(error).splitlines()[0]) from error
      if 'UNIMPLEMENTED' in str(error):
        raise ConfigError(f'--target={target.name!r}: its compiler refuses the step: {str(error)[:200]}') from error
      raise
  memory = executable.get_compiled_memory_stats()
  cost = executable.cost_analysis() if target.chip.device == 'tpu' else {}
  cost = cost[0] if isinstance(cost, list) else cost
  return Compiled(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    flops=cost.get('flops'),
    accessed_bytes=cost.get('bytes accessed'),
    text=executable.hlo_modules()[0].to_string(),
  )


def _devices(target: Target) -> list[Any]:
  from jax.experimental import topologies

  check(target)
  if target.chip.device == 'gpu':
    return list(
      topologies.get_topology_desc(
        platform='cuda',
        topology_name=target.topology,
        topology=target.topology,
        target_config=target.chip.description,
      ).devices
    )
  before = {name: os.environ.get(name) for name in _ENVIRONMENT}
  hangup = signal.getsignal(signal.SIGHUP)
  os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
  try:
    topology = topologies.get_topology_desc(
      platform='tpu', topology_name=f'{target.kind}:{target.topology}', chip_config_name=target.chip.setting
    )
  except Exception as error:  # as above
    words = ' '.join(str(error).split())
    if 'lockfile' in words or 'already in use' in words:
      raise ConfigError(
        f'--target={target.name!r}: another process has libtpu for itself; wait until it ends, or unset '
        f'ALLOW_MULTIPLE_LIBTPU_LOAD: {words[:200]}'
      ) from error
    raise ConfigError(f'--target={target.name!r} is no slice that the compiler knows: {words[:200]}') from error
  finally:
    # Nothing of this may reach the processes that this one starts. libtpu ignores SIGHUP, which they would inherit.
    signal.signal(signal.SIGHUP, hangup)
    for name, value in before.items():
      if value is None:
        del os.environ[name]
  return list(topology.devices)


def _adapt(operation: Any, device: str) -> None:
  """Replaces mhlo.copy, which jax's compiler does not take, by what is copied; a TPU takes its own random numbers."""
  for region in operation.regions:
    for block in region.blocks:
      for inner in list(block.operations):
        _adapt(inner.operation, device)
        name = inner.operation.name
        if name == 'mhlo.copy':
          inner.operation.result.replace_all_uses_with(inner.operation.operands[0])
          inner.operation.erase()
        elif name == 'stablehlo.rng_bit_generator' and device == 'tpu':
          from jax._src.lib.mlir import ir

          inner.operation.attributes['rng_algorithm'] = ir.Attribute.parse('#stablehlo<rng_algorithm DEFAULT>')
