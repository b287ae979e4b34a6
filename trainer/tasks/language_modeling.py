"""The next token of a text: causal language modeling on packed tokens (trainer/data/packing.py).

The loss is the mean over tokens, in nats. Beside it stand perplexity and bits per byte, the entropy of the text itself,
which does not depend on how it is cut into tokens.

Dimensions: B batch, T places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least
from trainer.tasks import sampling
from trainer.tasks.base import Call, Examples
from trainer.tasks.packed_tokens import PackedTokens


def _share(value: float) -> str:
  return '' if 0 < value <= 1 else 'must be above 0 and at most 1'


FIELDS: dict[str, Field] = {
  'prompt_tokens': Field(0, 'mode predict: tokens of an example that are gone on from; 0: half of them', at_least(0)),
  'new_tokens': Field(256, 'mode predict: tokens that are written', at_least(1)),
  'temperature': Field(0.8, 'mode predict: what logits are divided by before a draw; 0: the likeliest', at_least(0)),
  'top_k': Field(0, 'mode predict: one of so many likeliest tokens is drawn; 0: of all', at_least(0)),
  'top_p': Field(
    1.0, 'mode predict: one of the likeliest tokens that together have this probability is drawn; 1: of all', _share
  ),
  'cache': Field(
    True,
    'mode predict: the model keeps what it computed for earlier tokens; False: all is computed again for each token, '
    'which any model can',
  ),
}  # fmt: skip


class LanguageModeling(PackedTokens):
  """Language modeling on one packed set."""

  own_outputs = ('written',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`.

    Raises:
      ConfigError: the set is not packed, or no room is left behind the prompt.
    """
    del examples
    super().__init__(config, features, saved, 'bits_per_byte', 'perplexity', 'accuracy')
    self._fields, self._seed = config.task, config.seed
    if config.task.prompt_tokens >= self.length:
      raise ConfigError(
        f'task.prompt_tokens={config.task.prompt_tokens} leaves none of data.pack_tokens={self.length} to write: '
        'lower it'
      )

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """Packed tokens -> 'inputs' int32 [T]; 'targets' int32 [T], the token behind each, -1 where there is none."""
    tokens, count = self.row(features)
    targets = tf.where(tf.range(self.length) < count, tokens[1:], -1)
    return {'inputs': tf.ensure_shape(tokens[:-1], [self.length]), 'targets': tf.ensure_shape(targets, [self.length])}

  def wanted(self, batch: Mapping[str, Any]) -> tf.Tensor:
    return batch['targets']

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> Any:
    """The beginning of each example, and how the model goes on: int32 [B, P], [B, new_tokens]."""
    return self.on_ids(call, self._prompt(batch['inputs']), batch['index'])

  def ids_of(self, tokens: np.ndarray) -> np.ndarray:
    """All of it, to be gone on from."""
    return tokens

  def asked(self, features: Mapping[str, Any]) -> Any:
    return self._prompt(features['tokens'][:-1])

  def _prompt(self, ids: Any) -> Any:
    return ids[..., : self._fields.prompt_tokens or (self.length + 1) // 2]

  def on_ids(self, call: Call, prompt_BP: tf.Tensor, numbers_B: tf.Tensor) -> dict[str, tf.Tensor]:
    """'prompt' int32 [B, P], and how the model goes on, 'written' int32 [B, new_tokens]; see sampling.py."""
    fields = self._fields
    written = sampling.go_on(
      call,
      prompt_BP,
      context=self.length,
      count=fields.new_tokens,
      temperature=fields.temperature,
      top_k=fields.top_k,
      top_p=fields.top_p,
      keeps=fields.cache,
      seed=self._seed,
      numbers=numbers_B,
    )
    return {'prompt': prompt_BP, 'written': written}

  def wording(self) -> dict[str, dict[str, Any]]:
    pieces = [b'\n\n' if i == self.vocabulary.end else piece for i, piece in enumerate(self.vocabulary.pieces)]
    latin = [piece.decode('latin-1') for piece in pieces]
    return {'written': {'pieces': latin, 'encoding': 'latin-1', 'joint': '', 'ends': []}}

  def readable(self, prediction: Any) -> dict[str, Any]:
    return {name: self.vocabulary.text(prediction[name]) for name in ('prompt', 'written')}


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> LanguageModeling:
  """See `trainer.tasks.create`."""
  return LanguageModeling(config, features, examples, saved)
