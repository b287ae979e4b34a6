"""Attention that holds the scores of a block of keys at a time: Dao et al., FlashAttention, 2022, algorithms 1 and 2.

The softmax runs along (Milakov and Gimelshein, Online Normalizer Calculation for Softmax, 2018, section 3): of each
query the largest score so far and the sum of the exponentials below it are kept, and what has been added up is scaled
when the largest grows. The gradient keeps one number per query, and computes the scores anew.

Dimensions: B batch, N heads, T places of queries, S places of keys, K width of a head, C keys of a block.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.models import remat

# Keys whose scores are held at once, at most.
BLOCK = 256
# A score that no softmax sees.
_NEVER = -1e30


def block_size(places: int) -> int:
  """The largest divisor of the number of keys up to BLOCK."""
  return next(size for size in range(min(BLOCK, places), 0, -1) if places % size == 0)


def attention(
  query_BTNK: tf.Tensor, key_BSNK: tf.Tensor, value_BSNK: tf.Tensor, key_mask: tf.Tensor | None, causal: bool, xla: bool
) -> tf.Tensor:
  """softmax(query key^T) value, [B, T, N, K].

  Args:
    query_BTNK: scaled already.
    key_BSNK: keys, as many heads as queries have.
    value_BSNK: values.
    key_mask: bool [B, S], which keys may be looked at; None: all. A query that may look at none has a mean of values.
    causal: a query looks at keys up to its own place only.
    xla: whether XLA compiles the gradient; it would keep the result in float32.
  """
  places, size = key_BSNK.shape[1], block_size(key_BSNK.shape[1])
  count, dtype = places // size, value_BSNK.dtype
  queries_T = tf.range(query_BTNK.shape[1])

  def block(x: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
    """[B, N, S, K] -> its keys of block j, [B, N, C, K]."""
    return tf.slice(x, [0, 0, j * size, 0], [-1, -1, size, -1])

  def scores(query: tf.Tensor, key: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
    """Float32 [B, N, T, C]."""
    found = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    if causal:
      found = tf.where(queries_T[:, tf.newaxis] >= j * size + tf.range(size), found, _NEVER)
    if key_mask is not None:
      mask_BC = tf.slice(key_mask, [0, j * size], [-1, size])
      found = tf.where(mask_BC[:, tf.newaxis, tf.newaxis], found, _NEVER)
    return found

  @tf.custom_gradient
  def run(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> Any:
    def forward(j: tf.Tensor, largest: tf.Tensor, total: tf.Tensor, mixed: tf.Tensor) -> Any:
      score = scores(query, block(key, j), j)
      larger = tf.maximum(largest, tf.reduce_max(score, axis=-1, keepdims=True))
      share, shrink = tf.exp(score - larger), tf.exp(largest - larger)
      total = total * shrink + tf.reduce_sum(share, axis=-1, keepdims=True)
      more = tf.matmul(tf.cast(share, dtype), block(value, j))
      return j + 1, larger, total, mixed * shrink + tf.cast(more, tf.float32)

    one_BNT1 = tf.zeros_like(query[..., :1], tf.float32)
    start = (tf.constant(0), one_BNT1 + _NEVER, one_BNT1, tf.zeros_like(query, tf.float32))
    _, largest, total, mixed = tf.while_loop(lambda j, *_: j < count, forward, start, maximum_iterations=count)
    result = remat.apart(tf.cast(mixed / total, dtype), xla)
    norm = largest + tf.math.log(total)

    def gradient(upstream: tf.Tensor) -> Any:
      through = tf.reduce_sum(tf.cast(upstream, tf.float32) * tf.cast(result, tf.float32), axis=-1, keepdims=True)

      def backward(j: tf.Tensor, by_query: tf.Tensor, by_key: tf.TensorArray, by_value: tf.TensorArray) -> Any:
        key_j, value_j = block(key, j), block(value, j)
        share = tf.exp(scores(query, key_j, j) - norm)
        by_share = tf.cast(tf.matmul(upstream, value_j, transpose_b=True), tf.float32)
        by_score = tf.cast(share * (by_share - through), dtype)
        by_query += tf.cast(tf.matmul(by_score, key_j), tf.float32)
        by_key = by_key.write(j, tf.matmul(by_score, query, transpose_a=True))
        by_value = by_value.write(j, tf.matmul(tf.cast(share, dtype), upstream, transpose_a=True))
        return j + 1, by_query, by_key, by_value

      shape = [*key.shape[:2], size, key.shape[3]]
      arrays = [tf.TensorArray(dtype, count, element_shape=shape) for _ in range(2)]
      loop = (tf.constant(0), tf.zeros_like(query, tf.float32), *arrays)
      _, by_query, *others = tf.while_loop(lambda j, *_: j < count, backward, loop, maximum_iterations=count)
      by_key, by_value = (_joined(array.stack(), key) for array in others)
      return tf.cast(by_query, dtype), by_key, by_value

    return result, gradient

  parts = (tf.transpose(part, [0, 2, 1, 3]) for part in (query_BTNK, key_BSNK, value_BSNK))
  return tf.transpose(run(*parts), [0, 2, 1, 3])


def _joined(blocks_JBNCK: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
  """The blocks of keys one behind another, [B, N, S, K]."""
  return tf.reshape(tf.transpose(blocks_JBNCK, [1, 2, 0, 3, 4]), tf.shape(like))
