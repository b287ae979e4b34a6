"""What data parallelism would cost on more chips, on paper: the step's work, and one all-reduce of its gradients.

Nothing here is measured. A ring of N chips sends 2 (N - 1) / N of the bytes over each chip's links (Patarasuk and Yuan,
Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations, 2009). Beyond what links join, groups reduce and
scatter inside, reduce over the network what each chip then has, and gather inside again.
"""

from __future__ import annotations

import dataclasses

# From one chip to the next, and between machines or slices; assumed, and named so.
LINK_SECONDS, NETWORK_SECONDS = 1e-6, 10e-6
# Of a step's work, what comes after the first gradients are there to be sent: the backward pass, twice the forward one.
BACKWARD = 2 / 3


@dataclasses.dataclass(frozen=True)
class Fabric:
  """How chips are joined.

  Attributes:
    link: bytes per second that a chip sends to its neighbours.
    linked: chips that links join at most.
    network: bytes per second and chip beyond those; None: there is nothing beyond.
  """

  link: float
  linked: int
  network: float | None


@dataclasses.dataclass(frozen=True)
class Step:
  """A step on so many chips, in seconds.

  Attributes:
    chips: N.
    compute: of the work of a chip, the same on any number.
    reduce: of the all-reduce by itself.
  """

  chips: int
  compute: float
  reduce: float

  @property
  def apart(self) -> float:
    """With the all-reduce behind the backward pass."""
    return self.compute + self.reduce

  @property
  def overlapped(self) -> float:
    """With the all-reduce beside the backward pass, as far as that lasts."""
    return self.compute + max(0.0, self.reduce - BACKWARD * self.compute)

  def efficiency(self, *, overlapped: bool) -> float:
    """Examples per second and chip, of those that one chip has alone."""
    return self.compute / (self.overlapped if overlapped else self.apart)


def all_reduce_seconds(size: float, chips: int, fabric: Fabric) -> float:
  """Of one all-reduce.

  Args:
    size: bytes on each chip.
    chips: N; beyond `linked` a multiple of it.
    fabric: how they are joined.

  Raises:
    ValueError: they cannot be joined so.
  """
  inside = min(chips, fabric.linked)
  # Reduce-scatter and all-gather, half of an all-reduce each.
  seconds = 2 * ((inside - 1) / inside * size / fabric.link + (inside - 1) * LINK_SECONDS)
  if chips == inside:
    return seconds
  groups, rest = divmod(chips, inside)
  if rest:
    raise ValueError(f'{chips} chips are no whole groups of {inside}')
  if fabric.network is None:
    raise ValueError(f'{chips} chips are more than the {inside} that links join, and no network is known')
  return seconds + 2 * ((groups - 1) / groups * size / inside / fabric.network + (groups - 1) * NETWORK_SECONDS)


def steps(flops: float, size: float, flops_per_second: float, fabric: Fabric, most: int) -> list[Step]:
  """The step on 1, 2, 4, ... chips, with the same examples on each.

  Args:
    flops: of a chip's work.
    size: bytes of the gradients.
    flops_per_second: that a chip reaches: its peak times the share of it that is assumed.
    fabric: how chips are joined.
    most: chips at most; it ends earlier where they cannot be joined.
  """
  found, chips = [], 1
  while chips <= most and (chips <= fabric.linked or fabric.network is not None):
    found.append(Step(chips, flops / flops_per_second, all_reduce_seconds(size, chips, fabric)))
    chips *= 2
  return found
