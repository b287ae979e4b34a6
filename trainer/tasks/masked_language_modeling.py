"""Tokens that are hidden in a text: Devlin et al., BERT, 2019, section 3.1, on packed tokens (trainer/data/packing.py).

Of the places a share is chosen, each by itself; of those 80 % are hidden, 10 % show another token, 10 % their own. What
was there is to be said at the chosen places, and the loss is the mean over them, in nats. In training the places are
drawn anew each epoch. In an evaluation they are a function of the text alone, so the same on every topology, each time.

Ids of the inputs and outputs: 0 is padding, a token is one more than in its vocabulary, and the last is the mask.

Dimensions: B batch, T places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from trainer.fields import Field
from trainer.report.gallery import Part
from trainer.tasks.base import Call, Examples
from trainer.tasks.packed_tokens import PackedTokens

_HIDDEN, _ANOTHER = 0.8, 0.9
_GAP = b'_'


def _share(value: float) -> str:
  return '' if 0 < value < 1 else 'must be above 0 and below 1'


FIELDS: dict[str, Field] = {'masked_share': Field(0.15, 'share of the places that are to be said', _share)}


class MaskedLanguageModeling(PackedTokens):
  """Masked language modeling on one packed set."""

  own_outputs = ('said',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`.

    Raises:
      ConfigError: the set is not packed.
    """
    del examples
    super().__init__(config, features, saved, 'perplexity', 'accuracy', around=(1, 1))
    self.mask = self.units - 1
    self._share = config.task.masked_share
    self.draws = self.length
    # Two sums of the tokens, each times a number of its place, name a text.
    self._factors = np.random.default_rng(0).integers(1, 2**31, (2, self.length))

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """Packed tokens -> 'inputs' int32 [T]; 'targets': 'ids' int32 [T], what is there, and 'uniform' float32 [T] in
    [0, 1), which says what becomes of each place."""
    tokens, count = self.row(features)
    ids = tf.ensure_shape(tf.where(tf.range(self.length) <= count, tokens[:-1] + 1, 0), [self.length])
    name = tf.reduce_sum(tf.cast(ids, tf.int64) * self._factors, axis=1)
    targets = {'ids': ids, 'uniform': tf.random.stateless_uniform([self.length], name)}
    return {'inputs': self._shown(targets), 'targets': targets}

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """Other places: the numbers of the text are turned round by the draws."""
    # Each is a multiple of 2^-24 or coarser; half a turn first, so that nothing is lost to rounding where both are 0.5.
    turned = (batch['targets']['uniform'] + (draws + 0.5) % 1.0) % 1.0
    targets = {**batch['targets'], 'uniform': turned}
    return {**batch, 'inputs': self._shown(targets), 'targets': targets}

  def wanted(self, batch: Mapping[str, Any]) -> tf.Tensor:
    ids = batch['targets']['ids']
    return tf.where(self._chosen(batch['targets']), ids, -1)

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> Any:
    """Ids, int32 [B, T]: what each example has been 'shown' with, what is 'said' at each place, and what is 'read':
    that at the chosen places, and what is there at the others."""
    said = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    read = tf.where(self._chosen(batch['targets']), said, batch['targets']['ids'])
    return {'shown': batch['inputs'], 'said': said, 'read': read}

  def ids_of(self, tokens: np.ndarray) -> np.ndarray:
    """The first T, an underscore hidden, and padding behind them."""
    gap = self.vocabulary.pieces.index(_GAP)
    ids = np.where(tokens == gap, self.mask, tokens + 1)[: self.length]
    return np.pad(ids, (0, self.length - len(ids))).astype(np.int32)

  def asked(self, features: Mapping[str, Any]) -> Any:
    return self.example(features)['inputs']

  def on_ids(self, call: Call, ids_BT: tf.Tensor, numbers_B: tf.Tensor) -> dict[str, tf.Tensor]:
    """As `predictions`, with what is hidden alone chosen."""
    said = tf.argmax(call(ids_BT), axis=-1, output_type=tf.int32)
    return {'shown': ids_BT, 'said': said, 'read': tf.where(ids_BT == self.mask, said, ids_BT)}

  def wording(self) -> dict[str, dict[str, Any]]:
    latin = ['', *(piece.decode('latin-1') for piece in self.vocabulary.pieces), _GAP.decode()]
    return {'said': {'pieces': latin, 'encoding': 'latin-1', 'joint': '', 'ends': []}}

  def readable(self, prediction: Any) -> dict[str, Any]:
    """Both as texts, what is hidden as an underscore."""
    return {name: self._text(prediction[name]) for name in ('shown', 'read')}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = [Part('shown', 'text', self._text(example['inputs']))]
    if 'targets' in example:
      parts.append(Part('text', 'text', self._text(example['targets']['ids'])))
    return parts

  def _text(self, ids: Iterable[int]) -> str:
    """The text of ids, a hidden one as an underscore."""
    gap = self.vocabulary.pieces.index(_GAP)
    return self.vocabulary.text([gap if i == self.mask else i - 1 for i in map(int, ids) if i])

  def _chosen(self, targets: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Which places are to be said, bool [..., T]."""
    return (targets['ids'] > 0) & (targets['uniform'] < self._share)

  def _shown(self, targets: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The ids that the model sees, int32 [..., T]."""
    ids, part = targets['ids'], targets['uniform'] / self._share
    number = tf.cast((part - _HIDDEN) / (_ANOTHER - _HIDDEN) * len(self.vocabulary), tf.int32)
    another = 1 + tf.clip_by_value(number, 0, len(self.vocabulary) - 1)
    hidden = tf.where(part < _HIDDEN, self.mask, tf.where(part < _ANOTHER, another, ids))
    return tf.where(self._chosen(targets), hidden, ids)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> MaskedLanguageModeling:
  """See `trainer.tasks.create`."""
  return MaskedLanguageModeling(config, features, examples, saved)
