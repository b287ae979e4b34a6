"""From one text to another: spelling to phonemes, a sentence to its translation.

The model is taught with the true target up to each place, and says what comes next; the loss is the mean over the
symbols of a target, its end included, and each symbol counts alike. What it writes by itself is found by beam search,
and held against the reference by edits.

Ids of both sides are below `units`, the larger of the two vocabularies, so that a model needs no size but that.

Dimensions: B batch, S places of the source, T places of the target, V units, N examples of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction, one_of
from trainer.report.gallery import Part
from trainer.tasks import beam, edits, vocabulary
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet
from trainer.tasks.vocabulary import END, PADDING

# Examples that are looked at for texts that are too long, and the share of them from which on that is said.
_LOOKED_AT = 10_000
_MANY = 0.01

FIELDS: dict[str, Field] = {
  'source': Field('auto', 'text that the model reads; auto: the only one beside the target', fixed=True),
  'target': Field('auto', 'text that it writes; auto: the only one beside the source', fixed=True),
  'source_vocabulary': Field('characters', 'symbols of the source', one_of(*vocabulary.KINDS), fixed=True),
  'target_vocabulary': Field('characters', 'symbols of the target', one_of(*vocabulary.KINDS), fixed=True),
  'shared_vocabulary': Field(False, 'one vocabulary for both, learnt from both', fixed=True),
  'vocabulary_size': Field(0, 'most entries of a vocabulary, the most frequent; 0: all', at_least(0), fixed=True),
  'source_length': Field(64, 'symbols of a source that are seen; more are cut off', at_least(1), fixed=True),
  'target_length': Field(64, 'symbols of a target, its end included; more are cut off', at_least(1), fixed=True),
  'label_smoothing': Field(0.0, 'share of the target that is spread evenly over all symbols', fraction, fixed=True),
  'beam': Field(1, 'hypotheses side by side when a target is written; 1: always the likeliest symbol', at_least(1)),
  'length_penalty': Field(
    0.0, 'log-probabilities are divided by ((5 + length) / 6) to this power; 0: not', at_least(0)
  ),
  'cache': Field(
    True,
    'the model keeps what it computed for earlier symbols; False: all is computed again for each symbol, which any '
    'model can, at target_length times the cost of a forward pass',
  ),
}  # fmt: skip


class SymbolAccuracy(MetricSet):
  """How often the likeliest symbol is right, after the true ones before it; the state is (right, all), float32 [2]."""

  size = 2
  names = ('token_accuracy',)

  def __init__(self) -> None:
    self.modes = {'token_accuracy': 'max'}

  def values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    weight_B1 = tf.cast(batch['weight'], tf.float32)[:, tf.newaxis]
    weight_BT = tf.where(batch['targets'] != PADDING, weight_B1, 0.0)
    right_BT = tf.argmax(outputs, axis=-1, output_type=tf.int32) == batch['targets']
    return tf.stack([tf.reduce_sum(tf.where(right_BT, weight_BT, 0.0)), tf.reduce_sum(weight_BT)])

  def results(self, totals: np.ndarray) -> dict[str, float]:
    assert totals.shape == (self.size,)
    return {'token_accuracy': float(totals[0] / totals[1]) if totals[1] else float('nan')}


class Seq2Seq(Task):
  """Sequence to sequence on two texts of one dataset."""

  prediction_modes = edits.MODES
  references = ('reference',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    self._fields = fields = config.task
    self._source, self._target = _pick(fields, features)
    self.given = self._source
    self._vocabularies = self._learn(examples, saved)
    self.units = max(each.size for each in self._vocabularies)
    self.input_spec = {
      'source': tf.TensorSpec((fields.source_length,), tf.int32),
      'target': tf.TensorSpec((fields.target_length,), tf.int32),
    }
    self.metrics = SymbolAccuracy()
    if examples is not None and saved is None:
      self._say_what_is_cut(examples)

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """Two texts -> 'inputs' {'source' int32 [S], 'target' int32 [T]}, 'targets' int32 [T].

    The targets end with END, if they are not cut off before; as inputs they are shifted by one place, with PADDING in
    the first.
    """
    source, target = self._ids(features)
    target = tf.concat([target, [END]], axis=0)
    return {
      'inputs': {
        'source': _filled(source, self._fields.source_length),
        'target': _filled(tf.concat([[PADDING], target[:-1]], axis=0), self._fields.target_length),
      },
      'targets': _filled(target, self._fields.target_length),
    }

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """Cross-entropy, the mean over the symbols of a target; against a softened target with `label_smoothing`."""
    targets_BT, logits_BTV = batch['targets'], tf.cast(outputs, tf.float32)
    losses_BT = tf.nn.sparse_softmax_cross_entropy_with_logits(targets_BT, logits_BTV)
    if self._fields.label_smoothing:
      even_BT = tf.reduce_logsumexp(logits_BTV, axis=-1) - tf.reduce_mean(logits_BTV, axis=-1)
      losses_BT += self._fields.label_smoothing * (even_BT - losses_BT)
    there_BT = targets_BT != PADDING
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(there_BT, losses_BT, 0.0), axis=1), _count(there_BT))

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    """A target counts as many times as it has symbols."""
    return tf.cast(batch['weight'], tf.float32) * _count(batch['targets'] != PADDING)

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """What the model writes by itself: 'hypothesis' int32 [B, T] and its 'score' [B], with 'source' and 'reference'.

    With `cache` a symbol costs one place of the decoder for each hypothesis, and its attention to the earlier places
    and to the source; else a forward pass.
    """
    source_BS, width, length = batch['inputs']['source'], self._fields.beam, self._fields.target_length
    search = {'beam': width, 'length': length, 'penalty': self._fields.length_penalty}
    count = tf.shape(source_BS)[0]
    if self._fields.cache:
      given = call({'source': source_BS})
      memory, cache = tf.nest.map_structure(
        lambda each: tf.repeat(each, width, axis=0), (given['memory'], given['cache'])
      )

      def step(cache: Any, last: tf.Tensor, ids: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, Any]:
        found = call({'memory': memory, 'cache': cache, 'token': last, 'place': place})
        return found['logits'], found['cache']
    else:
      sources, cache = tf.repeat(source_BS, width, axis=0), ()

      def step(cache: Any, last: tf.Tensor, ids: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, Any]:
        shifted = tf.pad(ids[:, :-1], [[0, 0], [1, 0]], constant_values=PADDING)
        return tf.gather(call({'source': sources, 'target': shifted}), place, axis=1), cache

    ids_BT, score_B = beam.search(step, cache, count, **search)
    return {'source': source_BS, 'reference': batch['targets'], 'hypothesis': ids_BT, 'score': score_B}

  def prediction_results(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Errors per source: examples of the same source are several right answers, of which the nearest one counts."""
    hypotheses, references = (
      np.where(predictions[name] == END, PADDING, predictions[name]) for name in ('hypothesis', 'reference')
    )
    _, source_N = np.unique(predictions['source'], axis=0, return_inverse=True)
    order = np.lexsort((edits.distances(hypotheses, references), source_N))
    nearest = order[np.unique(source_N[order], return_index=True)[1]]
    return edits.errors(hypotheses[nearest], references[nearest])

  def readable(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
    source, target = self._vocabularies
    return {
      'source': source.text(prediction['source']),
      'hypothesis': target.text(prediction['hypothesis']),
      'reference': target.text(prediction['reference']),
      'score': float(prediction['score']),
    }

  def wording(self) -> dict[str, dict[str, Any]]:
    return {'hypothesis': self._vocabularies[1].wording(), 'source': self._vocabularies[0].wording()}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    source, target = self._vocabularies
    parts = [Part(self._source, 'text', source.text(example['inputs']['source']))]
    if 'targets' in example:
      parts.append(Part(self._target, 'text', target.text(example['targets'])))
    return parts

  def state(self) -> dict[str, Any]:
    source, target = self._vocabularies
    state = {'source': self._source, 'target': self._target, 'source_vocabulary': source.state()}
    return state if source is target else {**state, 'target_vocabulary': target.state()}

  def _learn(self, examples: Examples, saved: Mapping | None) -> tuple[vocabulary.Vocabulary, vocabulary.Vocabulary]:
    """The vocabularies of source and target; the same one twice if it is shared."""
    fields, names = self._fields, (self._source, self._target)

    def make(side: str, *wanted: str) -> vocabulary.Vocabulary:
      field = f'{side}_vocabulary'

      def texts() -> tf.data.Dataset:
        assert examples is not None
        rows = examples().map(
          lambda row: tf.stack([row[name] for name in wanted]), tf.data.AUTOTUNE, deterministic=True
        )
        return rows.unbatch()

      kind = vocabulary.KINDS[fields[field]]
      return kind(None if examples is None else texts, saved and saved[field], fields.vocabulary_size)

    if not fields.shared_vocabulary:
      return make('source', names[0]), make('target', names[1])
    if fields.source_vocabulary != fields.target_vocabulary:
      raise ConfigError(
        f'task.shared_vocabulary needs one kind, not task.source_vocabulary={fields.source_vocabulary!r} and '
        f'task.target_vocabulary={fields.target_vocabulary!r}: set both alike, or task.shared_vocabulary=False'
      )
    shared = make('source', *names)
    return shared, shared

  def _ids(self, features: Mapping[str, Any]) -> list[tf.Tensor]:
    """Ids of source and target as long as they are, int32 [n] each."""
    names = (self._source, self._target)
    return [side.ids(features[name]) for side, name in zip(self._vocabularies, names, strict=True)]

  def _say_what_is_cut(self, examples: Any) -> None:
    """Warns where many texts of the training split are longer than what is seen of them."""
    sizes = (
      examples()
      .take(_LOOKED_AT)
      .map(lambda row: tf.stack([tf.size(ids) for ids in self._ids(row)]), tf.data.AUTOTUNE, deterministic=True)
    )
    source_N, target_N = np.array([*sizes.as_numpy_iterator()], np.int64).reshape(-1, 2).T
    for side, name, size in (('source', self._source, source_N), ('target', self._target, target_N + 1)):
      most = self._fields[f'{side}_length']
      share = float(np.mean(size > most)) if len(size) else 0.0
      if share > _MANY:
        logging.warning(
          '%.1f%% of the texts %r are longer than task.%s_length=%d and cut off; 99%% have at most %d symbols',
          100 * share, name, side, most, np.percentile(size, 99),
        )  # fmt: skip


def _pick(fields: Any, features: Mapping[str, Any]) -> tuple[str, str]:
  """The names of source and target."""
  texts = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
  source = inputs_lib.pick('task.source', fields.source, _beside(texts, fields.target), features, 'a text to read')
  return source, inputs_lib.pick('task.target', fields.target, _beside(texts, source), features, 'a text to write')


def _beside(names: list[str], other: str) -> list[str]:
  return [name for name in names if name != other]


def _filled(ids: tf.Tensor, length: int) -> tf.Tensor:
  """The first ids, and PADDING behind them, int32 [length]."""
  ids = ids[:length]
  return tf.ensure_shape(tf.pad(ids, [[0, length - tf.shape(ids)[0]]], constant_values=PADDING), [length])


def _count(there_BT: tf.Tensor) -> tf.Tensor:
  return tf.math.count_nonzero(there_BT, axis=1, dtype=tf.float32)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Seq2Seq:
  """See `trainer.tasks.create`."""
  return Seq2Seq(config, features, examples, saved)
