"""What tasks on packed tokens (trainer/data/packing.py) share: a loss and metrics that are means over tokens.

Dimensions: B batch, T places, V vocabulary.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.report.gallery import Part
from trainer.tasks import token_loss
from trainer.tasks.base import Call, Task
from trainer.tasks.metrics import MetricSet
from trainer.tokens import BYTES, Vocabulary


class Said(NamedTuple):
  """What a model says of the tokens of a batch.

  Attributes:
    targets: int32 [B, T], the token that each place is to give, -1 where none is.
    nats: float32 [B, T], its cross-entropy; where none is, that of token 0.
    right: bool [B, T], whether it is likelier than any other token.
  """

  targets: tf.Tensor
  nats: tf.Tensor
  right: tf.Tensor


class TokenErrors(MetricSet):
  """Perplexity, bits per byte and accuracy of tokens, for which a tie for the likeliest counts as wrong.

  The state is float32 [4]: tokens, nats, tokens that are right, and bytes that they stand for.
  """

  size = 4

  def __init__(self, said: Callable[[Any, Mapping[str, Any]], Said], lengths: np.ndarray, *names: str) -> None:
    """Args:
    said: as `PackedTokens.said`.
    lengths: float32 [V], bytes of each token.
    *names: which of 'bits_per_byte', 'perplexity' and 'accuracy'; the first says which checkpoint is best.
    """
    self._said, self._lengths, self.names = said, lengths, names
    self.modes = {name: 'max' if name == 'accuracy' else 'min' for name in names}

  def values(self, outputs: Any, batch: Mapping[str, Any]) -> tf.Tensor:
    said = self._said(outputs, batch)
    targets_BT = said.targets
    counts_BT = (targets_BT >= 0) & (batch['weight'] > 0)[:, tf.newaxis]
    sums = [
      tf.reduce_sum(tf.where(counts_BT, part, 0.0))
      for part in (
        tf.ones_like(targets_BT, tf.float32),
        said.nats,
        tf.cast(said.right, tf.float32),
        tf.gather(self._lengths, tf.maximum(targets_BT, 0)),
      )
    ]
    return tf.stack(sums)

  def results(self, totals: np.ndarray) -> dict[str, float]:
    tokens, nats, right, count = totals.tolist()
    if not tokens:
      return dict.fromkeys(self.names, math.nan)
    found = {
      'bits_per_byte': nats / math.log(2) / count if count else math.nan,
      # Beyond that it is infinite for all that anybody wants of it, and exp raises.
      'perplexity': math.exp(min(nats / tokens, 700.0)),
      'accuracy': right / tokens,
    }
    return {name: found[name] for name in self.names}


class PackedTokens(Task):
  """A task whose examples are packed tokens, int32 [T + 1], of which all but one are inputs.

  Attributes:
    vocabulary: of the tokens.
    own_outputs: what of `on_ids` the model itself says.
  """

  vocabulary: Vocabulary
  given = 'tokens'
  own_outputs: tuple[str, ...]

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    features: Mapping[str, Any],
    saved: Mapping[str, Any] | None,
    *metrics: str,
    around: tuple[int, int] = (0, 0),
  ):
    """Args:
    config: the run's.
    features: of the dataset.
    saved: `state` of an earlier attempt, or None.
    *metrics: see TokenErrors.
    around: how many ids the model has before those of the vocabulary, and behind them.

    Raises:
      ConfigError: the set is not packed, or its vocabulary is another than it was.
    """
    if 'tokens' not in features or 'count' not in features:
      raise ConfigError(
        f'task.name={config.task.name!r} learns from packed tokens, and the data have {", ".join(features)}: set '
        'data.pack_tokens to the length of a text that the model sees'
      )
    self.length = features['tokens'].shape[0] - 1
    self.input_spec = tf.TensorSpec((self.length,), tf.int32)
    self.vocabulary = getattr(features['tokens'], 'vocabulary', BYTES)
    if saved and saved != self.state():
      raise ConfigError(
        f'the vocabulary of the packed set ({self.vocabulary.name}) is not the one that this run began with: put back '
        'the set that it was trained on, or start in an empty workdir'
      )
    lengths = np.pad(self.vocabulary.lengths, around)
    self.units = len(lengths)
    self.metrics = TokenErrors(self.said, lengths, *metrics)
    self._last: tuple[Any, Any, Said] | None = None

  def row(self, features: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """(tokens int32 [T + 1], how many of them stand behind another one, int32 []: from 1 to T) of a raw example."""
    tokens, count = (tf.cast(features[name], tf.int32) for name in ('tokens', 'count'))
    return tokens, tf.clip_by_value(count, 1, self.length)

  @abc.abstractmethod
  def ids_of(self, tokens: np.ndarray) -> np.ndarray:
    """The tokens of a text, int32 [n], as a model is asked of it: int32 [P]."""

  @abc.abstractmethod
  def asked(self, features: Mapping[str, Any]) -> Any:
    """What of a raw example `predictions` asks the model, int32 [P]."""

  @abc.abstractmethod
  def on_ids(self, call: Call, ids_BP: tf.Tensor, numbers_B: tf.Tensor) -> dict[str, tf.Tensor]:
    """Predictions, as `readable` takes them, of texts that are given as ids alone; draws depend on their numbers."""

  @abc.abstractmethod
  def wanted(self, batch: Mapping[str, Any]) -> tf.Tensor:
    """The token that each place is to give, int32 [B, T]; -1 where none is."""

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    return tf.cast(batch['weight'], tf.float32) * _count(self.wanted(batch))

  def said(self, outputs: Any, batch: Mapping[str, Any]) -> Said:
    """Loss and metrics of the same outputs share what they are made of, which is most of the work of a small model."""
    if self._last is None or self._last[0] is not outputs or self._last[1] is not batch:
      targets_BT = self.wanted(batch)
      self._last = outputs, batch, Said(targets_BT, *_nats_and_right(outputs, targets_BT))
    return self._last[2]

  def losses(self, outputs: Any, batch: Mapping[str, Any]) -> tf.Tensor:
    """The mean over the wanted tokens of each example, nats, float32 [B]."""
    said = self.said(outputs, batch)
    nats_BT = tf.where(said.targets >= 0, said.nats, 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(nats_BT, axis=1), _count(said.targets))

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    return [Part('text', 'text', self.vocabulary.text(example['inputs']))]

  def state(self) -> dict[str, Any]:
    return {'vocabulary': self.vocabulary.state(), 'length': self.length}


def _nats_and_right(outputs: Any, targets_BT: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Cross-entropy of each token, float32 [B, T], and whether it is the likeliest; of a target of -1 those of token 0.

  Args:
    outputs: logits [B, T, V], or what they are products of (trainer/models/gpt.py).
    targets_BT: int32.
  """
  targets_BT = tf.maximum(targets_BT, 0)
  if isinstance(outputs, dict):
    hidden, table = outputs['hidden'], outputs['table']
    chunks, width = hidden.shape[0], hidden.shape[-1]
    # In the order of the hidden states, [chunks, B, T / chunks], and back.
    targets = tf.stack(tf.split(targets_BT, chunks, axis=1))
    found = token_loss.of_products(tf.reshape(hidden, [chunks, -1, width]), table, tf.reshape(targets, [chunks, -1]))
    nats_BT, right_BT = (tf.concat(tf.unstack(tf.reshape(each, tf.shape(targets))), axis=1) for each in found)
    return nats_BT, right_BT
  logits_NV = tf.reshape(tf.cast(outputs, tf.float32), [-1, outputs.shape[-1]])
  found = token_loss.of_logits(logits_NV, tf.reshape(targets_BT, [-1]))
  nats_BT, right_BT = (tf.reshape(each, tf.shape(targets_BT)) for each in found)
  return nats_BT, right_BT


def _count(targets_BT: tf.Tensor) -> tf.Tensor:
  return tf.math.count_nonzero(targets_BT >= 0, axis=1, dtype=tf.float32)
