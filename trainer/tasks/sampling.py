"""How a language model goes on from the beginning of a text: token by token, keys and values of earlier places kept.

Dimensions: B batch, P places of the beginning, T places that the model sees, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.tasks.base import Call


def go_on(
  call: Call,
  prompt_BP: tf.Tensor,
  *,
  context: int,
  count: int,
  temperature: float,
  top_k: int,
  top_p: float = 1.0,
  keeps: bool = True,
  seed: int,
  numbers: tf.Tensor,
) -> tf.Tensor:
  """Draws the tokens that follow.

  When the model's places are full, the cache is made anew from the newer half of them, and it goes on from there.

  Args:
    call: a causal model, that keeps a cache if `keeps` (trainer/models/gpt.py says how it is asked).
    prompt_BP: ids, P at least 1.
    context: T.
    count: tokens to draw.
    temperature: what the logits are divided by; 0 takes the likeliest.
    top_k: draws from so many likeliest; 0: from all.
    top_p: draws from the likeliest that together have this probability (Holtzman et al., 2020, section 3.1).
    keeps: whether keys and values of earlier places are kept; False: the whole text is gone through for each token.
    seed: of the draws.
    numbers: int64 [B], a number of each text; its draws depend on (seed, number, place) alone.

  Returns:
    int32 [B, count].

  Raises:
    ConfigError: the model keeps no cache.
  """
  cache: Any = ()
  if keeps:
    try:
      cache = call({'start': prompt_BP})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
      raise ConfigError(
        'this model keeps nothing of earlier places to go on from: take model.name=gpt, or task.cache=False'
      ) from error
  prompt = prompt_BP.shape[1] or tf.shape(prompt_BP)[1]
  total, half = prompt + count, max(context // 2, 1)
  text_BS = tf.pad(tf.cast(prompt_BP, tf.int32), [[0, 0], [0, count]])
  seeds = tf.stack([tf.fill(tf.shape(numbers), tf.constant(seed, tf.int64)), tf.cast(numbers, tf.int64)], axis=1)

  def asked(s: tf.Tensor, place: tf.Tensor, text_BS: tf.Tensor, cache: Any) -> tuple[tf.Tensor, Any]:
    if keeps:
      found = call({'token': text_BS[:, s], 'place': place, 'cache': cache})
      return found['logits'], found['cache']
    # What stands behind the place is nothing to a causal model.
    seen_BT = tf.gather(tf.pad(text_BS, [[0, 0], [0, context]]), s - place + tf.range(context), axis=1)
    return _logits_at(call(seen_BT), place), cache

  def body(s: tf.Tensor, place: tf.Tensor, filled: tf.Tensor, text_BS: tf.Tensor, cache: Any) -> Any:
    # `s` is a place of the text, `place` the model's place for it; the text is there up to `filled`, exclusive.
    logits_BV, cache = asked(s, place, text_BS, cache)
    drawn_B = _drawn(logits_BV, temperature, top_k, top_p, seeds, s)
    is_new = (tf.range(total) == s + 1) & (s + 1 >= filled)
    text_BS = tf.where(is_new, drawn_B[:, tf.newaxis], text_BS)
    filled = tf.maximum(filled, s + 2)
    # The newer half is gone through once more, now from the first place of the model on.
    is_full = place + 1 >= context
    s, place = tf.where(is_full, s + 2 - half, s + 1), tf.where(is_full, 0, place + 1)
    return s, place, filled, text_BS, cache

  loop = (tf.constant(0), tf.constant(0), tf.convert_to_tensor(prompt), text_BS, cache)
  text_BS = tf.while_loop(lambda s, place, filled, *_: filled < total, body, loop)[3]
  return text_BS[:, prompt:]


def _logits_at(outputs: Any, place: tf.Tensor) -> tf.Tensor:
  """Logits of one place, float32 [B, V], out of those of all, or of what they are products of."""
  if not isinstance(outputs, dict):
    return tf.cast(tf.gather(outputs, place, axis=1), tf.float32)
  hidden, table_VD = outputs['hidden'], outputs['table']  # [chunks, B, T / chunks, D]
  each = hidden.shape[2]
  hidden_BD = tf.cast(tf.gather(tf.gather(hidden, place // each), place % each, axis=1), tf.float32)
  return tf.matmul(hidden_BD, tf.cast(table_VD, tf.float32), transpose_b=True)


def _drawn(
  logits_BV: tf.Tensor, temperature: float, top_k: int, top_p: float, seeds: tf.Tensor, place: tf.Tensor
) -> tf.Tensor:
  """One token of each row, int32 [B]."""
  if not temperature:
    return tf.argmax(logits_BV, axis=1, output_type=tf.int32)
  if top_k:
    least = tf.math.top_k(logits_BV, min(top_k, logits_BV.shape[1])).values[:, -1:]
    logits_BV = tf.where(logits_BV < least, float('-inf'), logits_BV)
  if top_p < 1:
    # Those before which less than top_p has been given away: at least one.
    sorted_BV = tf.sort(logits_BV, axis=1, direction='DESCENDING')
    before_BV = tf.cumsum(tf.nn.softmax(sorted_BV / temperature), axis=1, exclusive=True)
    least = tf.reduce_min(tf.where(before_BV < top_p, sorted_BV, float('inf')), axis=1, keepdims=True)
    logits_BV = tf.where(logits_BV < least, float('-inf'), logits_BV)

  def uniform(row: tf.Tensor) -> tf.Tensor:
    folded = tf.random.experimental.stateless_fold_in(row, tf.cast(place, tf.int64))
    return tf.random.stateless_uniform([logits_BV.shape[1]], folded, minval=1e-7)

  # The largest of logits and Gumbel noise is a draw from their softmax (Maddison et al., A* Sampling, 2014).
  noise_BV = -tf.math.log(-tf.math.log(tf.map_fn(uniform, seeds, fn_output_signature=tf.float32)))
  return tf.argmax(logits_BV / temperature + noise_BV, axis=1, output_type=tf.int32)
