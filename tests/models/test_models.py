"""Every family builds, under names and weights that depend on the config and the seed alone."""

import re
from types import SimpleNamespace

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.errors import ConfigError
from trainer.models import parts

IMAGE = tf.TensorSpec((8, 8, 1), tf.float32)
SERIES = tf.TensorSpec((8, 2), tf.float32)
BATCH = 4
VARIANTS = [
  ('linear', {}),
  ('linear', {'l1': 0.1, 'l2': 0.2}),
  ('mlp', {}),
  ('mlp', {'hidden': ()}),
  *[('mlp', {'hidden': (6, 5), 'norm': norm, 'dropout': 0.5}) for norm in ('none', 'batch', 'sync_batch', 'layer')],
  *[('cnn', {'channels': (8, 16), 'norm': norm}) for norm in ('none', 'batch', 'sync_batch', 'group', 'layer')],
  ('cnn', {'channels': (4, 4, 8), 'residual': True, 'pooling': 'stride', 'norm': 'group'}),
  ('cnn', {'channels': (4, 8), 'residual': True, 'pooling': 'average'}),
  ('cnn', {'channels': (4,), 'convs': 3, 'reduction': 'flatten', 'hidden': (6, 5), 'dropout': 0.5, 'l2': 0.1}),
  ('resnet', {'depth': 18, 'width': 4}),
  ('resnet', {'depth': 50, 'width': 4, 'stem': 'image', 'norm': 'group', 'zero_scale': True, 'l2': 0.1}),
  ('vit', {'layers': 2, 'width': 8, 'heads': 2, 'patch_size': 4, 'dropout': 0.1, 'stochastic_depth': 0.5}),
  ('vit', {'layers': 1, 'width': 8, 'heads': 2, 'patch_size': 2, 'pooling': 'mean', 'positions': 'sincos'}),
]


def config(family, **changes):
  values = {name: field.default for name, field in models.fields(family).items()}
  return ml_collections.ConfigDict({'model': {'name': family, **values, **changes}})


def build(family, spec=IMAGE, units=3, seed=0, **changes):
  keras.utils.set_random_seed(seed)
  return models.build(config(family, **changes), spec, units)


@pytest.fixture
def policy():
  """Sets a precision policy for one test."""
  yield keras.config.set_dtype_policy
  keras.config.set_dtype_policy('float32')


def images(seed=0):
  return np.random.default_rng(seed).random((BATCH, 8, 8, 1), np.float32)


@pytest.mark.parametrize(('family', 'changes'), VARIANTS)
def test_outputs_are_raw_and_float32_under_every_policy(family, changes, policy):
  for name in ('float32', 'mixed_bfloat16', 'mixed_float16'):
    policy(name)
    model = build(family, **changes)
    outputs = model(images(), training=True)
    assert outputs.shape == (BATCH, 3)
    assert outputs.dtype == tf.float32
    assert np.all(np.isfinite(outputs))
    assert all(v.dtype == 'float32' for v in model.trainable_variables)
    assert model.get_layer('head').get_config().get('activation') == 'linear'


@pytest.mark.parametrize(('family', 'changes'), VARIANTS)
def test_paths_and_weights_depend_on_the_seed_alone(family, changes):
  first, other_seed = build(family, **changes), build(family, seed=1, **changes)
  again = build(family, **changes)
  paths = [v.path for v in first.weights]
  assert len(set(paths)) == len(paths)
  # A layer without a name is numbered by how many the process made before: the second model's would differ.
  assert paths == [v.path for v in again.weights]
  for one, two in zip(first.variables, again.variables, strict=True):
    np.testing.assert_array_equal(one, two)
  if family != 'linear':
    assert any(not np.array_equal(a, b) for a, b in zip(first.variables, other_seed.variables, strict=True))


@pytest.mark.parametrize(('family', 'norm'), [('mlp', n) for n in ('none', 'batch', 'sync_batch', 'layer')]
                         + [('cnn', n) for n in ('none', 'batch', 'sync_batch', 'group', 'layer')])  # fmt: skip
def test_only_batch_norms_look_at_other_examples(family, norm):
  model = build(family, norm=norm)
  alone, among = model(images()[:1], training=True), model(images(), training=True)[:1]
  assert np.allclose(alone, among, atol=1e-4) == ('batch' not in norm)


@pytest.mark.parametrize('name', parts.activations())
def test_every_activation_builds_and_is_used(name):
  model = build('mlp', hidden=(16,), activation=name)
  dense, head = model.get_layer('hidden1'), model.get_layer('head')
  hidden = keras.activations.get(name)(dense(images().reshape(BATCH, -1)))
  np.testing.assert_allclose(model(images()), head(hidden), rtol=1e-4, atol=1e-5)


def test_all_of_keras_activations_are_known_but_those_that_are_none():
  public = {n for n in dir(keras.activations) if not n.startswith('_')}
  assert public - set(parts.activations()) == {'deserialize', 'get', 'glu', 'serialize', 'threshold'}


def test_linear_is_linear_and_starts_at_zero():
  model = build('linear')
  np.testing.assert_array_equal(model(images()), np.zeros((BATCH, 3)))
  kernel, bias = model.trainable_variables
  kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
  bias.assign([1.0, 2.0, 3.0])
  expected = images().reshape(BATCH, -1) @ np.asarray(kernel) + np.asarray(bias)
  np.testing.assert_allclose(model(images()), expected, rtol=1e-5)


@pytest.mark.parametrize('shape', [(), (7,), (3, 4), (5, 5, 2)])
@pytest.mark.parametrize('family', ['linear', 'mlp'])
def test_flat_families_take_any_shape(family, shape):
  assert build(family, tf.TensorSpec(shape, tf.float32))(np.ones((BATCH, *shape))).shape == (BATCH, 3)


def test_penalties_are_those_of_the_kernels():
  model = build('cnn', channels=(4, 8), residual=True, hidden=(5,), l1=0.3, l2=0.2)
  kernels = [np.asarray(v) for v in model.trainable_variables if v.path.endswith('kernel')]
  assert len(kernels) == 8  # two stages of two convolutions and a shortcut; the hidden layer; the head
  expected = sum(0.3 * np.abs(k).sum() + 0.2 * (k**2).sum() for k in kernels)
  np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)
  assert not build('cnn').losses


def test_stages_halve_the_resolution_between_them():
  for pooling in ('max', 'average', 'stride'):
    model = build('cnn', channels=(4, 5, 6), pooling=pooling)
    shapes = [model.get_layer(f'stage{i}_conv2').output.shape for i in (1, 2, 3)]
    assert shapes == [(None, 8, 8, 4), (None, 4, 4, 5), (None, 2, 2, 6)]


def test_residual_adds_the_input_of_the_stage():
  model = build('cnn', tf.TensorSpec((8, 8, 4), tf.float32), channels=(4,), residual=True, norm='none')
  for variable in model.trainable_variables:
    if variable.path.startswith('stage1'):
      variable.assign(tf.zeros(variable.shape))
  features = np.random.default_rng(0).random((BATCH, 8, 8, 4), np.float32)
  expected = model.get_layer('head')(features.mean(axis=(1, 2)))
  np.testing.assert_allclose(model(features), expected, rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_only():
  for family in ('mlp', 'cnn'):
    model = build(family, dropout=0.5)
    assert np.array_equal(model(images()), model(images()))
    assert not np.allclose(model(images(), training=True), model(images(), training=True))
    assert not any('dropout' in layer.name for layer in build(family).layers)


def test_a_saved_model_is_the_same_model(tmp_path):
  model = build('cnn', channels=(4,), hidden=(5,), dropout=0.5)
  model.save(tmp_path / 'model.keras')
  loaded = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(loaded(images()), model(images()))
  assert [v.path for v in loaded.weights] == [v.path for v in model.weights]


@pytest.mark.parametrize(
  ('family', 'spec', 'changes', 'words'),
  [
    ('cnn', tf.TensorSpec((10,), tf.float32), {}, 'takes inputs with 3 dimensions, not (10,)'),
    ('cnn', IMAGE, {'channels': (1, 1, 1, 1, 1)}, 'name at most 4 stages'),
    ('mlp', {'b': IMAGE, 'a': IMAGE}, {}, "not ['a', 'b']"),
    ('linear', tf.TensorSpec((), tf.string), {}, 'takes numbers, not string'),
    ('mlp', tf.TensorSpec((None, 3), tf.float32), {}, 'needs inputs of one shape'),
  ],
)
def test_inputs_that_do_not_fit_are_named(family, spec, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(family, spec, **changes)
  assert '\n' not in str(caught.value)


def test_smallest_image_for_the_number_of_stages():
  assert build('cnn', channels=(2, 2, 2, 2)).get_layer('stage4_conv2').output.shape == (None, 1, 1, 2)


@pytest.mark.parametrize(
  ('family', 'field', 'value', 'words'),
  [
    ('mlp', 'activation', 'rellu', "did you mean 'relu'?"),
    ('mlp', 'activation', 'glu', 'is not an activation'),
    ('mlp', 'norm', 'group', 'must be one of none, batch, sync_batch, layer'),
    ('cnn', 'norm', 'sync_batc', "did you mean 'sync_batch'?"),
    ('cnn', 'channels', (), 'at least one stage'),
    ('cnn', 'channels', (8, 0), 'at least 1'),
    ('mlp', 'hidden', (8, 1.5), 'whole numbers'),
    ('mlp', 'dropout', 1.0, 'below 1'),
    ('linear', 'l2', -1.0, 'at least 0'),
    ('cnn', 'pooling', 'maxx', "did you mean 'max'?"),
  ],
)
def test_rules_complain_in_one_line(family, field, value, words):
  complaint = models.fields(family)[field].rule(value)
  assert words in complaint
  assert '\n' not in complaint


@pytest.mark.parametrize('family', sorted(models.FAMILIES))
def test_defaults_obey_their_rules(family):
  assert models.check_name(family) == ''
  for name, field in models.fields(family).items():
    assert not (field.rule and field.rule(field.default)), name


def test_unknown_family_is_named_with_the_nearest():
  assert "did you mean 'mlp'?" in models.check_name('mpl')
  with pytest.raises(ConfigError, match="did you mean 'linear'"):
    models.fields('linaer')
  with pytest.raises(ConfigError, match='unknown model'):
    models.build(SimpleNamespace(model=SimpleNamespace(name='no_such_family')), IMAGE, 3)


@pytest.mark.parametrize('padding', ['same', 'valid'])
@pytest.mark.parametrize(('size', 'stride'), [(3, 2), (2, 2), (3, 1), (2, 3)])
def test_pooling_by_comparisons_is_pooling(padding, size, stride):
  for shape in ((2, 7, 8, 3), (2, 6, 5, 1)):
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    results = []
    for kind in (keras.layers.MaxPooling2D, parts.MaxPooling):
      layer = kind(size, stride, padding)
      with tf.GradientTape() as tape:
        tape.watch(x)
        pooled = layer(x)
        total = tf.reduce_sum(pooled**2)
      assert layer.compute_output_shape(shape) == pooled.shape
      results.append((pooled, tape.gradient(total, x)))
    for ours, theirs in zip(*results, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_what_changes_a_shape_is_fixed():
  for family in ('cnn', 'linear', 'mlp', 'rnn', 'sequence'):
    spec = SERIES if family in ('rnn', 'sequence') else IMAGE
    shapes = [tuple(v.shape) for v in build(family, spec).variables]
    changes = {'hidden': (7,), 'channels': (5,), 'convs': 1, 'kernel_size': 5, 'residual': True, 'norm': 'layer'}
    changes |= {'reduction': 'flatten', 'cell': 'gru', 'bidirectional': True}
    for name, field in models.fields(family).items():
      if name in changes and [tuple(v.shape) for v in build(family, spec, **{name: changes[name]}).variables] != shapes:
        assert field.fixed, f'{family}.{name}'
