"""The measurement of a run: its first step, a warm-up, windows with real and with repeated input, and more.

All workers go through the same windows: how long one is, and when the warm-up is over, is the chief's word.
"""

from __future__ import annotations

import math
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.measure import stages, summary
from trainer.measure.load import Load
from trainer.measure.summary import Window
from trainer.measure.throttling import Throttling
from trainer.runtime import agreement
from trainer.runtime.strategy import first
from trainer.train.collectives import Replicas
from trainer.train.session import Session

# How often the gradients' collective is timed.
_COLLECTIVES = 10


class Measurement:
  """The windows of one process' share in a run. The state is trained on meanwhile, and thrown away.

  Attributes:
    own: the kind of input that the run would have, 'real' or 'repeated'.
  """

  def __init__(self, session: Session, between: Callable[[], None] = lambda: None, *, only_own: bool = False):
    """Args:
    session: built, with its first weights.
    between: called between two windows; may raise, to end the measurement.
    only_own: leaves repeated input out, where the run would have real input.
    """
    self.session, self._between = session, between
    self.settings = session.config.benchmark
    self._step = session.train_step()
    self._done = 0  # steps
    pipeline, strategy = session.pipeline, session.strategy
    self._inputs = {'repeated': iter(pipeline.train(strategy, 0, repeat=True))}
    if pipeline.source != 'synthetic':
      self._inputs['real'] = iter(pipeline.train(strategy, 0))
    self.own = list(self._inputs)[-1]
    if only_own:
      self._inputs = {self.own: self._inputs[self.own]}

  def first_steps(self) -> dict[str, float]:
    """Seconds of the first step of all, which traces and compiles; and by how much it is longer than the next."""
    first_one, second = (self._window(self.own, 1).seconds for _ in range(2))
    return {'seconds': first_one, 'compile_seconds': max(0.0, first_one - second)}

  def warm_up(self) -> dict[str, Any]:
    """Runs short windows of each input until their speed does not change any more."""
    found = {}
    for kind in self._inputs:
      times = [self._window(kind, 1).seconds]
      while len(times) < self.settings.warmup_windows:
        times.append(self._window(kind, self._steps(times[-1], self.settings.window_seconds / 4)).step_seconds)
        if agreement.from_chief(self.session.strategy, self.session.cluster, summary.settled(times)):
          break
      self._typical = statistics.median(times[-3:])
      found[kind] = {'windows': len(times), 'settled': summary.settled(times)}
    return found

  def inputs(self) -> tuple[dict[str, Any], float, dict[str, Any]]:
    """Speed with each kind of input, windows in turns; meanwhile the share of the cores that others took, and what
    slowed this process down (throttling.py).
    """
    length = self._steps(self._typical, self.settings.window_seconds)
    windows: dict[str, list[Window]] = {kind: [] for kind in self._inputs}
    load, throttling = Load(), Throttling(self.session.cluster.gpus)
    for turn in range(self.settings.windows):
      for kind in list(windows)[:: 1 if turn % 2 else -1]:
        windows[kind].append(self._window(kind, length))
        throttling.look()
    others, slowed = load.others(), throttling.found()
    batch, replicas = self.session.config.train.global_batch_size, self.session.cluster.replicas
    return {kind: summary.of_windows(found, batch, replicas) for kind, found in windows.items()}, others, slowed

  def stages(self) -> list[dict[str, Any]]:
    """What each stage of the run's input adds to the time of a batch, without training; see stages.py."""
    session = self.session
    return stages.measure(
      session.pipeline.stages(), session.cluster.replicas, self.settings.window_seconds, self._between
    )

  def single_steps(self) -> dict[str, Any]:
    """Steps with the input that the run would have, each with a return to the host."""
    seconds = [self._window(self.own, 1).seconds for _ in range(self.settings.single_steps)]
    return {'input': self.own, **summary.of_single_steps(seconds)}

  def collective(self, step_seconds: float) -> dict[str, Any] | None:
    """What reducing the gradients takes by itself; in a step it may overlap with other work. None with one replica."""
    session = self.session
    if session.cluster.replicas == 1:
      return None
    elements = sum(math.prod(variable.shape) for variable in session.state.trainable)

    @tf.function(autograph=False)
    def several() -> Any:
      def replica() -> tf.Tensor:
        collectives, vector = Replicas(), tf.zeros([elements])
        for _ in range(_COLLECTIVES):
          vector = collectives.sum(vector)
        return vector[0]

      return session.strategy.run(replica)

    first(session.strategy, several()).numpy()
    started = time.monotonic()
    first(session.strategy, several()).numpy()
    seconds = (time.monotonic() - started) / _COLLECTIVES
    if session.state.sharding:
      session.state.publish(session.state.masters)
      started = time.monotonic()
      session.state.publish(session.state.masters)
      seconds += time.monotonic() - started
    return {'bytes': 4 * elements, 'seconds': seconds, 'share_of_step': seconds / step_seconds}

  def save(self, folder: str, step_seconds: float) -> dict[str, float | None]:
    """One checkpoint: how long it blocks training, how long it takes, and how much slower steps are meanwhile.

    Args:
      folder: a new one for it, which is removed again.
      step_seconds: of a step while nothing is saved.
    """
    session, chief = self.session, self.session.cluster.is_chief
    sizes, checkpoints = session.state.sizes, session.checkpoints(folder, keep=1, keep_best=0)
    try:
      started = time.monotonic()
      session.save(checkpoints, checkpoints.begin(session.state.progress.step, sizes) if chief else 0)
      blocked, during = time.monotonic() - started, []
      saving = True
      while saving:
        during.append(self._window(self.own, 1).seconds)
        saving = checkpoints.saving_for() is not None
        saving = bool(agreement.from_chief(session.strategy, session.cluster, saving))
      checkpoints.wait()
    finally:
      checkpoints.close()
      if chief:
        shutil.rmtree(folder)
    slower = statistics.fmean(during) / step_seconds - 1
    return {
      'bytes': sum(sizes.values()),
      'blocked_seconds': blocked,
      'seconds': checkpoints.save_seconds,
      'steps_meanwhile': len(during),
      'slower': slower,
    }

  def memory(self) -> dict[str, int | None]:
    """Bytes at most so far: resident, of this process; and on its first device, None where that does not tell."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    device = None
    if self.session.cluster.device_kind == 'gpu':
      device = tf.config.experimental.get_memory_info(f'GPU:{self.session.cluster.gpus[0]}')['peak']
    return {'host_bytes': resident, 'device_bytes': device}

  def _steps(self, step_seconds: float, seconds: float) -> int:
    """How many steps take about so long, at least one; the same on all workers."""
    wanted = max(1, round(seconds / step_seconds))
    return agreement.from_chief(self.session.strategy, self.session.cluster, wanted)

  def _window(self, kind: str, steps: int) -> Window:
    self._between()
    begin = tf.constant(self._done, tf.int64)
    started = time.monotonic()
    rows, waited = self._step.run(self._inputs[kind], begin, tf.constant(steps), tf.zeros([3]))
    rows.numpy()  # until the last step is done
    seconds = time.monotonic() - started
    self._done += steps
    return Window(steps, seconds, float(waited.numpy()))
