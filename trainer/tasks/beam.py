"""Beam search in the graph, of static shapes: Sutskever et al., Sequence to Sequence Learning, 2014, section 3.2.

K hypotheses of each example grow side by side. One that has ended stays among them, grows by padding alone and keeps
its probability, so that the search is over when all have ended, or at the greatest length. At the end the hypothesis
with the best probability is taken, in relation to its length (Wu et al., Google's Neural Machine Translation System,
2016, equation 14).

Dimensions: B batch, K beam, T length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.tasks.vocabulary import END, PADDING

_NEVER = -1e30

# (state of B K hypotheses, their last ids int32 [B K], ids so far int32 [B K, T], place int32 []) -> (logits float32
# [B K, V] of what comes at `place`, state afterwards)
Step = Callable[[Any, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, Any]]


def search(
  step: Step, state: Any, batch: tf.Tensor | int, *, beam: int, length: int, penalty: float
) -> tuple[tf.Tensor, tf.Tensor]:
  """The best continuation of each example.

  Args:
    step: gives the logits of what comes next.
    state: nest of tensors [B K, ...], those of an example one after the other; the hypotheses are moved in it.
    batch: B.
    beam: K; 1 takes the likeliest symbol each time.
    length: T.
    penalty: a log-probability is divided by ((5 + length) / 6) ** penalty.

  Returns:
    Ids int32 [B, T] with END, where there was room for it, and PADDING behind it; and their score, float32 [B].
  """
  # At first the hypotheses are alike: all but one are out of the question.
  scores_BK = tf.tile(tf.one_hot([0], beam, 0.0, _NEVER), [batch, 1])
  ids_BKT = tf.fill([batch, beam, length], PADDING)
  last_BK = tf.fill([batch, beam], PADDING)
  ended_BK = tf.zeros([batch, beam], tf.bool)

  def go_on(place: tf.Tensor, ended: tf.Tensor, *_: Any) -> tf.Tensor:
    return (place < length) & ~tf.reduce_all(ended)

  def grow(place: tf.Tensor, ended: tf.Tensor, last: tf.Tensor, scores: tf.Tensor, ids: tf.Tensor, kept: Any) -> Any:
    logits, kept = step(kept, tf.reshape(last, [-1]), tf.reshape(ids, [-1, length]), place)
    size = logits.shape[-1]
    gains_BKV = tf.reshape(tf.nn.log_softmax(tf.cast(logits, tf.float32)), [-1, beam, size])
    # PADDING is no symbol, and after the end there is nothing else.
    padding_V = tf.range(size) == PADDING
    grown, over = tf.where(padding_V, _NEVER, gains_BKV), tf.where(padding_V, 0.0, _NEVER)
    gains_BKV = tf.where(ended[..., tf.newaxis], over, grown)
    totals = tf.reshape(scores[..., tf.newaxis] + gains_BKV, [-1, beam * size])
    scores, best_BK = tf.math.top_k(totals, beam)
    last = best_BK % size
    if beam > 1:
      parent_BK = best_BK // size
      ended, ids = (tf.gather(each, parent_BK, batch_dims=1) for each in (ended, ids))
      rows = tf.reshape(parent_BK + beam * tf.range(batch)[:, tf.newaxis], [-1])
      kept = tf.nest.map_structure(lambda each: tf.gather(each, rows), kept)
    ids = tf.where(tf.range(length) == place, last[..., tf.newaxis], ids)
    return place + 1, ended | (last == END), last, scores, ids, kept

  loop = (tf.constant(0), ended_BK, last_BK, scores_BK, ids_BKT, state)
  _, _, _, scores_BK, ids_BKT, _ = tf.while_loop(go_on, grow, loop, maximum_iterations=length)
  count_BK = tf.math.count_nonzero(ids_BKT != PADDING, axis=-1, dtype=tf.float32)
  scores_BK /= ((5.0 + count_BK) / 6.0) ** penalty
  best_B = tf.argmax(scores_BK, axis=1)
  return tf.gather(ids_BKT, best_B, batch_dims=1), tf.gather(scores_BK, best_B, batch_dims=1)
