"""A text as the bag of its n-grams: Joulin et al., Bag of Tricks for Efficient Text Classification, 2017 (fastText).

Runs of 1 to n symbols, with a mark before the first symbol and one behind the last, each have a vector (Bojanowski et
al., Enriching Word Vectors with Subword Information, 2017, section 3.2); a text is their mean. Runs share vectors by a
hash, a polynomial modulo a prime.

Dimensions: B batch, T places, G runs of all lengths, D width of a vector.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.fields import Field, at_least, fraction
from trainer.models import parts

_BASE = 257
# With it, a hash times the base stays an int32.
_MOST = 2**31 // _BASE - 1


def _is_prime(number: int) -> bool:
  return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _check_vectors(number: int) -> str:
  return '' if _is_prime(number) and _BASE < number <= _MOST else f'must be a prime above {_BASE} and up to {_MOST}'


FIELDS: dict[str, Field] = {
  'longest': Field(5, 'symbols of the longest run', at_least(1), fixed=True),
  'vectors': Field(131_071, 'vectors that the runs share, a prime', _check_vectors, fixed=True),
  'width': Field(32, 'numbers of a vector', at_least(1), fixed=True),
  'run_dropout': Field(0.0, 'share of the runs of a text that are left out', fraction),
  'dropout': Field(0.0, 'share dropped of the mean', fraction),
}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Integers [B, T], 0 behind the end -> vectors of runs -> mean -> outputs.

  Raises:
    ConfigError: the inputs are not integers, or shorter than a run.
  """
  inputs = parts.inputs('ngrams', input_spec, rank=1)
  if 'int' not in inputs.dtype:
    raise ConfigError(f"model.name='ngrams' takes symbols, not {inputs.dtype}: take another task or model")
  if inputs.shape[1] + 2 < fields.longest:
    raise ConfigError(
      f'model.longest={fields.longest} is more than a text of {inputs.shape[1]} symbols and its two marks: lower it'
    )
  runs, there = Runs(fields.longest, fields.vectors, name='runs')(inputs)
  x = keras.layers.Embedding(
    fields.vectors, fields.width, keras.initializers.RandomUniform(-1 / fields.width, 1 / fields.width), name='vectors'
  )(runs)
  if fields.run_dropout:
    x = keras.layers.Dropout(fields.run_dropout, noise_shape=(None, None, 1), name='runs_dropout')(x)
  x = parts.MaskedMean(name='mean')([x, there])
  if fields.dropout:
    x = keras.layers.Dropout(fields.dropout, name='dropout')(x)
  return keras.Model(inputs, parts.head(units)(x), name='ngrams')


@keras.saving.register_keras_serializable('trainer')
class Runs(keras.layers.Layer):
  """Which vector each run of a text has, integers [B, T] -> int32 [B, G]; and which runs are there, bool [B, G].

  A run is there if all its symbols are, but for one mark at its begin or end.
  """

  def __init__(self, longest: int, vectors: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.longest, self.vectors = longest, vectors

  def call(self, ids_BT: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    marked = tf.pad(tf.cast(ids_BT, tf.int32), [[0, 0], [1, 1]])
    real = tf.cast(marked != 0, tf.int32)
    found, there = [], []
    for length in range(1, self.longest + 1):
      count = marked.shape[1] - length + 1
      # Runs of different length begin apart.
      run, symbols = tf.zeros_like(marked[:, :count]) + length, tf.zeros_like(real[:, :count])
      for place in range(length):
        run = (run * _BASE + marked[:, place : place + count]) % self.vectors
        symbols += real[:, place : place + count]
      found.append(run)
      there.append(symbols >= max(length - 1, 1))
    return tf.concat(found, axis=1), tf.concat(there, axis=1)

  def covers(self, ids_T: np.ndarray) -> np.ndarray:
    """Which share of each run is each symbol, float64 [G, T]: equal parts of those that are there.

    Args:
      ids_T: integers, of one text.
    """
    length = len(ids_T)
    rows = []
    for run in range(1, self.longest + 1):
      starts = np.arange(length + 3 - run)[:, np.newaxis]  # among the marked places, the first of which is a mark
      places = np.arange(length) + 1
      rows.append((places >= starts) & (places < starts + run) & (ids_T != 0))
    covered = np.concatenate(rows).astype(np.float64)
    return covered / np.maximum(covered.sum(axis=1, keepdims=True), 1.0)

  def compute_output_spec(self, ids_BT: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    places = ids_BT.shape[1] + 2
    runs = sum(places - length + 1 for length in range(1, self.longest + 1))
    return keras.KerasTensor((ids_BT.shape[0], runs), 'int32'), keras.KerasTensor((ids_BT.shape[0], runs), 'bool')

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'longest': self.longest, 'vectors': self.vectors}
