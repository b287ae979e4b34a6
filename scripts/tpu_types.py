"""The types of Cloud TPUs: what is called how, how many hosts and chips it has, and which image its machines boot.

From Google's pages (cloud.google.com/tpu/docs): v2, v3, v4 and v5p are named by TensorCores, two to a chip; v5e
(`v5litepod`) and v6e by chips. Up to eight chips of v5e and v6e are one host; a larger slice has four on each.
"""

from __future__ import annotations

import dataclasses
import re

# Chips -> their shape, for the families whose slices lie in a plane.
_PLANES = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
_EXAMPLES = 'v5litepod-8, v5litepod-256, v6e-8, v5p-8, v4-8 or v3-8'


@dataclasses.dataclass(frozen=True)
class Family:
  """What the types of one generation have in common.

  Attributes:
    image: the runtime version that boots it, with no framework in it (tpu/docs/runtimes).
    cores_named: whether types count TensorCores, not chips.
    devices_per_chip: how many TPU devices TensorFlow sees in a chip.
    sizes: the numbers that there are; empty: all multiples of 8 up to `largest`.
    largest: the largest number.
    gke: value of the label cloud.google.com/gke-tpu-accelerator for slices of several hosts; '' where there is none.
    gke_single: the same for one host.
  """

  image: str
  cores_named: bool
  devices_per_chip: int
  sizes: tuple[int, ...]
  largest: int
  gke: str = ''
  gke_single: str = ''


_FAMILIES = {
  'v2': Family('tpu-ubuntu2204-base', True, 2, (8, 32, 128, 256, 512), 512),
  'v3': Family('tpu-ubuntu2204-base', True, 2, (8, 32, 64, 128, 256, 512, 1024, 2048), 2048),
  'v4': Family('tpu-ubuntu2204-base', True, 1, (), 8192, 'tpu-v4-podslice', 'tpu-v4-podslice'),
  'v5p': Family('v2-alpha-tpuv5', True, 1, (), 12288, 'tpu-v5p-slice', 'tpu-v5p-slice'),
  'v5litepod': Family(
    'v2-alpha-tpuv5-lite', False, 1, tuple(_PLANES), 256, 'tpu-v5-lite-podslice', 'tpu-v5-lite-podslice'
  ),
  'v6e': Family('v2-alpha-tpuv6e', False, 1, tuple(_PLANES), 256, 'tpu-v6e-slice', 'tpu-v6e-slice'),
}


@dataclasses.dataclass(frozen=True)
class TpuType:
  """One accelerator type.

  Attributes:
    name: as in 'v5litepod-8'.
    family: its generation, as in 'v5litepod'.
    chips: of all hosts.
    hosts: machines.
    devices: TPU devices that TensorFlow sees, on all hosts.
    image: the runtime version.
    topology: shape as in '16x16'; '' where the number does not fix it.
    gke: its label on Google's Kubernetes; '' where there is none.
  """

  name: str
  family: str
  chips: int
  hosts: int
  devices: int
  image: str
  topology: str
  gke: str

  @property
  def chips_per_host(self) -> int:
    return self.chips // self.hosts


def parse(name: str) -> TpuType:
  """The type of this name.

  Raises:
    ValueError: there is none, in one line.
  """
  match = re.fullmatch(r'([a-z0-9]+)-([1-9][0-9]*)', name)
  family = _FAMILIES.get(match[1]) if match else None
  if not match or family is None:
    raise ValueError(f'--type={name} is no type of TPU that is known here: name one such as {_EXAMPLES}')
  number = int(match[2])
  sizes = family.sizes or tuple(range(8, family.largest + 1, 8))
  if number not in sizes:
    said = f'one of {", ".join(map(str, sizes))}' if family.sizes else f'a multiple of 8, at most {family.largest}'
    raise ValueError(f'--type={name} does not exist: after {match[1]}- stands {said}')
  chips = number // 2 if family.cores_named else number
  hosts = 1 if (chips <= 8 and not family.cores_named) else chips // 4
  topology = '' if family.cores_named else _PLANES[number]
  gke = family.gke if hosts > 1 else family.gke_single
  return TpuType(name, match[1], chips, hosts, chips * family.devices_per_chip, family.image, topology, gke)
