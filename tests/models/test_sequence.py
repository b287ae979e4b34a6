"""Convolutions over sequences: shapes, patterns found wherever they stand, and the same numbers under XLA."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_models import build
from trainer.errors import ConfigError

BYTES = tf.TensorSpec((16,), tf.int32)
VECTORS = tf.TensorSpec((16, 4), tf.float32)
SMALL = {'channels': (6, 6, 8), 'embedding': 6, 'kernel_size': 3}


def test_shapes_and_parameters():
  model = build('sequence', BYTES, vocabulary=11, norm='none', **SMALL)
  shapes = [model.get_layer(f'stage{i}_conv1').output.shape for i in (1, 2, 3)]
  assert shapes == [(None, 16, 6), (None, 8, 6), (None, 4, 8)]
  assert model.count_params() == 11 * 6 + 2 * (3 * 6 + 1) * 6 + (3 * 6 + 1) * 8 + 9 * 3
  assert build('sequence', VECTORS, channels=(5,), norm='none', convs=2).count_params() == 21 * 5 + 26 * 5 + 6 * 3


@pytest.mark.parametrize('norm', ['none', 'batch', 'layer'])
@pytest.mark.parametrize('summary', ['max', 'mean', 'all'])
def test_xla_changes_nothing(norm, summary):
  model = build('sequence', BYTES, vocabulary=11, norm=norm, summary=summary, **SMALL)
  tokens = np.random.default_rng(0).integers(0, 11, (4, 16)).astype(np.int32)
  jitted = tf.function(lambda x: model(x, training=False), jit_compile=True)(tokens)
  np.testing.assert_allclose(jitted, model(tokens, training=False), rtol=1e-4, atol=1e-5)


def test_a_pattern_is_found_wherever_it_stands():
  model = build('sequence', BYTES, vocabulary=11, norm='none', channels=(8,), kernel_size=3)
  tokens = np.zeros((2, 16), np.int32)
  tokens[0, 3:6], tokens[1, 9:12] = (1, 2, 3), (1, 2, 3)
  outputs = model(tokens)
  np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('spec', 'changes', 'words'),
  [
    (tf.TensorSpec((8, 8, 1), tf.float32), {}, 'takes inputs with 2 dimensions, not (8, 8, 1)'),
    (VECTORS, {'vocabulary': 5}, 'takes inputs with 1 dimensions'),
    (BYTES, {'vocabulary': 5, 'channels': (2,) * 6}, 'name at most 5 stages'),
  ],
)
def test_inputs_that_do_not_fit_are_named(spec, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build('sequence', spec, **changes)
  assert '\n' not in str(caught.value)
