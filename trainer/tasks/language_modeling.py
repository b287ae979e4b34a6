"""The next token of a text: causal language modeling on packed tokens (trainer/data/packing.py).

The loss is the mean over tokens, in nats. Beside it stand perplexity and bits per byte, the entropy of the text itself,
which does not depend on how it is cut into tokens.

Dimensions: B batch, T places, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least
from trainer.tasks import sampling
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet
from trainer.tokens import END, VOCABULARY, text

FIELDS: dict[str, Field] = {
  'prompt_tokens': Field(0, 'mode predict: tokens of an example that are gone on from; 0: half of them', at_least(0)),
  'new_tokens': Field(256, 'mode predict: tokens that are written', at_least(1)),
  'temperature': Field(0.8, 'mode predict: what logits are divided by before a draw; 0: the likeliest', at_least(0)),
  'top_k': Field(0, 'mode predict: one of so many likeliest tokens is drawn; 0: of all', at_least(0)),
}  # fmt: skip


class TokenErrors(MetricSet):
  """Perplexity, bits per byte and accuracy of the next token.

  The state is float32 [4]: tokens, nats, tokens that are right, and bytes that they stand for.
  """

  size = 4
  names = ('perplexity', 'bits_per_byte', 'accuracy')

  def __init__(self) -> None:
    self.modes = {'bits_per_byte': 'min', 'perplexity': 'min', 'accuracy': 'max'}

  def values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    targets_BT = batch['targets']
    counts_BT = (targets_BT >= 0) & (batch['weight'] > 0)[:, tf.newaxis]
    right_BT = tf.argmax(outputs, axis=-1, output_type=targets_BT.dtype) == targets_BT
    sums = [
      tf.reduce_sum(tf.where(counts_BT, part, 0.0))
      for part in (
        tf.ones_like(targets_BT, tf.float32),
        _nats(outputs, targets_BT),
        tf.cast(right_BT, tf.float32),
        tf.cast(targets_BT != END, tf.float32),
      )
    ]
    return tf.stack(sums)

  def results(self, totals: np.ndarray) -> dict[str, float]:
    tokens, nats, right, count = totals.tolist()
    if not tokens:
      return dict.fromkeys(self.names, math.nan)
    bits = nats / math.log(2) / count if count else math.nan
    # Beyond that it is infinite for all that anybody wants of it, and exp raises.
    perplexity = math.exp(min(nats / tokens, 700.0))
    return {'perplexity': perplexity, 'bits_per_byte': bits, 'accuracy': right / tokens}


class LanguageModeling(Task):
  """Language modeling on one packed set."""

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`.

    Raises:
      ConfigError: the set is not packed.
    """
    del examples, saved
    if 'tokens' not in features or 'count' not in features:
      raise ConfigError(
        f"task.name='language_modeling' learns from packed tokens, and the data have {', '.join(features)}: set "
        'data.pack_tokens to the length of a text that the model sees'
      )
    self._length = features['tokens'].shape[0] - 1
    self.input_spec = tf.TensorSpec((self._length,), tf.int32)
    self.units = VOCABULARY
    self.metrics = TokenErrors()
    self._fields, self._seed = config.task, config.seed
    if config.task.prompt_tokens >= self._length:
      raise ConfigError(
        f'task.prompt_tokens={config.task.prompt_tokens} leaves none of data.pack_tokens={self._length} to write: '
        'lower it'
      )

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """Packed tokens -> 'inputs' int32 [T]; 'targets' int32 [T], the token behind each, -1 where there is none."""
    tokens, count = tf.cast(features['tokens'], tf.int32), tf.cast(features['count'], tf.int32)
    count = tf.clip_by_value(count, 1, self._length)
    targets = tf.where(tf.range(self._length) < count, tokens[1:], -1)
    return {'inputs': tf.ensure_shape(tokens[:-1], [self._length]), 'targets': tf.ensure_shape(targets, [self._length])}

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    return tf.cast(batch['weight'], tf.float32) * _count(batch['targets'])

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """The mean over the tokens of each example, nats, float32 [B]."""
    targets_BT = batch['targets']
    nats_BT = tf.where(targets_BT >= 0, _nats(outputs, targets_BT), 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(nats_BT, axis=1), _count(targets_BT))

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> Any:
    """The beginning of each example, and how the model goes on: int32 [B, P], [B, new_tokens]."""
    fields = self._fields
    prompt_BP = batch['inputs'][:, : fields.prompt_tokens or (self._length + 1) // 2]
    written = sampling.go_on(
      call,
      prompt_BP,
      context=self._length,
      count=fields.new_tokens,
      temperature=fields.temperature,
      top_k=fields.top_k,
      seed=self._seed,
      numbers=batch['index'],
    )
    return {'prompt': prompt_BP, 'written': written}

  def readable(self, prediction: Any) -> dict[str, Any]:
    return {name: text(prediction[name]) for name in ('prompt', 'written')}

  def state(self) -> dict[str, Any]:
    return {'tokenizer': 'bytes', 'length': self._length}


def _nats(outputs: tf.Tensor, targets_BT: tf.Tensor) -> tf.Tensor:
  """Cross-entropy of each token, float32 [B, T]; of a target of -1 that of token 0."""
  return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets_BT, 0), tf.cast(outputs, tf.float32))


def _count(targets_BT: tf.Tensor) -> tf.Tensor:
  return tf.math.count_nonzero(targets_BT >= 0, axis=1, dtype=tf.float32)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> LanguageModeling:
  """See `trainer.tasks.create`."""
  return LanguageModeling(config, features, examples, saved)
