"""The likelihood of a transcript under all its alignments: Graves et al., Connectionist Temporal Classification, 2006.

The forward algorithm of section 4.1 in the log domain, two sums for each character of the transcript and each frame.
`tf.nn.ctc_loss` has a kernel for sparse labels that XLA does not compile; for dense labels it goes through a matrix of
all pairs of states in each frame, which a long transcript does not allow, and gives NaN where a recording is too short.

Dimensions: B batch, S frames, L characters, V symbols.
"""

from __future__ import annotations

import tensorflow as tf

# The logarithm of no chance; finite, so that no gradient is NaN.
_NEVER = -1e30
# More nats than any alignment costs that there is.
IMPOSSIBLE = 1e20


def negative_log_likelihoods(
  logits_BSV: tf.Tensor, frames_B: tf.Tensor, symbols_BL: tf.Tensor, count_B: tf.Tensor, blank: int
) -> tf.Tensor:
  """Nats of each transcript, float32 [B].

  Args:
    logits_BSV: of each symbol in each frame.
    frames_B: int, frames of each recording, at most S; those behind are not looked at.
    symbols_BL: int, the transcripts, filled up with any symbol.
    count_B: int, characters of each transcript, at most L.
    blank: the symbol that is no character.

  Returns:
    The negative log-likelihoods; above IMPOSSIBLE where there are fewer frames than characters, and blanks between
    equal ones.
  """
  logs_BSV = tf.nn.log_softmax(tf.cast(logits_BSV, tf.float32))
  frames, most = logits_BSV.shape[1], symbols_BL.shape[1]
  logs_SBL = tf.transpose(tf.gather(logs_BSV, symbols_BL, axis=2, batch_dims=1), [1, 0, 2])
  blanks_SB1 = tf.transpose(logs_BSV[:, :, blank : blank + 1], [1, 0, 2])
  heard_SB1 = (tf.range(frames)[:, tf.newaxis] < frames_B)[:, :, tf.newaxis]
  # From a character to the next without a blank; not between equal ones, which would be one.
  direct_BL = tf.pad(symbols_BL[:, 1:] != symbols_BL[:, :-1], [[0, 0], [1, 0]])

  def frame(
    before: tuple[tf.Tensor, tf.Tensor], now: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Logarithms of the chance of having said the first characters, the last sound being the l-th character, [B, L], or
    the blank behind the first l, [B, L + 1]."""
    (said_BL, silent), (logs_BL, blank_B1, heard_B1) = before, now
    last = tf.pad(said_BL, [[0, 0], [1, 0]], constant_values=_NEVER)
    skipped_BL = tf.where(direct_BL, last[:, :-1], _NEVER)
    said = tf.reduce_logsumexp(tf.stack([said_BL, silent[:, :-1], skipped_BL]), axis=0) + logs_BL
    still = tf.reduce_logsumexp(tf.stack([silent, last]), axis=0) + blank_B1
    return tf.where(heard_B1, said, said_BL), tf.where(heard_B1, still, silent)

  never_BL = tf.fill(tf.shape(symbols_BL), _NEVER)
  first = never_BL, tf.pad(never_BL, [[0, 0], [1, 0]])  # nothing said yet is certain
  said_BL, silent = tf.foldl(frame, (logs_SBL, blanks_SB1, heard_SB1), first)
  ends = tf.range(most + 1) == count_B[:, tf.newaxis]
  last = tf.pad(said_BL, [[0, 0], [1, 0]], constant_values=_NEVER)
  return -tf.reduce_logsumexp(tf.where(ends, tf.stack([silent, last]), _NEVER), axis=[0, 2])
