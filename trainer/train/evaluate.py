"""Evaluation: the whole split, each example exactly once, on any number of replicas."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainer.runtime.precision import Precision
from trainer.train.state import TrainState

# Batches evaluated between two returns to the host.
_BLOCK = 64


class Evaluator:
  """Runs the model over the evaluation split, with the averaged weights where the run keeps them."""

  def __init__(self, strategy: tf.distribute.Strategy, state: TrainState, task, pipeline, precision: Precision):
    self.strategy, self.state, self.task, self.pipeline = strategy, state, task, pipeline
    self._sums_fn = tf.function(self._sums, jit_compile=True, autograph=False) if precision.xla else self._sums

  def evaluate(self) -> dict[str, float]:
    """Loss (mean over examples), the task's metrics and the number of examples of the evaluation split.

    Raises:
      RuntimeError: the replicas together did not see each example exactly once; a bug, never reported as a result.
    """
    dataset, batches = self.pipeline.evaluate(self.strategy)
    iterator = iter(dataset)
    total, done = np.zeros(3 + self.task.metrics.size), 0
    while done < batches:
      size = min(_BLOCK, batches - done)
      rows = self._block(iterator, tf.constant(size)).numpy()
      total, done = total + rows.astype(np.float64).sum(axis=0), done + size
    loss, weight, examples = total[:3]
    if int(examples) != self.pipeline.eval_examples:
      raise RuntimeError(f'evaluation saw {int(examples)} examples of {self.pipeline.eval_examples}')
    return {'loss': float(loss / weight), **self.task.metric_results(total[3:]), 'examples': int(examples)}

  @tf.function
  def _block(self, iterator, batches: tf.Tensor) -> tf.Tensor:
    rows = tf.TensorArray(tf.float32, size=batches)
    for i in tf.range(batches):
      row = self.strategy.run(self._replica, args=(next(iterator),))
      rows = rows.write(i, self.strategy.experimental_local_results(row)[0])
    return rows.stack()

  @tf.autograph.experimental.do_not_convert
  def _replica(self, batch: dict) -> tf.Tensor:
    sums = self._sums_fn(batch)
    if self.strategy.num_replicas_in_sync == 1:
      return sums
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

  def _sums(self, batch: dict) -> tf.Tensor:
    """float32 [3 + M]: loss sum, weight sum, examples that are not padding, metric sums of this replica's batch."""
    state, model = self.state, self.state.model
    parameters = [tf.convert_to_tensor(v.value) for v in (state.ema or state.trainable)]
    buffers = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    outputs, _ = model.stateless_call(parameters, buffers, batch['inputs'], training=False)
    weight = tf.cast(batch['weight'], tf.float32)
    # A padded row may hold anything; its loss is left out rather than multiplied by 0, which would keep a NaN.
    losses = tf.where(weight > 0, self.task.losses(outputs, batch), 0.0)
    examples = tf.math.count_nonzero(batch['index'] >= 0, dtype=tf.float32)
    sums = tf.stack([tf.reduce_sum(losses * weight), tf.reduce_sum(weight), examples])
    return tf.concat([sums, self.task.metric_values(outputs, batch)], 0)
