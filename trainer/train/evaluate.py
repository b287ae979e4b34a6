"""Evaluation: the whole split, each example exactly once, on any number of replicas."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.runtime.precision import Precision
from trainer.train.collectives import Replicas
from trainer.train.state import TrainState, as_computed

# Batches evaluated between two returns to the host, where nothing but sums comes back.
_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Predicted:
  """One example of the evaluation split.

  Attributes:
    index: its row.
    prediction: what the task makes of it, as `task.readable` takes it.
    loss: its loss, not weighted.
    example: its 'inputs' and 'targets' as `task.look` takes them, where they were asked for, else None.
  """

  index: int
  prediction: Any
  loss: float
  example: dict[str, Any] | None


class Evaluator:
  """Runs the model over the evaluation split, with the averaged weights where the run keeps them."""

  def __init__(self, strategy: tf.distribute.Strategy, state: TrainState, task, pipeline, precision: Precision):
    self.strategy, self.state, self.task, self.pipeline = strategy, state, task, pipeline
    self._sums_fn, self._predicted_fn = self._sums, self._predicted
    if precision.xla:
      self._sums_fn = tf.function(self._sums, jit_compile=True, autograph=False)
      self._predicted_fn = tf.function(self._predicted, jit_compile=True, autograph=False)

  def evaluate(self) -> dict[str, float]:
    """Loss (weighted mean over examples), the task's metrics and the number of examples of the evaluation split.

    Raises:
      RuntimeError: the replicas together did not see each example exactly once; a bug, never reported as a result.
    """
    dataset, batches = self.pipeline.evaluate(self.strategy)
    iterator, collects = iter(dataset), bool(self.task.prediction_modes)
    total, done, collected = np.zeros(3 + self.task.metrics.size), 0, []
    with self.state.averaged():
      while done < batches:
        if collects:
          size, (rows, found) = 1, self._predict(iterator, False)
          collected.append((found['index'].numpy(), _numpy(found['predictions'])))
        else:
          size = min(_BLOCK, batches - done)
          rows = self._block(iterator, tf.constant(size))
        total, done = total + rows.numpy().astype(np.float64).sum(axis=0), done + size
    loss, weight, examples = total[:3]
    if int(examples) != self.pipeline.eval_examples:
      raise RuntimeError(f'evaluation saw {int(examples)} examples of {self.pipeline.eval_examples}')
    results = {'loss': float(loss / weight), **self.task.metric_results(total[3:])}
    if collects:
      results |= self.task.prediction_results(self._in_order(collected))
    return {**results, 'examples': int(examples)}

  def try_first_batch(self) -> None:
    """Evaluates one batch and keeps nothing of it: whatever cannot be compiled is known then."""
    iterator = iter(self.pipeline.evaluate(self.strategy)[0])
    with self.state.averaged():
      if self.task.prediction_modes:
        _numpy(self._predict(iterator, False)[0])
      else:
        self._block(iterator, tf.constant(1)).numpy()

  def predict(self, *, examples: bool = False) -> Generator[Predicted]:
    """The task's prediction for each example of the evaluation split, in order.

    Args:
      examples: whether they are wanted too.
    """
    dataset, batches = self.pipeline.evaluate(self.strategy)
    iterator, waiting, following = iter(dataset), {}, 0
    with self.state.averaged():
      for _ in range(batches):
        found = _numpy(self._predict(iterator, examples)[1])
        for place, row in enumerate(found['index'].tolist()):
          if row >= 0:
            each = _row(found, place)
            waiting[row] = Predicted(row, each['predictions'], float(each['losses']), each.get('example'))
        # The replicas' parts come one after the other, so a whole batch is there before its rows are in order.
        while following in waiting:
          yield waiting.pop(following)
          following += 1

  def pictures(self, count: int) -> list[Predicted]:
    """The first examples of the evaluation split, with what the task makes of them; all workers call it together."""
    with contextlib.closing(self.predict(examples=True)) as found:
      return list(itertools.islice(found, count))

  def _in_order(self, collected: list[tuple[np.ndarray, Any]]) -> Any:
    """Predictions of a split as one nest [N, ...] in row order, without padding; from (index [B], predictions [B, ...])
    of each batch."""
    index = np.concatenate([index for index, _ in collected])
    joined = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *(predictions for _, predictions in collected))
    order = np.argsort(index, kind='stable')[np.count_nonzero(index < 0) :]
    if not np.array_equal(index[order], np.arange(self.pipeline.eval_examples)):
      raise RuntimeError('the collected predictions are not one of each example')
    return tf.nest.map_structure(lambda values: values[order], joined)

  @tf.function
  def _block(self, iterator, batches: tf.Tensor) -> tf.Tensor:
    """float32 [batches, 3 + M], the summed rows of so many batches."""
    rows = tf.TensorArray(tf.float32, size=batches)
    for i in tf.range(batches):
      row = self.strategy.run(self._replica, args=(next(iterator),))
      rows = rows.write(i, self.strategy.experimental_local_results(row)[0])
    return rows.stack()

  @tf.function
  def _predict(self, iterator, examples: bool) -> tuple[tf.Tensor, dict[str, Any]]:
    """Of one batch: the summed row, float32 [1, 3 + M]; 'index' int64 [B], the task's 'predictions' [B, ...], 'losses'
    float32 [B], and the 'example' [B, ...] if it is asked for."""
    found = self.strategy.run(self._replica_predict, args=(next(iterator), examples))
    return tf.nest.map_structure(lambda each: self.strategy.experimental_local_results(each)[0], found)

  @tf.autograph.experimental.do_not_convert
  def _replica(self, batch: dict) -> tf.Tensor:
    return Replicas().sum(self._sums_fn(batch))

  @tf.autograph.experimental.do_not_convert
  def _replica_predict(self, batch: dict, examples: bool) -> tuple[tf.Tensor, dict[str, Any]]:
    sums, found = self._predicted_fn(batch)
    found = {'index': batch['index'], **found}
    if examples:
      found['example'] = {name: batch[name] for name in ('inputs', 'targets')}
    if self.strategy.num_replicas_in_sync > 1:
      context = tf.distribute.get_replica_context()
      found = tf.nest.map_structure(lambda each: context.all_gather(each, axis=0), found)
    return Replicas().sum(sums)[tf.newaxis], found

  def _sums(self, batch: dict) -> tf.Tensor:
    """float32 [3 + M]: loss sum, weight sum, examples that are not padding, metric sums of this replica's batch."""
    return self._sums_of(self.call(batch['inputs']), batch)[0]

  def _predicted(self, batch: dict) -> tuple[tf.Tensor, dict[str, Any]]:
    """The same sums; the task's 'predictions' for this replica's batch, and the 'losses'."""
    outputs = self.call(batch['inputs'])
    sums, losses = self._sums_of(outputs, batch)
    return sums, {'predictions': self.task.predictions(self.call, outputs, batch), 'losses': losses}

  def call(self, inputs: Any) -> tf.Tensor:
    """The model as it is evaluated, without writing to a variable."""
    state, model = self.state, self.state.model
    parameters = [as_computed(v) for v in state.evaluated]
    buffers = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    return model.stateless_call(parameters, buffers, inputs, training=False)[0]

  def _sums_of(self, outputs: tf.Tensor, batch: dict) -> tuple[tf.Tensor, tf.Tensor]:
    weight = self.task.weights(batch)
    # A padded row may hold anything; its loss is left out rather than multiplied by 0, which would keep a NaN.
    losses = tf.where(weight > 0, self.task.losses(outputs, batch), 0.0)
    examples = tf.math.count_nonzero(batch['index'] >= 0, dtype=tf.float32)
    sums = tf.stack([tf.reduce_sum(losses * weight), tf.reduce_sum(weight), examples])
    return tf.concat([sums, self.task.metric_values(outputs, batch)], 0), losses


def _numpy(nest: Any) -> Any:
  return tf.nest.map_structure(lambda tensor: tensor.numpy(), nest)


def _row(predictions: Any, place: int) -> Any:
  """One example's part of a nest [B, ...]."""
  return tf.nest.map_structure(lambda values: values[place], predictions)
