"""Which stage of the input is the slowest: each is added to those before it, and the loss of speed is its own.

Measured in this process alone, without training beside it, so on all the cores, of which training would take some.
Stages overlap, so the time of one that is quicker than the slowest before it is near nothing: what is looked for is
what holds the others up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

_TURNS = 5


def measure(
  stages: Mapping[str, tf.data.Dataset], parts: int, seconds: float, between: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
  """What a global batch takes up to each stage, medians of windows in turns.

  Args:
    stages: the input up to each stage, in order, in batches of one replica; endless.
    parts: of those, what makes a global batch.
    seconds: about how long to measure each.
    between: called between two windows; may raise, to end the measurement.

  Returns:
    For each stage its `name`, `batch_seconds` up to it, and `own_seconds`, what it adds: not below 0.
  """
  inputs = {name: iter(dataset) for name, dataset in stages.items()}
  counts = {name: _batches_in(seconds / _TURNS, batches, parts) for name, batches in inputs.items()}
  times: dict[str, list[float]] = {name: [] for name in inputs}
  for _ in range(_TURNS):
    for name, batches in inputs.items():
      between()
      times[name].append(_seconds(batches, parts * counts[name]) / counts[name])
  found: list[dict[str, Any]] = []
  before = 0.0
  for name in inputs:
    batch_seconds = statistics.median(times[name])
    found.append({'name': name, 'batch_seconds': batch_seconds, 'own_seconds': max(0.0, batch_seconds - before)})
    before = batch_seconds
  return found


def slowest(found: list[dict[str, Any]]) -> str | None:
  """The name of the stage that adds most; None where there are none."""
  return max(found, key=lambda stage: stage['own_seconds'])['name'] if found else None


def _batches_in(seconds: float, batches: Any, parts: int) -> int:
  """How many global batches take about so long.

  Tried with ever more of them until a window is long enough, by the faster of two: one that was interrupted, taken for
  the input's own, would leave windows of a single batch, in which there is nothing but the cost of a call.
  """
  take(batches, tf.constant(parts)).numpy()  # traces, and fills buffers
  count = 1
  while (window := min(_seconds(batches, parts * count) for _ in range(2))) < seconds / 2:
    count *= 4
  return max(1, round(count * seconds / window))


def _seconds(batches: Any, count: int) -> float:
  """What it takes to make so many batches of one replica."""
  began = time.monotonic()
  take(batches, tf.constant(count)).numpy()
  return time.monotonic() - began


@tf.function(autograph=False, reduce_retracing=True)
def take(batches: Any, count: tf.Tensor) -> tf.Tensor:
  """Takes so many batches, without Python in between."""

  def one(done: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies(tf.nest.flatten(next(batches))):
      return done + 1

  return tf.while_loop(lambda done: done < count, one, [tf.constant(0)])[0]
