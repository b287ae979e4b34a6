"""The accelerators that a plan can be made for, by what their makers say of them."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

from trainer.errors import ConfigError
from trainer.fields import nearest


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind, as TensorFlow sees it: what it has as one device. Of v2 and v3 that is one of the two cores of a chip.

  Attributes:
    memory_bytes: of high-bandwidth memory.
    peak_flops: dense bfloat16 operations per second.
    bandwidth: bytes per second from that memory.
    topology: of a TPU the smallest slice that the compiler knows; of a GPU ''.
    link: bytes per second that it can send to its neighbours, over all its links together.
    linked: chips that such links join at most.
    network: bytes per second and chip beyond those; None where its maker does not say.
    description: of a GPU what its compiler wants to know, in the form of XLA's GpuTargetConfigProto.
    setting: of a TPU what its compiler calls the cores of a chip that are one device, or not ('megacore', 'default').
    cores: devices in each chip that a slice's shape counts.
  """

  memory_bytes: int
  peak_flops: float
  bandwidth: float
  topology: str
  link: float
  linked: int
  network: float | None
  description: str = ''
  setting: str = 'default'
  cores: int = 1

  @property
  def device(self) -> str:
    """'tpu' or 'gpu'."""
    return 'gpu' if self.description else 'tpu'


def _gpu(
  memory_bytes: int,
  peak_flops: float,
  bandwidth: float,
  link: float,
  network: float | None,
  *,
  capability: tuple[int, int],
  cores: int,
  lanes: int,
  shared_kib: int,
  cache_mib: int,
  gigahertz: float,
) -> Chip:
  """A GPU of NVIDIA's.

  Args:
    memory_bytes: as Chip has it, like the next two.
    peak_flops: dense bfloat16 operations per second.
    bandwidth: bytes per second.
    link: bytes per second.
    network: bytes per second.
    capability: compute capability.
    cores: streaming multiprocessors.
    lanes: float32 units of each.
    shared_kib: shared memory of each; a block of threads may ask for one less.
    cache_mib: level 2.
    gigahertz: at most.
  """
  threads = 1536 if capability == (8, 9) else 2048
  description = f"""
    gpu_device_info {{
      cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
      core_count: {cores} fpus_per_core: {lanes} clock_rate_ghz: {gigahertz}
      device_memory_size: {memory_bytes} memory_bandwidth: {int(bandwidth)} l2_cache_size: {cache_mib * 2**20}
      shared_memory_per_core: {shared_kib * 1024} shared_memory_per_block_optin: {(shared_kib - 1) * 1024}
      shared_memory_per_block: 49152 registers_per_core_limit: 65536 registers_per_block_limit: 65536
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: {threads}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 8 }}
    runtime_version {{ major: 13 }}
    device_description_str: "compute capability {capability[0]}.{capability[1]}"
  """
  return Chip(memory_bytes, peak_flops, bandwidth, '', link, 8, network, description)


# Dense operations per second with float32 sums: NVIDIA's data sheets (SXM where there is that, without sparsity).
# `float32` is that of TF32, which TensorFlow uses for products of float32 where there is such a thing. Part of the name
# that a driver gives the device -> per dtype.
GPU_PEAKS: dict[str, dict[str, float]] = {
  'H100 PCIe': {'bfloat16': 756e12, 'float16': 756e12, 'float32': 378e12},
  'H100': {'bfloat16': 989e12, 'float16': 989e12, 'float32': 494e12},
  'H200': {'bfloat16': 989e12, 'float16': 989e12, 'float32': 494e12},
  'A100': {'bfloat16': 312e12, 'float16': 312e12, 'float32': 156e12},
  'A10G': {'bfloat16': 70e12, 'float16': 70e12, 'float32': 35e12},
  'L4': {'bfloat16': 121e12, 'float16': 121e12, 'float32': 60e12},
  'V100': {'float16': 125e12, 'float32': 15.7e12},
  'T4': {'float16': 65e12, 'float32': 8.1e12},
}

# cloud.google.com/tpu/docs/v2 to v6e, 'System architecture', as of 2025: of the bandwidth between chips, which is given
# for both directions, one; of the network that of a pod, over its chips. Links of v2 and v3: Jouppi et al., A
# Domain-Specific Supercomputer for Training Deep Neural Networks, 2020, table 3.
TPUS: dict[str, Chip] = {
  'v2': Chip(8 * 2**30, 23e12, 350e9, '2x2', 124e9, 1024, None, cores=2),
  'v3': Chip(16 * 2**30, 61.5e12, 450e9, '2x2', 164e9, 2048, None, cores=2),
  'v4': Chip(32 * 2**30, 275e12, 1228e9, '2x2x1', 300e9, 4096, None, setting='megacore'),
  'v5e': Chip(16 * 2**30, 197e12, 819e9, '2x2', 200e9, 256, 6.4e12 / 8 / 256),
  'v5p': Chip(95 * 2**30, 459e12, 2765e9, '2x2x1', 600e9, 6144, 50e9 / 8, setting='megacore'),
  'v6e': Chip(32 * 2**30, 918e12, 1640e9, '2x2', 400e9, 256, 25.6e12 / 8 / 256),
}

# The chip of H100 and H200, which differ in their memory.
_hopper = functools.partial(_gpu, capability=(9, 0), cores=132, lanes=128, shared_kib=228, cache_mib=50, gigahertz=1.98)

# NVIDIA's data sheets (SXM where there is that; of NVLink or PCIe one direction), the network of its DGX A100 and H100,
# and the table of compute capabilities in the CUDA C++ Programming Guide.
GPUS: dict[str, Chip] = {
  'a100': _gpu(
    80 * 10**9,
    GPU_PEAKS['A100']['bfloat16'],
    2039e9,
    300e9,
    25e9,
    capability=(8, 0),
    cores=108,
    lanes=64,
    shared_kib=164,
    cache_mib=40,
    gigahertz=1.41,
  ),
  'h100': _hopper(80 * 10**9, GPU_PEAKS['H100']['bfloat16'], 3350e9, 450e9, 50e9),
  'h200': _hopper(141 * 10**9, GPU_PEAKS['H200']['bfloat16'], 4800e9, 450e9, 50e9),
  'l4': _gpu(
    24 * 10**9,
    GPU_PEAKS['L4']['bfloat16'],
    300e9,
    32e9,
    None,
    capability=(8, 9),
    cores=58,
    lanes=128,
    shared_kib=100,
    cache_mib=48,
    gigahertz=2.04,
  ),
}
CHIPS = {**TPUS, **GPUS}


@dataclasses.dataclass(frozen=True)
class Target:
  """So many chips of a kind, as they are wired.

  Attributes:
    name: as it was asked for.
    kind: a key of CHIPS.
    chip: what one can do.
    topology: as the compiler names the slice, e.g. '4x4'; for one TPU that of the smallest slice, of which it is one.
      GPUs are all in one machine.
    chips: how many take part, as TensorFlow counts them: replicas.
  """

  name: str
  kind: str
  chip: Chip
  topology: str
  chips: int


def target(name: str) -> Target:
  """The chips that `--target` names: 'v5e:4x4', 'v4:2x2x1', 'v5e:1' for one; 'h100:8' for eight GPUs of a machine.

  Raises:
    ConfigError: there is no such kind or slice.
  """
  kind, _, shape = name.partition(':')
  if kind not in CHIPS:
    raise ConfigError(
      f'--target={name!r} is no chip that a plan can be made for{nearest(kind, CHIPS)} '
      f'Known: {", ".join(sorted(CHIPS))}'
    )
  chip = CHIPS[kind]
  if chip.device == 'gpu':
    if not re.fullmatch(r'[1-9]\d{0,2}', shape):
      raise ConfigError(f"--target={name!r} must be a GPU and how many of them, e.g. '{kind}:8'")
    return Target(name, kind, chip, f'1x1x{shape}', int(shape))
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){0,2}', shape):
    raise ConfigError(f"--target={name!r} must be a kind and a slice, e.g. '{kind}:{chip.topology}', or '{kind}:1'")
  chips = math.prod(map(int, shape.split('x')))
  if chips == 1:
    return Target(name, kind, chip, chip.topology, 1)
  if shape.count('x') != chip.topology.count('x'):
    raise ConfigError(f"--target={name!r}: a slice of {kind} is written like '{kind}:{chip.topology}'")
  return Target(name, kind, chip, shape, chips * chip.cores)
