"""Conformer: its parts by the definition, and that nothing behind the end of a recording is heard."""

import re

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity
from trainer import models
from trainer.errors import ConfigError
from trainer.models import conformer
from trainer.models.attention import Attention

SMALL = {'blocks': 2, 'width': 16, 'heads': 2, 'kernel_size': 5, 'dropout': 0.0}


def build(frames=24, bands=8, units=5, length=True, **changes):
  values = {name: field.default for name, field in models.fields('conformer').items()}
  fields = {'name': 'conformer', **values, **SMALL, **changes}
  spec = tf.TensorSpec((frames, bands), tf.float32)
  spec = {'frames': spec, 'length': tf.TensorSpec((), tf.int32)} if length else spec
  return models.build(ml_collections.ConfigDict({'model': fields}), spec, units)


def recording(frames, filled, bands=8, seed=0):
  values = np.random.default_rng(seed).normal(size=(1, frames, bands)).astype(np.float32)
  return {'frames': np.pad(values, [[0, 0], [0, filled - frames], [0, 0]]), 'length': np.int32([frames])}


@pytest.mark.parametrize('subsampling', [1, 2, 4])
@pytest.mark.parametrize('summary', ['none', 'mean'])
def test_a_recording_has_the_same_outputs_however_far_it_is_filled_up(subsampling, summary):
  frames, heard = 10, -(-10 // subsampling)
  results = []
  for filled in (12, 24):
    model = build(filled, subsampling=subsampling, summary=summary)
    parity.fill(model)
    inputs = recording(frames, filled)
    if filled == 24:
      inputs['frames'][:, frames:] = 7.0  # what is not heard may be anything
    results.append(model(inputs).numpy())
    assert results[-1].shape == ((1, 5) if summary == 'mean' else (1, -(-filled // subsampling), 5))
  if summary == 'none':
    results = [result[:, :heard] for result in results]
  np.testing.assert_allclose(results[0], results[1], atol=1e-4)
  other = build(24, subsampling=subsampling, summary=summary)
  parity.fill(other)
  longer = {**recording(frames, 24), 'length': np.int32([frames + 5])}
  changed = other(longer).numpy()
  assert not np.allclose(changed[:, :heard] if summary == 'none' else changed, results[1], atol=1e-3)


def test_without_lengths_all_frames_are_heard():
  plain, whole = build(length=False), build()
  for model in (plain, whole):
    parity.fill(model)
  inputs = recording(24, 24)
  np.testing.assert_allclose(plain(inputs['frames']), whole(inputs), atol=1e-5)


def test_sizes_are_the_default_and_fields_go_before_them():
  model = build(blocks=0, width=0, heads=0)
  assert model.get_layer('block16_first_in').units == 4 * 144 and model.get_layer('block1_attention_core').heads == 4
  assert 'block17_norm' not in [layer.name for layer in model.layers]
  assert model.get_layer('block1_conv_depthwise').kernel_size == (5,)


def test_relative_positions_are_those_of_the_formula():
  """Scores (q_i + u) k_j + (q_i + v) r(i - j), one by one."""
  frames, heads, width = 6, 2, 8
  layer, random = conformer.RelativePositions(heads), np.random.default_rng(0)
  query, key, value = (random.normal(size=(3, frames, width)).astype(np.float32) for _ in range(3))
  layer(query)
  for variable in layer.weights:
    variable.assign(random.normal(size=variable.shape))
  u, v, kernel = (np.asarray(w) for w in (layer.content_D, layer.position_D, layer.kernel_DD))
  with_content, bias = layer(query)
  assert bias.shape == (3, heads, frames, frames)
  mixed = Attention(heads)([with_content, key, value], bias=bias).numpy()

  def encoded(distance):
    angle = distance * 10_000.0 ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)]) @ kernel

  for head in range(heads):
    part = slice(head * 4, head * 4 + 4)
    for i in range(frames):
      scores = np.array(
        [
          (query[0, i] + u)[part] @ key[0, j][part] + (query[0, i] + v)[part] @ encoded(i - j)[part]
          for j in range(frames)
        ]
      )
      shares = np.exp(scores / 2) / np.exp(scores / 2).sum()
      np.testing.assert_allclose(mixed[0, i, part], shares @ value[0][:, part], atol=1e-4)


@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_by_default_no_example_looks_at_another(norm):
  model = build(norm=norm)
  parity.fill(model)
  inputs = [recording(n, 24, seed=n) for n in (9, 24)]
  both = {name: np.concatenate([i[name] for i in inputs]) for name in inputs[0]}
  alone, among = model(inputs[0], training=True), model(both, training=True)[:1]
  assert np.allclose(alone, among, atol=1e-4) == (norm == 'layer')


def test_dropout_acts_in_training_only():
  model = build(dropout=0.5)
  inputs = recording(24, 24)
  np.testing.assert_array_equal(model(inputs), model(inputs))
  assert not np.allclose(model(inputs, training=True), model(inputs, training=True))


def test_paths_and_weights_depend_on_the_seed_alone():
  made = []
  for _ in range(2):
    keras.utils.set_random_seed(3)
    made.append(build())
  assert [v.path for v in made[0].weights] == [v.path for v in made[1].weights]
  for one, two in zip(made[0].weights, made[1].weights, strict=True):
    np.testing.assert_array_equal(one, two)


def test_a_saved_model_is_the_same_model(tmp_path):
  model = build()
  parity.fill(model)
  model.save(tmp_path / 'model.keras')
  loaded = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(loaded(recording(10, 24)), model(recording(10, 24)))
  assert [v.path for v in loaded.weights] == [v.path for v in model.weights]


@pytest.mark.parametrize(('policy', 'compiled'), [('float32', False), ('mixed_bfloat16', True)])
def test_it_compiles_and_learns(policy, compiled):
  keras.utils.set_random_seed(0)
  keras.config.set_dtype_policy(policy)
  try:
    model = build(summary='mean', blocks=1)
  finally:
    keras.config.set_dtype_policy('float32')
  parts = [recording(n, 24, seed=n) for n in (5, 9, 17, 24)]
  inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  labels = np.arange(4)
  step = learning.descent(model, inputs, labels, 0.1, compiled=compiled)
  losses = []
  for _ in range(12):
    loss, logits = step()
    losses.append(float(loss))
  assert logits.dtype == tf.float32
  assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'heads': 3}, 'model.width=16 is not an even number of times model.heads=3'),
    ({'subsampling': 3}, 'model.subsampling=3 is not a power of two'),
  ],
)
def test_what_does_not_fit_is_named(changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(**changes)
  assert '\n' not in str(caught.value)
  with pytest.raises(ConfigError, match="'conformer' takes inputs with 2 dimensions"):
    parity.build('conformer', (8, 8, 1))
