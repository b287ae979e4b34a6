"""Numbers of each block of a network that tell where learning goes wrong: its gradients, weights and outputs.

A block is one of the model's own layers, as its summary lists them. On every strategy the gradients are those of all
replicas together, and the outputs those of a whole batch.

Dimensions: P trainable variables, K blocks.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.models.tapped import tapped
from trainer.train.collectives import Replicas
from trainer.train.evaluate import Evaluator
from trainer.train.step import Rows

# What is summed over the numbers that a block gives: how many, themselves, their squares, zeros, not finite.
_SUMS = 5


class Statistics:
  """Takes them of one run."""

  def __init__(self, session: Any, evaluator: Evaluator):
    """`session`: the parts of the run (trainer/train/session.py)."""
    self._session, self._evaluator = session, evaluator
    model = session.model
    owners = {id(v): layer.name for layer in model.layers for v in layer.trainable_variables}
    self._blocks = [owners.get(id(v), model.name) for v in session.state.trainable]
    self._layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    self._told: list[str] = []  # blocks whose outputs are floats, in the order in which they were traced

  def take(self, rows: Rows | None) -> dict[str, float]:
    """By 'BLOCK/what': the norm of the last gradient and of the weights; mean, deviation and share of zeros of outputs.

    All workers call it together. The outputs are of the first batch of the evaluation split, without dropout, with the
    weights that an evaluation is of.

    Args:
      rows: of the last block of steps; None where no step has been made.
    """
    found = {f'{block}/weight_norm': norm for block, norm in self._weight_norms().items()}
    if rows is not None:
      found |= {f'{block}/gradient_norm': norm for block, norm in self._gradient_norms(rows).items()}
    return found | self._outputs()

  def _gradient_norms(self, rows: Rows) -> dict[str, float]:
    scale, weight = rows.fact('loss_scale')[-1], rows.sum('weight')[-1]
    unscale = self._session.config.train.global_batch_size / (scale * weight) if weight else math.nan
    squares = 2.0 * rows.squares[-1].astype(np.float64)
    return {block: math.sqrt(total) * unscale for block, total in self._by_block(squares).items()}

  def _weight_norms(self) -> dict[str, float]:
    state = self._session.state
    with state.averaged():
      squares = [2.0 * tf.nn.l2_loss(tf.cast(variable.value, tf.float32)) for variable in state.evaluated]
    return {block: math.sqrt(total) for block, total in self._by_block(np.array(squares, np.float64)).items()}

  def _by_block(self, values_P: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for block, value in zip(self._blocks, values_P.tolist(), strict=True):
      found[block] = found.get(block, 0.0) + value
    return found

  def _outputs(self) -> dict[str, float]:
    dataset, _ = self._session.pipeline.evaluate(self._session.strategy)
    with self._session.state.averaged():
      sums_K5 = self._summed(next(iter(dataset))).numpy().astype(np.float64)
    found: dict[str, float] = {}
    for block, (count, total, squares, zeros, broken) in zip(self._told, sums_K5, strict=True):
      good = max(count - broken, 1.0)
      mean = total / good
      found |= {
        f'{block}/output_mean': mean,
        f'{block}/output_deviation': math.sqrt(max(squares / good - mean**2, 0.0)),
        f'{block}/output_zeros': zeros / count,
        f'{block}/output_not_finite': broken / count,
      }
    return found

  @tf.function
  def _summed(self, batch: Any) -> tf.Tensor:
    """float32 [K, 5] over the batches of all replicas."""
    sums = self._session.strategy.run(self._replica, args=(batch,))
    return self._session.strategy.experimental_local_results(sums)[0]

  @tf.autograph.experimental.do_not_convert
  def _replica(self, batch: dict) -> tf.Tensor:
    told: dict[str, tf.Tensor] = {}

    def note(layer: keras.layers.Layer, output: Any, args: Any, keywords: Any) -> Any:
      floats = [part for part in tf.nest.flatten(output) if tf.is_tensor(part) and part.dtype.is_floating]
      if floats:
        told[layer.name] = told.get(layer.name, tf.zeros([_SUMS])) + tf.add_n([_sums(part) for part in floats])
      return output

    with tapped(self._layers, note):
      self._evaluator.call(batch['inputs'])
    self._told = list(told)
    return Replicas().sum(tf.stack(list(told.values())))


def _sums(values: tf.Tensor) -> tf.Tensor:
  values = tf.cast(values, tf.float32)
  finite = tf.math.is_finite(values)
  kept = tf.where(finite, values, 0.0)
  count = tf.cast(tf.size(values), tf.float32)
  zeros = tf.math.count_nonzero(values == 0, dtype=tf.float32)
  return tf.stack(
    [count, tf.reduce_sum(kept), tf.reduce_sum(kept**2), zeros, tf.math.count_nonzero(~finite, dtype=tf.float32)]
  )
