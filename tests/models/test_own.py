"""Models by import path: as tutorials write them, and what does not fit, named in one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import tutorials
from tests.models.test_models import build
from tests.train import small_run
from trainer import imports, models
from trainer.errors import ConfigError
from trainer.models import parts

# Keras' advice to tutorials.
pytestmark = pytest.mark.filterwarnings('ignore:Do not pass an .input_shape:UserWarning')

TUTORIALS = {
  'linear_regression': ((10,), 1, '', 11),
  'logistic_regression': ((30,), 1, 'sigmoid', 31),
  'feed_forward': ((8, 8, 1), 10, 'softmax', 65 * 64 + 65 * 10),
  'cnn': ((32, 32, 3), 10, 'softmax', 28 * 32 + 289 * 64 + 4 * 64 + (13 * 13 * 64 + 1) * 64 + 650),
  'lstm': ((10, 1), 1, '', 10451),
}


def own(name, shape=(4,), units=3, activation='softmax', module='unfit', arguments=''):
  keras.utils.set_random_seed(0)
  config = keras_config(f'tests.models.{module}:{name}', arguments)
  return models.build(config, tf.TensorSpec(shape, tf.float32), units, activation)


def keras_config(path, arguments=''):
  from tests.models.test_models import config

  return config(path, arguments=arguments)


def complaint(*args, **keywords):
  with pytest.raises(ConfigError) as caught:
    own(*args, **keywords)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('name', TUTORIALS)
def test_a_tutorials_model_builds_as_it_stands(name):
  shape, units, activation, parameters = TUTORIALS[name]
  model = own(name, shape, units, activation, 'tutorials')
  assert model.count_params() == parameters
  assert model(np.ones((2, *shape), np.float32)).shape == (2, units)


@pytest.mark.parametrize('name', TUTORIALS)
def test_paths_and_weights_do_not_depend_on_what_was_built_before(name):
  shape, units, activation, _ = TUTORIALS[name]
  first = own(name, shape, units, activation, 'tutorials')
  build('mlp')
  keras.layers.Dense(1), keras.layers.Dense(1)
  again = own(name, shape, units, activation, 'tutorials')
  paths = [v.path for v in first.weights]
  assert len(set(paths)) == len(paths)
  assert paths == [v.path for v in again.weights]
  for one, two in zip(first.weights, again.weights, strict=True):
    np.testing.assert_array_equal(one, two)


def test_automatic_names_of_others_go_on_where_they_were():
  before = keras.layers.Dense(1).name
  own('feed_forward', (8, 8, 1), 10, module='tutorials')
  assert keras.layers.Dense(1).name != before


def test_a_subclassed_model_is_built_and_its_paths_are_stable():
  first, again = own('subclassed'), own('subclassed')
  assert [v.path for v in first.weights] == [v.path for v in again.weights]
  assert len({v.path for v in first.weights}) == len(first.weights) == 10


@pytest.mark.parametrize(
  ('name', 'module', 'shape', 'units', 'activation'),
  [
    ('logistic_regression', 'tutorials', (30,), 1, 'sigmoid'),
    ('feed_forward', 'tutorials', (8, 8, 1), 10, 'softmax'),
    ('separate_softmax', 'unfit', (4,), 3, 'softmax'),
  ],
)
def test_an_activation_that_the_task_applies_is_left_out(name, module, shape, units, activation, caplog):
  inputs = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
  model = own(name, shape, units, activation, module)
  assert f'the {activation} of its last layer' in caplog.text
  as_written = own(name, shape, units, '', module)
  as_written.set_weights(model.get_weights())
  apply = tf.nn.softmax if activation == 'softmax' else tf.nn.sigmoid
  np.testing.assert_allclose(apply(model(inputs)), as_written(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('xla', [False, True])
def test_maximum_pooling_becomes_one_that_xla_takes(xla):
  model, plain = own('cnn', (32, 32, 3), 10, module='tutorials'), tutorials.cnn()
  assert sum(type(layer) is parts.MaxPooling for layer in model.layers) == 1
  parts.compiled(model, xla)
  plain.set_weights(model.get_weights())
  images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
  logits = tf.function(model, jit_compile=xla, autograph=False)(images)
  np.testing.assert_allclose(logits, plain(images), rtol=1e-4, atol=1e-5)


def test_a_compile_is_ignored_with_a_line(caplog):
  model = own('cnn', (32, 32, 3), 10, module='tutorials')
  assert 'tests.models.tutorials:cnn: its compile(...) is ignored' in caplog.text
  assert len(model.variables) == len(model.weights)


def test_arguments():
  assert own('feed_forward', (8, 8, 1), 10, module='tutorials', arguments='{"hidden": 7}').layers[1].units == 7
  assert own('for_shape', (5, 2), 3).output_shape == (None, 3)
  assert own('needs', arguments='{"width": 2}').layers[0].units == 2


def test_a_last_dimension_of_one_may_be_left_out():
  """As in Keras' fit."""
  assert own('lstm', (10,), 1, '', 'tutorials')(np.ones((2, 10), np.float32)).shape == (2, 1)


@pytest.mark.parametrize(
  ('name', 'keywords', 'words'),
  [
    ('MADE', {}, 'is a model already'),
    ('made_before', {'strategy': True}, 'was made when the module was imported'),
    ('nothing', {}, 'returned a builtins.NoneType'),
    ('raises', {}, 'raised ValueError in line 19 of '),
    ('needs', {}, 'needs width: set it in model.arguments'),
    ('needs', {'arguments': '{"widht": 3}'}, "did you mean 'width'?"),
    ('images', {}, 'takes inputs of shape (8, 8, 1), but an example of the data has (4,)'),
    ('images', {'shape': (9, 8, 1)}, 'set task.image_size'),
    ('convolution', {}, 'cannot take inputs of shape (4,)'),
    (
      'four_outputs',
      {},
      'gives outputs of shape (4,) per example, but the task wants (3,): end the model with Dense(3)',
    ),
    ('two_heads', {}, 'several outputs'),
    ('softmax_layer', {}, "ends with a softmax in layer 'softmax', but the task applies a softmax"),
    ('sigmoids', {}, 'ends with a sigmoid'),
    ('unseeded', {}, 'draws random numbers by RandomStandardNormal'),
    ('globally_seeded', {}, 'which is none of the model, and so is not saved: take a layer of keras.layers'),
    ('twins', {}, "several weights are named 'sequential/twins/w'"),
  ],
)
def test_what_does_not_fit_is_named(name, keywords, words):
  if keywords.pop('strategy', False):
    with small_run.strategy(2).scope():
      assert words in complaint(name, **keywords)
  else:
    assert words in complaint(name, **keywords)


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('tests.models.tutorial:cnn', "there is no module 'tests.models.tutorial'; did you mean 'tests.models.tutorials'?"),
    ('test.modelz.tutorials:cnn', "there is no module 'test.modelz'"),
    ('tests.models.tutorials:cn', "has no 'cn'; did you mean 'cnn'?"),
    ('tests/models/tutorials.py:cnn', "must look like 'package.module:name'"),
    ('tests.models.tutorials:Sequential', ''),
  ],
)
def test_a_path_that_leads_nowhere_names_the_nearest(path, words):
  said = models.check_name(path)
  assert words in said and '\n' not in said and bool(said) == bool(words)


def test_a_module_is_found_from_the_current_directory(tmp_path, monkeypatch):
  (tmp_path / 'found_here.py').write_text(
    'import keras\ndef f():\n  return keras.Sequential([keras.layers.Dense(3)])\n'
  )
  (tmp_path / 'broken_here.py').write_text('import nowhere_to_be_found\n')
  (tmp_path / 'raising_here.py').write_text('1 / 0\n')
  monkeypatch.chdir(tmp_path)
  assert models.check_name('found_here:f') == ''
  assert "No module named 'nowhere_to_be_found'" in models.check_name('broken_here:f')
  assert 'ZeroDivisionError' in models.check_name('raising_here:f')
  assert "did you mean 'found_here'?" in models.check_name('found_her:f')


def test_a_path_is_told_from_a_name():
  assert imports.is_path('a:b') and not imports.is_path('cnn')
