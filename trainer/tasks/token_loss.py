"""The cross-entropy of tokens with its own gradient: out of logits, or of what logits are products of, chunk by chunk.

The logits of 8,192 places over 50,257 tokens are 1.6 GB in float32. TensorFlow's own operation makes a second of that
size for its gradient in the forward pass; here the gradient is made of the logits when it is asked for. By chunks, the
logits of one are held in the forward pass, and made once more in the backward pass.

Dimensions: N places, C chunks, n places of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def of_logits(logits_NV: tf.Tensor, targets_N: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Cross-entropy of each place, and whether its target is the likeliest token.

  Args:
    logits_NV: float32.
    targets_N: int32 in [0, V).

  Returns:
    float32 [N], nats, with a gradient for the logits; bool [N], whether the target is likelier than any other token.
  """

  @tf.custom_gradient
  def run(logits: tf.Tensor) -> Any:
    nats, likeliest, norm = _forward(logits, targets_N)
    return (nats, likeliest), lambda upstream, _: _by_logit(logits, targets_N, norm, upstream)

  return run(logits_NV)


def of_products(hidden_CnD: tf.Tensor, table_VD: tf.Tensor, targets_Cn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """The same out of what logits are products of, the logits of a chunk at a time.

  Args:
    hidden_CnD: float; a logit is its product with a row of the table, computed in float32.
    table_VD: float; it goes through the loops in its own dtype, and its gradient is added up in float32.
    targets_Cn: int32 in [0, V).

  Returns:
    float32 [C, n], nats, with gradients for `hidden_CnD` and `table_VD`; bool [C, n].
  """
  chunks = hidden_CnD.shape[0]

  def logits(hidden_nD: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.cast(hidden_nD, tf.float32), tf.cast(table, tf.float32), transpose_b=True)

  @tf.custom_gradient
  def run(hidden: tf.Tensor, table: tf.Tensor) -> Any:
    def forward(c: tf.Tensor, *arrays: tf.TensorArray) -> Any:
      found = _forward(logits(hidden[c], table), targets_Cn[c])
      return c + 1, *(array.write(c, each) for array, each in zip(arrays, found, strict=True))

    dtypes = tf.float32, tf.bool, tf.float32
    arrays = [tf.TensorArray(dtype, chunks, element_shape=hidden.shape[1:2]) for dtype in dtypes]
    _, *arrays = tf.while_loop(lambda c, *_: c < chunks, forward, (tf.constant(0), *arrays), maximum_iterations=chunks)
    nats, likeliest, norms = (array.stack() for array in arrays)

    def gradient(upstream: tf.Tensor, _: Any) -> Any:
      def backward(c: tf.Tensor, by_table: tf.Tensor, by_hidden: tf.TensorArray) -> Any:
        by_logit = _by_logit(logits(hidden[c], table), targets_Cn[c], norms[c], upstream[c])
        by_table += tf.matmul(by_logit, tf.cast(hidden[c], tf.float32), transpose_a=True)
        found = tf.cast(tf.matmul(by_logit, tf.cast(table, tf.float32)), hidden.dtype)
        return c + 1, by_table, by_hidden.write(c, found)

      by_hidden = tf.TensorArray(hidden.dtype, chunks, element_shape=hidden.shape[1:])
      loop = (tf.constant(0), tf.zeros_like(table, tf.float32), by_hidden)
      _, by_table, by_hidden = tf.while_loop(lambda c, *_: c < chunks, backward, loop, maximum_iterations=chunks)
      return by_hidden.stack(), tf.cast(by_table, table.dtype)

    return (nats, likeliest), gradient

  return run(hidden_CnD, table_VD)


def _forward(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Nats, whether the target is the likeliest, and logarithm of the sum of exponentials, [n] each."""
  largest, is_target = tf.reduce_max(logits, axis=-1, keepdims=True), _is_target(logits, targets)
  norm = largest[:, 0] + tf.math.log(tf.reduce_sum(tf.exp(logits - largest), axis=-1))
  right = tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=-1)
  # To ask where the largest is would be another pass over the logits; XLA counts in that of the exponentials.
  as_likely = tf.reduce_sum(tf.cast(logits >= largest, tf.float32), axis=-1)
  return norm - right, (right >= largest[:, 0]) & (as_likely == 1), norm


def _by_logit(logits: tf.Tensor, targets: tf.Tensor, norm: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  """The gradient of the nats [n] for the logits [n, V]: softmax less one-hot."""
  share = tf.exp(logits - norm[:, tf.newaxis])
  return tf.where(_is_target(logits, targets), share - 1.0, share) * upstream[:, tf.newaxis]


def _is_target(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
  """Bool [n, V]. A comparison is fused with what is done with it, and the gradient of a gather would be a scatter."""
  return tf.range(logits.shape[1]) == targets[:, tf.newaxis]
