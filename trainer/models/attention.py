"""Attention of several heads, between the dense layers that make queries, keys and values: Vaswani et al., 2017.

Dimensions: B batch, T places of queries, S places of keys, D model width, N heads, M heads of keys and values, K width
of a head.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.models import blockwise, remat

# A score that no softmax sees; float16, which has no such number, takes its smallest.
_NEVER = -1e30


@keras.saving.register_keras_serializable('trainer')
class Attention(keras.layers.Layer):
  """Scaled dot-product attention (Vaswani et al., section 3.2).

  Products are computed in the layer's dtype, the softmax in float32: in bfloat16 a row of 197 shares does not add up
  to 1. With fewer heads of keys and values each serves a group of queries (Ainslie et al., GQA, 2023).
  """

  def __init__(
    self,
    heads: int,
    *,
    kv_heads: int = 0,
    causal: bool = False,
    scale: bool = True,
    rotary_base: float = 0.0,
    dropout: float = 0.0,
    blocks: bool = False,
    **kwargs: Any,
  ):
    """Args:
    heads: N, which share the width of a query.
    kv_heads: M, a divisor of N; 0: N.
    causal: a query looks at keys up to its own place only.
    scale: scores are divided by the square root of K; T5 leaves that to its initialisation.
    rotary_base: queries and keys are turned by their place (`rotated`) with this base; 0: they are not.
    dropout: share of the shares that are dropped.
    blocks: holds the scores of a block of keys at a time (blockwise.py); without dropout and bias.
    """
    super().__init__(**kwargs)
    self.heads, self.kv_heads, self.causal, self.scale = heads, kv_heads or heads, causal, scale
    self.rotary_base, self.dropout, self.blocks = rotary_base, dropout, blocks
    assert not (blocks and dropout), 'blockwise attention drops nothing'
    self.compiled_by_xla = False  # parts.compiled
    self._drop = keras.layers.Dropout(dropout, name='dropout') if dropout else None

  def call(
    self,
    inputs: list[tf.Tensor],
    key_mask: tf.Tensor | None = None,
    bias: tf.Tensor | None = None,
    training: bool = False,
  ) -> tf.Tensor:
    """Queries look at keys.

    Args:
      inputs: query [B, T, N K], key and value [B, S, M K]; head n has the numbers [n K, (n + 1) K) of a place.
      key_mask: bool [B, S], which keys may be looked at; None: all.
      bias: [1 or B, N, T, S], what is added to the scores.
      training: whether to drop shares.

    Returns:
      [B, T, N K].
    """
    query, key, value = self._heads(inputs)
    if self.blocks:
      assert bias is None
      query, key, value = self._ready(query, key, value)
      mixed_BTNK = blockwise.attention(query, key, value, key_mask, self.causal, self.compiled_by_xla and training)
      return self._joined(mixed_BTNK)
    return self._mixed(query, key, value, self._allowed(query, key, key_mask), bias, training)

  def shares(
    self, inputs: list[tf.Tensor], key_mask: tf.Tensor | None = None, bias: tf.Tensor | None = None
  ) -> tf.Tensor:
    """How much of each key's value a query takes, with nothing dropped, and held all at once whatever `blocks` says.

    Args:
      inputs: as in `call`.
      key_mask: as in `call`.
      bias: as in `call`.

    Returns:
      float32 [B, N, T, S]; the shares of a query add up to 1.
    """
    query, key, value = self._heads(inputs)
    allowed = self._allowed(query, key, key_mask)
    query, key, _ = self._ready(query, key, value)
    return tf.nn.softmax(tf.cast(_scores(query, key, allowed, bias), tf.float32))

  def step(
    self, inputs: list[tf.Tensor], cache: tuple[tf.Tensor, tf.Tensor], place: tf.Tensor
  ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """One place of causal self-attention, where keys and values of the earlier places are kept.

    Args:
      inputs: query [B, 1, N K], key and value [B, 1, M K], of this place.
      cache: keys and values [B, S, M, K]; those of `place` and later ones are not looked at.
      place: int32, below S.

    Returns:
      [B, 1, N K], and the cache with this place in it.
    """
    query, key, value = (self._split(part, n) for part, n in zip(inputs, self._parts, strict=True))
    if self.rotary_base:
      query, key = (rotated(part, place[tf.newaxis], self.rotary_base) for part in (query, key))
    places = tf.range(cache[0].shape[1])
    here = (places == place)[:, tf.newaxis, tf.newaxis]
    keys, values = (tf.where(here, new, old) for new, old in zip((key, value), cache, strict=True))
    return self._mixed(query, keys, values, places <= place, None, False), (keys, values)

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape[0]

  def get_config(self) -> dict[str, Any]:
    own = {
      name: getattr(self, name) for name in ('heads', 'kv_heads', 'causal', 'scale', 'rotary_base', 'dropout', 'blocks')
    }
    return {**super().get_config(), **own}

  @property
  def _parts(self) -> tuple[int, int, int]:
    return self.heads, self.kv_heads, self.kv_heads

  def _split(self, part_BTD: tf.Tensor, heads: int) -> tf.Tensor:
    """[B, T, N K] -> [B, T, N, K]."""
    places, width = part_BTD.shape[1:]
    return tf.reshape(part_BTD, [-1, places, heads, width // heads])

  def _heads(self, inputs: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Queries, keys and values by heads, turned by their places where they are to be."""
    query, key, value = (self._split(part, n) for part, n in zip(inputs, self._parts, strict=True))
    if self.rotary_base:
      query, key = (rotated(part, tf.range(part.shape[1]), self.rotary_base) for part in (query, key))
    return query, key, value

  def _allowed(self, query: tf.Tensor, key: tf.Tensor, key_mask: tf.Tensor | None) -> tf.Tensor | None:
    """Which keys a query may look at: bool that broadcasts to [B, N, T, S]; None: all."""
    allowed = None if key_mask is None else key_mask[:, tf.newaxis, tf.newaxis, :]
    if self.causal:
      # Hidden, or the mask would be a constant of T S bytes in the compiled program, three times for each layer.
      places_S = remat.apart(tf.range(key.shape[1]), self.compiled_by_xla)
      past = tf.range(query.shape[1])[:, tf.newaxis] >= places_S
      allowed = past if allowed is None else allowed & past
    return allowed

  def _mixed(
    self,
    query_BTNK: tf.Tensor,
    key_BSMK: tf.Tensor,
    value_BSMK: tf.Tensor,
    allowed: tf.Tensor | None,
    bias: tf.Tensor | None,
    training: bool,
  ) -> tf.Tensor:
    """[B, T, N K]; `allowed` is bool and broadcast to [B, N, T, S]."""
    query_BTNK, key_BSNK, value_BSNK = self._ready(query_BTNK, key_BSMK, value_BSMK)
    scores_BNTS = _scores(query_BTNK, key_BSNK, allowed, bias)
    drop = self._drop if training else None
    return self._joined(_mixed(scores_BNTS, value_BSNK, drop, self.compiled_by_xla and training))

  def _ready(self, query_BTNK: tf.Tensor, key_BSMK: tf.Tensor, value_BSMK: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The query scaled, keys and values for each head."""
    if self.kv_heads != self.heads:
      group = self.heads // self.kv_heads
      key_BSMK, value_BSMK = (tf.repeat(part, group, axis=2) for part in (key_BSMK, value_BSMK))
    return query_BTNK * query_BTNK.shape[-1] ** -0.5 if self.scale else query_BTNK, key_BSMK, value_BSMK

  def _joined(self, mixed_BTNK: tf.Tensor) -> tf.Tensor:
    """[B, T, N, K] -> [B, T, N K]."""
    return tf.reshape(mixed_BTNK, [-1, mixed_BTNK.shape[1], self.heads * mixed_BTNK.shape[-1]])


def _scores(query_BTNK: tf.Tensor, key_BSNK: tf.Tensor, allowed: tf.Tensor | None, bias: tf.Tensor | None) -> tf.Tensor:
  """What the softmax is taken of, [B, N, T, S]: in the dtype of the products, or with a bias in float32."""
  scores_BNTS = tf.einsum('btnk,bsnk->bnts', query_BTNK, key_BSNK)
  if bias is not None:
    scores_BNTS = tf.cast(scores_BNTS, tf.float32) + tf.cast(bias, tf.float32)
  return scores_BNTS if allowed is None else tf.where(allowed, scores_BNTS, max(_NEVER, float(scores_BNTS.dtype.min)))


def _mixed(scores_BNTS: tf.Tensor, value_BSNK: tf.Tensor, drop: keras.layers.Dropout | None, xla: bool) -> tf.Tensor:
  """softmax(scores) value, [B, T, N, K], of which the gradient keeps the shares in the dtype of the values.

  The sum of a row of shares times their gradients is that of the result times its own (Dao et al., FlashAttention,
  2022, section B.4), dropped or not; so the gradient of a score is a product and what is done to it at once.

  Args:
    scores_BNTS: float32, or in the dtype of the values.
    value_BSNK: values for each head.
    drop: drops shares; None: nothing does.
    xla: whether XLA compiles the gradient; it would keep the scores in float32.
  """
  dtype = value_BSNK.dtype

  @tf.custom_gradient
  def mixed(scores: tf.Tensor, value: tf.Tensor) -> Any:
    shares = tf.cast(_in_short(scores) if xla else tf.nn.softmax(tf.cast(scores, tf.float32)), dtype)
    signed = _signed(shares, drop) if drop and xla else None
    dropped = drop(shares, training=True) if drop and not xla else shares

    def left_and_all() -> tuple[tf.Tensor, tf.Tensor]:
      return (dropped, shares) if signed is None else _of_signed(signed, drop)

    result = tf.einsum('bnts,bsnk->btnk', left_and_all()[0], value)

    def gradient(upstream: tf.Tensor) -> Any:
      left, shares = left_and_all()
      through_BTN = tf.reduce_sum(tf.cast(upstream, tf.float32) * tf.cast(result, tf.float32), axis=-1)
      through_BNT1 = tf.transpose(through_BTN, [0, 2, 1])[..., tf.newaxis]
      by_left = tf.cast(tf.einsum('btnk,bsnk->bnts', upstream, value), tf.float32)
      by_score = tf.cast(left, tf.float32) * by_left - tf.cast(shares, tf.float32) * through_BNT1
      # Written once, or XLA would make it of what it is made of in each of the two products that read it.
      by_score = remat.apart(tf.cast(by_score, scores.dtype), xla)
      return by_score, tf.einsum('bnts,btnk->bsnk', left, upstream)

    return result, gradient

  return mixed(scores_BNTS, value_BSNK)


def _signed(shares: tf.Tensor, drop: keras.layers.Dropout) -> tf.Tensor:
  """Shares, the dropped ones negative. For XLA, which else would keep both them and what dropping leaves of them."""
  stays = drop(tf.ones_like(shares), training=True) > 0
  return remat.apart(tf.where(stays, shares, -shares), True)


def _of_signed(signed: tf.Tensor, drop: keras.layers.Dropout) -> tuple[tf.Tensor, tf.Tensor]:
  """What dropping left of the shares, and the shares; made anew wherever they are read."""
  signed = remat.apart(signed, True)
  return tf.nn.relu(signed) * tf.cast(1 / (1 - drop.rate), signed.dtype), tf.abs(signed)


def _in_short(scores: tf.Tensor) -> tf.Tensor:
  """The softmax for XLA: it reads scores that it has written in their dtype, which it else would keep in float32."""
  largest = tf.cast(tf.reduce_max(scores, axis=-1, keepdims=True), tf.float32)
  shares = tf.exp(tf.cast(remat.apart(scores, True), tf.float32) - largest)
  return shares / tf.reduce_sum(shares, axis=-1, keepdims=True)


def rotated(x_BTNK: tf.Tensor, places_T: tf.Tensor, base: float) -> tf.Tensor:
  """Rotary positions: Su et al., RoFormer, 2021, section 3.2; numbers k and k + K / 2 are turned together, as in Llama.

  Args:
    x_BTNK: queries or keys.
    places_T: int, the places of the T.
    base: the pairs turn by 1 to nearly 1 / base radians from place to place.
  """
  half = x_BTNK.shape[-1] // 2
  frequency_K = base ** (-tf.range(half, dtype=tf.float32) / half)
  angle_TK = tf.cast(places_T, tf.float32)[:, tf.newaxis] * frequency_K
  cos, sin = (tf.cast(f(angle_TK), x_BTNK.dtype)[:, tf.newaxis, :] for f in (tf.cos, tf.sin))
  first, second = tf.split(x_BTNK, 2, axis=-1)
  return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)
