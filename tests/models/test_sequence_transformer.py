"""The transformer over sequences: padding that nobody sees, shapes, saving, and the same numbers under XLA."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_models import build
from trainer.errors import ConfigError

SYMBOLS, VECTORS = tf.TensorSpec((9,), tf.int32), tf.TensorSpec((9, 4), tf.float32)
SMALL = {'layers': 2, 'width': 8, 'heads': 2}


def symbols(seed=0):
  tokens = np.random.default_rng(seed).integers(1, 11, (4, 9)).astype(np.int32)
  tokens[0, 5:], tokens[1] = 0, 0
  return tokens


def test_parameters():
  block = 4 * 9 * 8 + 9 * 32 + 33 * 8 + 4 * 8
  ends = 9 * 8 + 2 * 8 + 9 * 3
  assert build('sequence_transformer', SYMBOLS, vocabulary=11, **SMALL).count_params() == 11 * 8 + 2 * block + ends
  assert build('sequence_transformer', VECTORS, **SMALL).count_params() == 5 * 8 + 2 * block + ends


def test_padding_changes_nothing():
  """A shorter sequence in a model of its own length, with the same weights."""
  long = build('sequence_transformer', SYMBOLS, vocabulary=11, **SMALL)
  short = build('sequence_transformer', tf.TensorSpec((5,), tf.int32), vocabulary=11, **SMALL)
  short.set_weights([w[:, :5] if w.shape == (1, 9, 8) else w for w in long.get_weights()])
  tokens = symbols()[:1]
  np.testing.assert_allclose(long(tokens), short(tokens[:, :5]), rtol=1e-5, atol=1e-6)


def test_places_matter():
  model = build('sequence_transformer', SYMBOLS, vocabulary=11, **SMALL)
  positions = model.get_layer('positions').positions_1TD
  positions.assign(np.random.default_rng(0).normal(size=positions.shape))
  tokens = symbols()[2:3]
  assert np.abs(model(tokens) - model(tokens[:, ::-1])).max() > 1e-3


@pytest.mark.parametrize('summary', ['mean', 'all'])
@pytest.mark.parametrize(('spec', 'changes'), [(SYMBOLS, {'vocabulary': 11}), (VECTORS, {})])
def test_xla_and_saving_change_nothing(spec, changes, summary, tmp_path):
  model = build('sequence_transformer', spec, summary=summary, **SMALL, **changes)
  batch = symbols() if changes else np.random.default_rng(0).normal(size=(4, 9, 4)).astype(np.float32)
  outputs = model(batch, training=False)
  assert np.isfinite(outputs).all()  # an empty text among them
  jitted = tf.function(lambda x: model(x, training=False), jit_compile=True)(batch)
  np.testing.assert_allclose(jitted, outputs, rtol=1e-4, atol=1e-5)
  model.save(tmp_path / 'model.keras')
  again = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(again(batch, training=False), outputs)


@pytest.mark.parametrize(
  ('spec', 'changes', 'words'),
  [
    (SYMBOLS, {}, 'takes inputs with 2 dimensions, not (9,)'),
    (VECTORS, {'vocabulary': 5}, 'takes inputs with 1 dimensions'),
    (SYMBOLS, {'vocabulary': 5, 'heads': 3}, 'model.heads=3 does not divide model.width=8'),
  ],
)
def test_what_does_not_fit_is_named(spec, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build('sequence_transformer', spec, **{**SMALL, **changes})
  assert '\n' not in str(caught.value)
