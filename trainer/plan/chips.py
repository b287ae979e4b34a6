"""The accelerators that a plan can be made for, by what their makers say of them."""

from __future__ import annotations

import dataclasses
import math
import re

from trainer.errors import ConfigError
from trainer.fields import nearest


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind.

  Attributes:
    memory_bytes: of high-bandwidth memory.
    peak_flops: dense bfloat16 operations per second.
    bandwidth: bytes per second from that memory.
    topology: the smallest slice that the compiler knows.
  """

  memory_bytes: int
  peak_flops: float
  bandwidth: float
  topology: str


# cloud.google.com/tpu/docs/v4, v5e and v6e, 'System architecture', as of 2025.
TPUS: dict[str, Chip] = {
  'v4': Chip(32 * 2**30, 275e12, 1228e9, '2x2x1'),
  'v5e': Chip(16 * 2**30, 197e12, 819e9, '2x2'),
  'v6e': Chip(32 * 2**30, 918e12, 1640e9, '2x2'),
}


@dataclasses.dataclass(frozen=True)
class Target:
  """So many chips of a kind, as they are wired.

  Attributes:
    name: as it was asked for.
    kind: a key of TPUS.
    chip: what one can do.
    topology: as the compiler names the slice, e.g. '4x4'; for one chip that of the smallest slice, of which it is one.
    chips: how many take part.
  """

  name: str
  kind: str
  chip: Chip
  topology: str
  chips: int


def target(name: str) -> Target:
  """The chips that `--target` names: 'v5e:4x4', 'v4:2x2x1', or 'v5e:1' for one.

  Raises:
    ConfigError: there is no such kind or slice.
  """
  kind, _, shape = name.partition(':')
  if kind not in TPUS:
    raise ConfigError(
      f'--target={name!r} is no chip that a plan can be made for{nearest(kind, TPUS)} Known: {", ".join(sorted(TPUS))} '
      '(no GPUs yet)'
    )
  chip = TPUS[kind]
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){0,2}', shape):
    raise ConfigError(f"--target={name!r} must be a kind and a slice, e.g. '{kind}:{chip.topology}', or '{kind}:1'")
  chips = math.prod(map(int, shape.split('x')))
  if chips == 1:
    return Target(name, kind, chip, chip.topology, 1)
  if shape.count('x') != chip.topology.count('x'):
    raise ConfigError(f"--target={name!r}: a slice of {kind} is written like '{kind}:{chip.topology}'")
  return Target(name, kind, chip, shape, chips)
