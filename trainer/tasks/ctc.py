"""What is said in a recording, letter by letter: Graves et al., Connectionist Temporal Classification, 2006.

The model gives logits of every symbol for each of its frames, the blank among them, and the loss is that of all the
ways to say the transcript (section 4.1 of the paper). It is counted per character: the loss of an example is its
negative log-likelihood over its characters, and its weight is their number. What the model hears is cut to a static
length; a recording or transcript that is cut is left out of the loss. Errors are those of the likeliest symbol of each
frame (section 3.2, best path decoding), without a language model.

Dimensions: B batch, N examples, T frames heard, S frames of the model, L characters, V symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError
from trainer.fields import Field, at_least
from trainer.report.gallery import Part
from trainer.tasks import audio, ctc_loss, edits, specaugment
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Call, Examples, Task
from trainer.tasks.metrics import MetricSet

FIELDS: dict[str, Field] = {
  **audio.FIELDS,
  **specaugment.FIELDS,
  'transcript': Field('auto', 'feature that is learnt; auto: the only text', fixed=True),
  'lowercase': Field(True, 'transcripts are learnt and judged in lower case', fixed=True),
  'characters': Field('', 'what transcripts are made of; empty: what is in those of the training split', fixed=True),
  'max_characters': Field(64, 'of the longest transcript', at_least(1), fixed=True),
}

# Symbols that are no character of the vocabulary: what fills up transcripts and is no sound, and any other character.
_BLANK = 0
_UNKNOWN = '\N{REPLACEMENT CHARACTER}'
# Of synthetic input.
_ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


class Ctc(Task):
  """Recordings to texts."""

  references = ('reference',)

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
  ):
    """See `trainer.tasks.create`."""
    fields = config.task
    fitting = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
    self._transcript = inputs_lib.pick('task.transcript', fields.transcript, fitting, features, 'a text')
    self._lowercase, self._most, self._fields = fields.lowercase, fields.max_characters, fields
    self._mel = audio.LogMel(fields, features, examples, saved and saved['inputs'])
    self.given, self.rate = self._mel.name, self._mel.rate
    if saved is not None:
      characters = saved['characters']
    elif fields.characters or examples is None:
      characters = sorted(set(fields.characters or _ALPHABET))
    else:
      characters = self._found(examples)
    # By their codes, so that a character is looked up by bisection.
    self._codes = np.array([ord(character) for character in characters], np.int32)
    self._characters = [*characters, _UNKNOWN]
    self.input_spec = {
      'frames': tf.TensorSpec((self._mel.frames, self._mel.bins), tf.float32),
      'length': tf.TensorSpec((), tf.int32),
    }
    self.units = 1 + len(self._characters)
    self.activation = 'softmax'
    self.draws = specaugment.draws(fields)
    self.metrics = MetricSet({}, _no_view, np.zeros([0]), {})
    words = {'word_error': 'min'} if ' ' in characters else {}
    self.prediction_modes = MappingProxyType({**edits.MODES, **words})

  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """A recording -> 'inputs': 'frames' float32 [T, F] and how many are heard, 'length' int32 []; 'targets': 'symbols'
    int32 [L], 0 behind the end, how many 'characters' it has, int32 [], and whether all is 'whole', bool []."""
    frames, length, heard = self._mel(features)
    symbols = self._symbols(features)
    count = tf.size(symbols)
    symbols = tf.pad(symbols[: self._most], [[0, tf.maximum(self._most - count, 0)]])
    targets = {
      'symbols': tf.ensure_shape(symbols, [self._most]),
      'characters': count,
      'whole': heard & (count <= self._most),
    }
    return {'inputs': {'frames': frames, 'length': length}, 'targets': targets}

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """Changes the recordings; see the base class and specaugment.py."""
    if not self.draws:
      return dict(batch)
    inputs = batch['inputs']
    frames, length = specaugment.frames(self._fields, self._mel, inputs['frames'], inputs['length'], draws)
    return {**batch, 'inputs': {'frames': frames, 'length': length}}

  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """Nats per character; 0 where a recording has too few frames for its transcript (no gradient comes of it)."""
    targets = batch['targets']
    count_B = tf.minimum(targets['characters'], self._most)
    nats_B = ctc_loss.negative_log_likelihoods(
      outputs, self._lengths(outputs, batch), targets['symbols'], count_B, _BLANK
    )
    return tf.where(nats_B < ctc_loss.IMPOSSIBLE, nats_B / tf.cast(tf.maximum(count_B, 1), tf.float32), 0.0)

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    """An example counts as often as it has characters; one that was cut not at all."""
    targets = batch['targets']
    count_B = tf.where(targets['whole'], tf.maximum(targets['characters'], 1), 0)
    return super().weights(batch) * tf.cast(count_B, tf.float32)

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> Any:
    """int32: 'path' [B, S], the symbols said, each in the frame where it begins, else 0; 'symbols' and 'characters',
    the reference."""
    best_BS = tf.argmax(outputs, axis=-1, output_type=tf.int32)
    before_BS = tf.pad(best_BS[:, :-1], [[0, 0], [1, 0]], constant_values=_BLANK)
    heard_BS = tf.range(outputs.shape[1]) < self._lengths(outputs, batch)[:, tf.newaxis]
    path_BS = tf.where(heard_BS & (best_BS != before_BS), best_BS, _BLANK)
    targets = batch['targets']
    return {'path': path_BS, 'symbols': targets['symbols'], 'characters': targets['characters']}

  def prediction_results(self, predictions: Any) -> dict[str, float]:
    """Errors of characters, of transcripts, and of words if there is a space among the characters.

    Raises:
      ConfigError: a transcript of the evaluation split was cut, so that errors against it would be other errors.
    """
    longest = int(predictions['characters'].max(initial=0))
    if longest > self._most:
      raise ConfigError(
        f'the evaluation split has a transcript of {longest} characters: set task.max_characters={longest} or more, '
        f'not {self._most}'
      )
    hypotheses, references = predictions['path'], predictions['symbols']
    results = edits.errors(hypotheses, references, _BLANK)
    if 'word_error' in self.prediction_modes:
      texts = [[self._text(row) for row in rows] for rows in (hypotheses, references)]
      results['word_error'] = edits.word_error(*texts)
    return results

  def readable(self, prediction: Any) -> dict[str, Any]:
    return {'text': self._text(prediction['path']), 'reference': self._text(prediction['symbols'])}

  def wording(self) -> dict[str, dict[str, Any]]:
    return {'path': {'pieces': ['', *self._characters], 'encoding': 'utf-8', 'joint': '', 'ends': []}}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    parts = self._mel.look(example['inputs']['frames'][: int(example['inputs']['length'])])
    if 'targets' in example:
      parts.append(Part('transcript', 'text', self._text(example['targets']['symbols'])))
    return parts

  def hear(self, features: Mapping[str, Any]) -> list[Part]:
    return self._mel.hear(features)

  def state(self) -> dict[str, Any]:
    return {
      'inputs': self._mel.state(),
      'transcript': self._transcript,
      'characters': self._characters[:-1],
    }

  def _lengths(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """Frames of the model, of T / S frames each, that hold the recording: int32 [B]."""
    each = -(-self._mel.frames // outputs.shape[1])
    return -(-batch['inputs']['length'] // each)

  def _decoded(self, features: Mapping[str, Any]) -> tf.Tensor:
    """Codes of a transcript's characters, int32 [any]."""
    text = features[self._transcript]
    return tf.strings.unicode_decode(tf.strings.lower(text, 'utf-8') if self._lowercase else text, 'UTF-8')

  def _symbols(self, features: Mapping[str, Any]) -> tf.Tensor:
    """A transcript, int32 [any]: 1 and up for the characters by their codes, the last for one that is not known."""
    codes = self._decoded(features)
    place = tf.searchsorted(self._codes, codes)
    known = tf.gather(self._codes, tf.minimum(place, len(self._codes) - 1)) == codes
    return tf.where(known, place, len(self._codes)) + 1

  def _found(self, examples: Any) -> list[str]:
    found: set[int] = set()
    for codes in examples().map(self._decoded, tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator():
      found.update(codes.tolist())
    if not found:
      raise ConfigError(f'the transcripts {self._transcript!r} of the training split are empty: set task.characters')
    return [chr(code) for code in sorted(found)]

  def _text(self, symbols: np.ndarray) -> str:
    return ''.join(self._characters[symbol - 1] for symbol in symbols.tolist() if symbol != _BLANK)


def _no_view(name: str, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """There is no metric that is a sum over examples."""
  raise AssertionError(name)


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> Ctc:
  """See `trainer.tasks.create`."""
  return Ctc(config, features, examples, saved)
