"""How the time of a step is distributed, as far as the rows tell: each has the mean over the steps since the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainer.report.page.curves import is_number
from trainer.report.page.folder import Run

NAME = 'step_milliseconds'
PERCENTS = (50, 90, 99)
_MOST_BINS, _LEAST_BINS = 40, 10
_HARD_END = 1.5  # times the 99th percentile: what is longer shares the last bin


def distributions(runs: Sequence[Run]) -> list[dict[str, Any] | None]:
  """Of each run the distribution of its rows' step times, in bins that all runs share; None where it has none.

  Returns:
    {'rows', 'mean', 'p50', 'p90', 'p99', 'most' (milliseconds), 'bins': [(begin, end, rows)], 'open': whether the last
    bin has all that is longer}
  """
  values = [sorted(float(row[NAME]) for row in run.rows if is_number(row.get(NAME))) for run in runs]
  if not any(values):
    return [None] * len(runs)
  low = min(numbers[0] for numbers in values if numbers)
  most = max(numbers[-1] for numbers in values if numbers)
  high = min(most, _HARD_END * max(percentile(numbers, 99) for numbers in values if numbers))
  if high <= low:
    high = low + max(abs(low) * 0.01, 1e-9)
  # About as many rows in a bin as there are bins.
  count = min(_MOST_BINS, max(_LEAST_BINS, math.isqrt(max(map(len, values)))))
  width = (high - low) / count
  found: list[dict[str, Any] | None] = []
  for numbers in values:
    if not numbers:
      found.append(None)
      continue
    counts = [0] * count
    for number in numbers:
      counts[min(count - 1, int((number - low) / width))] += 1
    found.append(
      {
        'rows': len(numbers),
        'mean': math.fsum(numbers) / len(numbers),
        **{f'p{percent}': percentile(numbers, percent) for percent in PERCENTS},
        'most': numbers[-1],
        'low': low,
        'high': high,
        'bins': [(low + i * width, low + (i + 1) * width, rows) for i, rows in enumerate(counts)],
        'open': numbers[-1] > high,
      }
    )
  return found


def percentile(numbers: Sequence[float], percent: float) -> float:
  """Of ascending numbers, between the two nearest in proportion."""
  place = (len(numbers) - 1) * percent / 100
  low = math.floor(place)
  high = min(low + 1, len(numbers) - 1)
  return numbers[low] + (numbers[high] - numbers[low]) * (place - low)
