"""Networks of keras.applications: Keras' own function of the image, under names that do not depend on the process."""

import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity
from trainer import models
from trainer.errors import ConfigError
from trainer.models import applications

SMALL = 'mobilenetv2'
IMAGE = (32, 32, 3)


def build(application=SMALL, image=IMAGE, units=5, **changes):
  return parity.build('applications', image, units, application=application, **changes)


def images(shape=IMAGE):
  return np.random.default_rng(0).random((2, *shape), np.float32)


def expected(application, source, x):
  """Keras' network on an image of 0 to 255, preprocessed by Keras outside of it."""
  module = sys.modules[applications.table()[application].__module__]
  return source(module.preprocess_input(x * 255.0), training=False)


def make(application=SMALL, image=IMAGE, **arguments):
  arguments = {'weights': None, 'classifier_activation': None, 'classes': 5, 'input_shape': image, **arguments}
  return applications.table()[application](**arguments)


def test_the_table_is_what_keras_has():
  public = {name.lower() for name in dir(keras.applications) if name[0].isupper()}
  assert set(applications.table()) == public


# One for each way of preprocessing; with layers that Keras numbers, with a nested model, with a head that is no Dense.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('application', 'side'),
  [('resnet50', 32), ('densenet121', 32), ('xception', 71), ('convnexttiny', 32), ('mobilenet', 32)],
)
def test_logits_are_those_of_keras(application, side, tmp_path):
  image = (side, side, 3)
  source = make(application, image)
  for variable in source.weights:
    if variable.path.endswith('moving_mean'):
      variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]) * 0.1)
  source.save_weights(tmp_path / 'of.weights.h5')
  model = build(application, image, weights=str(tmp_path / 'of.weights.h5'))
  assert model.count_params() == source.count_params()
  assert not [v.path for v in model.weights if re.search(r'/variable(_\d+)?$', v.path)], 'Keras numbers those'
  np.testing.assert_allclose(model(images(image)), expected(application, source, images(image)), rtol=1e-4, atol=1e-4)


def test_names_and_weights_depend_on_the_seed_alone():
  keras.utils.set_random_seed(0)
  first = build()
  keras.layers.Conv2D(1, 1)  # takes a number
  keras.utils.set_random_seed(0)
  again = build()
  assert [v.path for v in first.weights] == [v.path for v in again.weights]
  for one, two in zip(first.weights, again.weights, strict=True):
    np.testing.assert_array_equal(one, two)


def test_the_last_layer_computes_in_float32():
  keras.config.set_dtype_policy('mixed_bfloat16')
  try:
    model = build()
  finally:
    keras.config.set_dtype_policy('float32')
  assert model(images()).dtype == tf.float32
  assert model.layers[-1].compute_dtype == 'float32'
  assert model.get_layer('Conv1').compute_dtype == 'bfloat16'


def test_weights_without_the_last_layers_leave_those_random(tmp_path):
  path = str(tmp_path / 'body.weights.h5')
  source = make(include_top=False)
  source.save_weights(path)
  model = build(units=3, weights=path)
  np.testing.assert_array_equal(model.get_layer('Conv1').kernel, source.get_layer('Conv1').kernel)
  assert model.output.shape == (None, 3)


def test_a_saved_model_is_the_same_model(tmp_path):
  model = build()
  model.save(tmp_path / 'model.keras')
  np.testing.assert_allclose(keras.saving.load_model(tmp_path / 'model.keras')(images()), model(images()), atol=1e-6)


def test_a_download_that_fails_is_one_line(monkeypatch):
  def fails(*args, **kwargs):
    raise Exception('URL fetch failure on https://storage.googleapis.com/...: None -- \n no route')

  monkeypatch.setattr('keras.src.utils.file_utils.get_file', fails)
  with pytest.raises(ConfigError, match=r'cannot be had .*URL fetch failure.*give its path') as caught:
    build(weights='imagenet')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('application', 'image', 'words'),
  [
    (SMALL, (8, 8, 1), 'takes images of 3 channels, not 1'),
    (SMALL, (16, 16, 3), 'does not take images of 16 x 16 pixels'),
    (SMALL, (10,), 'takes inputs with 3 dimensions'),
  ],
)
def test_inputs_that_do_not_fit_are_named(application, image, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    build(application, image)
  assert '\n' not in str(caught.value)


def test_weights_that_do_not_fit_are_named(tmp_path):
  path = str(tmp_path / 'of.weights.h5')
  make(alpha=0.35).save_weights(path)
  with pytest.raises(ConfigError, match=r'does not fit model\.application') as caught:
    build(weights=path)
  assert '\n' not in str(caught.value)
  (tmp_path / 'text.weights.h5').write_text('no')
  with pytest.raises(ConfigError, match='cannot be had') as caught:
    build(weights=str(tmp_path / 'text.weights.h5'))
  assert '\n' not in str(caught.value)


def test_rules_complain_in_one_line(tmp_path):
  fields = models.fields('applications')
  assert "did you mean 'resnet50'?" in fields['application'].rule('resnet_50')
  assert 'must be the path of a .weights.h5 file' in fields['weights'].rule('weights.ckpt')
  assert 'is not there' in fields['weights'].rule(str(tmp_path / 'no.weights.h5'))
  assert fields['weights'].rule('imagenet') == ''
