"""What is said of several measurements: their median, and how sure it is."""

import random
import statistics


def interval(values, draws=2000):
  """The median, and the bounds of what 95 of 100 samples with replacement have for theirs (bootstrap)."""
  source = random.Random(0)
  medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(draws))
  return statistics.median(values), medians[int(0.025 * draws)], medians[int(0.975 * draws)]
