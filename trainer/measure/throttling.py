"""Whether the machine slowed this process down while it was measured: quotas, heat, low frequencies.

Each source is asked where there is one; what does not tell is None, never 0. Linux counts how often the quota of a
control group held its processes back (cpu.stat; cgroup v2 and v1), and how often a core or a package was slowed
down for its heat (thermal_throttle, Intel). The frequency of a core is held against the one that its maker promises
under load. NVIDIA's driver tells why clocks are low, where the package nvidia-ml-py is installed.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

# A share of the nominal frequency below which a core counts as slowed down.
_LOW_FREQUENCY = 0.9
# NVML's clocks event reasons (nvml.h). A power cap is how many cards work all day, and does not make a number wrong.
_GPU_REASONS = {
  0x04: 'power cap',
  0x08: 'hardware slowdown',
  0x20: 'software thermal slowdown',
  0x40: 'hardware thermal slowdown',
  0x80: 'power brake',
}
_GPU_HARMLESS = ('power cap',)


class Throttling:
  """What slowed this process down, from now until `found` is asked."""

  def __init__(self, gpus: Sequence[int] = (), root: str = '/'):
    """Args:
    gpus: those of this process, as CUDA numbers them.
    root: of the file system, for tests.
    """
    self._root, self._gpus = root, tuple(gpus)
    self._quota, self._heat = self._quota_now(), self._heat_now()
    self._frequencies: list[float] = []
    self._reasons: set[str] | None = None

  def look(self) -> None:
    """To be called when the devices have just worked: how they are clocked is known only then."""
    share = self._frequency_now()
    if share is not None:
      self._frequencies.append(share)
    reasons = _gpu_reasons(self._gpus) if self._gpus else None
    if reasons is not None:
      self._reasons = (self._reasons or set()) | reasons

  def found(self) -> dict[str, Any]:
    """What has happened since; None for what the machine does not tell.

    Returns:
      'quota_periods' in which a quota held this process back, and 'quota_seconds' for which; 'thermal_events' of cores
      and packages; 'frequency', that of the fastest core over its nominal one, the median of the looks; 'gpu_reasons'.
    """
    quota, heat = self._quota_now(), self._heat_now()
    periods, seconds = None, None
    if self._quota is not None and quota is not None:
      periods, seconds = quota[0] - self._quota[0], quota[1] - self._quota[1]
    return {
      'quota_periods': periods,
      'quota_seconds': seconds,
      'thermal_events': heat - self._heat if heat is not None and self._heat is not None else None,
      'frequency': statistics.median(self._frequencies) if self._frequencies else None,
      'gpu_reasons': None if self._reasons is None else sorted(self._reasons),
    }

  # -- control groups ------------------------------------------------------------------------------------------------

  def _quota_now(self) -> tuple[int, float] | None:
    """(periods, seconds) held back so far, in this group and those above it that can be seen."""
    periods, seconds, told = 0, 0.0, False
    for path in self._stat_files():
      facts = {name: int(value) for name, value in _pairs(_text(path)) if value.isdigit()}
      if 'nr_throttled' in facts:
        told = True
        periods += facts['nr_throttled']
        seconds += facts.get('throttled_usec', 0) / 1e6 + facts.get('throttled_time', 0) / 1e9
    return (periods, seconds) if told else None

  def _stat_files(self) -> Iterator[str]:
    for line in _text(self._path('proc/self/cgroup')).splitlines():
      number, _, rest = line.partition(':')
      controllers, _, group = rest.partition(':')
      if number == '0' and not controllers:
        tops = ['sys/fs/cgroup', 'sys/fs/cgroup/unified']
      elif 'cpu' in controllers.split(','):
        tops = [f'sys/fs/cgroup/{controllers}', 'sys/fs/cgroup/cpu']
      else:
        continue
      seen = set()
      for top in tops:
        # In a container the group may be named as the host sees it, and then only the top is there.
        parts = [part for part in group.split('/') if part and part != '..']
        for depth in range(len(parts), -1, -1):
          path = self._path(top, *parts[:depth], 'cpu.stat')
          if os.path.isfile(path) and os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            yield path

  # -- cores ---------------------------------------------------------------------------------------------------------

  def _heat_now(self) -> int | None:
    """Events so far: of all cores, and of the package that had most (each of its cores tells its count)."""
    counts: dict[str, list[int]] = {'core': [], 'package': []}
    for kind, found in counts.items():
      pattern = self._path('sys/devices/system/cpu/cpu[0-9]*/thermal_throttle', f'{kind}_throttle_count')
      found += [int(text) for path in glob.glob(pattern) if (text := _text(path).strip()).isdigit()]
    if not any(counts.values()):
      return None
    return sum(counts['core']) + max(counts['package'], default=0)

  def _frequency_now(self) -> float | None:
    """The frequency of the fastest core, in times of its nominal one."""
    shares = []
    for folder in glob.glob(self._path('sys/devices/system/cpu/cpu[0-9]*')):
      now = _number(os.path.join(folder, 'cpufreq', 'scaling_cur_freq'))  # kHz
      nominal = _number(os.path.join(folder, 'cpufreq', 'base_frequency'))  # kHz; Intel
      if nominal is None and (megahertz := _number(os.path.join(folder, 'acpi_cppc', 'nominal_freq'))):
        nominal = 1000 * megahertz
      if now and nominal:
        shares.append(now / nominal)
    return max(shares, default=None)

  def _path(self, *parts: str) -> str:
    return os.path.join(self._root, *parts)


def complaint(found: dict[str, Any]) -> str:
  """Why a measurement with such a finding is not valid; '' where nothing speaks against it."""
  if found['quota_periods']:
    return f'a CPU quota held the process back {found["quota_periods"]} times, {found["quota_seconds"]:.2g} s in all'
  if found['thermal_events']:
    return f'cores were slowed down for their heat {found["thermal_events"]} times'
  if found['frequency'] is not None and found['frequency'] < _LOW_FREQUENCY:
    return f'the fastest core ran at {found["frequency"]:.0%} of its nominal frequency'
  if reasons := [reason for reason in found['gpu_reasons'] or () if reason not in _GPU_HARMLESS]:
    return f'a GPU was slowed down: {", ".join(reasons)}'
  return ''


def words(found: dict[str, Any]) -> str:
  """The finding in a line; 'n/a' where the machine does not tell."""
  unknown = 'n/a'
  quota = unknown if found['quota_periods'] is None else f'{found["quota_periods"]} times'
  heat = unknown if found['thermal_events'] is None else f'{found["thermal_events"]} times'
  frequency = unknown if found['frequency'] is None else f'{found["frequency"]:.0%} of nominal'
  gpu = unknown if found['gpu_reasons'] is None else ', '.join(found['gpu_reasons']) or 'no reason'
  return f'by a CPU quota {quota}, for heat {heat}; frequency {frequency}; GPU clocks lowered: {gpu}'


def _gpu_reasons(gpus: Sequence[int]) -> set[str] | None:
  """Why the clocks of these GPUs are low now; None where the driver cannot be asked."""
  try:
    nvml = importlib.import_module('pynvml')
    nvml.nvmlInit()
  except Exception:  # noqa: BLE001  (the package, the library or the driver is missing)
    return None
  try:
    ask = (
      getattr(nvml, 'nvmlDeviceGetCurrentClocksEventReasons', None) or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    )
    found = set()
    for name in _driver_names(gpus):
      by_uuid = name.startswith('GPU-')
      bits = ask(nvml.nvmlDeviceGetHandleByUUID(name) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(name)))
      found |= {reason for bit, reason in _GPU_REASONS.items() if bits & bit}
    return found
  except Exception:  # noqa: BLE001  (an old driver, or a card that does not tell)
    return None
  finally:
    with contextlib.suppress(Exception):
      nvml.nvmlShutdown()


def _driver_names(gpus: Sequence[int]) -> list[str]:
  """What the driver calls GPUs that CUDA numbers so: it does not know CUDA_VISIBLE_DEVICES."""
  visible = [name.strip() for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name.strip()]
  return [visible[index] if visible else str(index) for index in gpus]


def _pairs(text: str) -> list[tuple[str, str]]:
  return [(parts[0], parts[1]) for line in text.splitlines() if len(parts := line.split()) == 2]


def _number(path: str) -> int | None:
  text = _text(path).strip()
  return int(text) if text.isdigit() else None


def _text(path: str) -> str:
  try:
    with open(path) as file:
      return file.read()
  except OSError:
    return ''
