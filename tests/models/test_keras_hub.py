"""Backbones of KerasHub: with a stand-in for it where it is not installed, and live where it is."""

import json
import sys
import types

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.errors import ConfigError
from trainer.models import keras_hub

TEXT, IMAGE = tf.TensorSpec((6,), tf.int32), tf.TensorSpec((8, 8, 3), tf.float32)


def text_backbone(width, pooled=False):
  """Token ids and what is no padding -> embeddings."""
  inputs = {name: keras.Input((None,), dtype='int32', name=name) for name in ('token_ids', 'padding_mask')}
  x = keras.layers.Embedding(10, width)(inputs['token_ids'])
  outputs = {'sequence_output': x, 'pooled_output': keras.layers.Lambda(lambda y: y[:, 0])(x)} if pooled else x
  return keras.Model(inputs, outputs)


def image_backbone(image_shape, width=4):
  inputs = keras.Input(image_shape)
  return keras.Model(inputs, keras.layers.Conv2D(width, 3)(inputs))


class Preset(keras.Model):
  @classmethod
  def from_preset(cls, preset, load_weights=True):
    if preset != 'small':
      raise ValueError(f'no preset\n{preset}')
    model = text_backbone(3)
    if load_weights:
      model.layers[-1].embeddings.assign(np.arange(30.0).reshape(10, 3))
    return model


@pytest.fixture
def stand_in(monkeypatch):
  module = types.ModuleType('keras_hub')
  module.models = types.SimpleNamespace(TextBackbone=text_backbone, ImageBackbone=image_backbone, Backbone=Preset)
  monkeypatch.setitem(sys.modules, 'keras_hub', module)


def build(spec, **changes):
  fields = {name: field.default for name, field in keras_hub.FIELDS.items()}
  config = ml_collections.ConfigDict({'model': {'name': 'keras_hub', **fields, **changes}})
  return models.build(config, spec, 2)


def test_where_it_is_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, 'keras_hub', None)  # its import raises
  with pytest.raises(ConfigError, match='`pip install keras-hub`'):
    build(TEXT, backbone='TextBackbone')


def test_a_text_is_the_mean_of_what_is_no_padding(stand_in):
  model = build(TEXT, backbone='TextBackbone', arguments='{"width": 3}')
  ids = np.array([[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0] * 6], np.int32)
  table, (kernel, bias) = model.get_layer('backbone').get_weights()[0], model.get_layer('head').get_weights()
  expected = np.stack([table[[1, 2]].mean(0), table[1:7].mean(0), np.zeros(3)]) @ kernel + bias
  np.testing.assert_allclose(model(ids), expected, rtol=1e-5, atol=1e-6)


def test_features_that_a_backbone_pools_itself_are_taken(stand_in):
  model = build(TEXT, backbone='TextBackbone', arguments='{"width": 3, "pooled": true}')
  first = np.array([[4, 1, 2, 3, 0, 0], [4, 9, 9, 9, 9, 9]], np.int32)
  outputs = model(first).numpy()
  np.testing.assert_array_equal(outputs[0], outputs[1])


def test_an_image_tells_the_backbone_its_shape(stand_in):
  model = build(IMAGE, backbone='ImageBackbone')
  assert model.get_layer('backbone').output_shape == (None, 6, 6, 4)
  assert model(np.zeros([3, 8, 8, 3], np.float32)).shape == (3, 2)


def test_names_do_not_depend_on_what_was_built_before(stand_in):
  first, again = (build(IMAGE, backbone='ImageBackbone') for _ in range(2))
  assert [v.path for v in first.weights] == [v.path for v in again.weights]


def test_the_last_layer_computes_in_float32(stand_in):
  keras.config.set_dtype_policy('mixed_bfloat16')
  try:
    model = build(IMAGE, backbone='ImageBackbone')
  finally:
    keras.config.set_dtype_policy('float32')
  assert model(np.zeros([1, 8, 8, 3], np.float32)).dtype == tf.float32


@pytest.mark.parametrize('weights', [True, False])
def test_a_preset_with_its_weights_or_without(stand_in, weights):
  table = build(TEXT, preset='small', weights=weights).get_layer('backbone').get_weights()[0]
  assert np.array_equal(table, np.arange(30.0).reshape(10, 3)) == weights


@pytest.mark.parametrize(
  ('spec', 'changes', 'expected'),
  [
    (TEXT, {}, 'set one of'),
    (TEXT, {'backbone': 'TextBackbone', 'preset': 'small'}, 'set one of'),
    (TEXT, {'backbone': 'TxtBackbone'}, "did you mean 'TextBackbone'"),
    (TEXT, {'backbone': 'TextBackbone'}, 'cannot be made: .*width'),
    (TEXT, {'preset': 'large'}, 'cannot be made: no preset large'),
    (TEXT, {'preset': 'small', 'arguments': '{"width": 3}'}, 'stand in its directory'),
    (IMAGE, {'preset': 'small'}, 'cannot be made'),
    (IMAGE, {'backbone': 'TextBackbone', 'arguments': '{"width": 3}'}, 'cannot be made'),
    (tf.TensorSpec((6,), tf.float32), {'backbone': 'TextBackbone'}, 'images or whole numbers'),
  ],
)
def test_errors_in_one_line(stand_in, spec, changes, expected):
  with pytest.raises(ConfigError, match=expected) as caught:
    build(spec, **changes)
  assert '\n' not in str(caught.value)


SMALL = {'vocabulary_size': 9, 'num_layers': 1, 'hidden_dim': 4, 'intermediate_dim': 8}
LIVE = {
  'BertBackbone': (TEXT, {**SMALL, 'num_heads': 2}),
  'FNetBackbone': (TEXT, SMALL),
  'ViTBackbone': (IMAGE, {'patch_size': 4, 'num_layers': 1, 'num_heads': 2, 'hidden_dim': 8, 'mlp_dim': 16}),
}


@pytest.mark.parametrize('name', LIVE)
def test_the_real_ones(name, tmp_path):
  pytest.importorskip('keras_hub')
  spec, arguments = LIVE[name]
  model = build(spec, backbone=name, arguments=json.dumps(arguments))
  batch = np.ones([2, *spec.shape], spec.dtype.as_numpy_dtype)
  assert model(batch).shape == (2, 2)
  model.get_layer('backbone').save_to_preset(str(tmp_path))
  again = build(spec, preset=str(tmp_path))
  for one, two in zip(model.get_layer('backbone').weights, again.get_layer('backbone').weights, strict=True):
    assert one.path == two.path
    np.testing.assert_array_equal(one, two)
