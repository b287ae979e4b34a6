"""What else the machine did meanwhile."""

from __future__ import annotations

import psutil


class Load:
  """The share of the machine's cores that other programs took, from now until `others` is asked."""

  def __init__(self):
    self._before = self._now()

  def others(self) -> float:
    """0 to 1. What this process has started counts as its own."""
    busy, own, total = (after - before for after, before in zip(self._now(), self._before, strict=True))
    return max(0.0, min(1.0, (busy - own) / total)) if total > 0 else 0.0

  def _now(self) -> tuple[float, float, float]:
    """CPU seconds of all programs, of this one and its children, and of all cores, since the machine began."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, 'iowait', 0.0)
    # Guests are counted in `user` too.
    total = sum(times) - getattr(times, 'guest', 0.0) - getattr(times, 'guest_nice', 0.0)
    own = psutil.Process().cpu_times()
    return total - idle, own.user + own.system + own.children_user + own.children_system, total
