"""Model FLOPs are those of the papers' formulas, whatever a run does to hold less."""

import math

import keras
import pytest
import tensorflow as tf

from tests.tasks.test_experiments import load
from trainer import config as config_lib
from trainer.plan import flops, making


def counted(function, *shapes):
  specs = [tf.TensorSpec(shape) for shape in shapes]
  return flops.of_graph(tf.function(function, autograph=False).get_concrete_function(*specs).graph)


def of_step(config, batch_size):
  with config.unlocked():
    config.train.global_batch_size = config.eval.global_batch_size = batch_size
    config.data.lanes = 0
  config_lib.check(config)
  session, batch_spec = making._built(config, 'cpu', 1)
  return flops.of_step(session.train_step(1), batch_spec)


@pytest.mark.parametrize(
  ('function', 'shapes', 'expected'),
  [
    (tf.matmul, ([3, 4], [4, 5]), 3 * 4 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True), ([4, 3], [4, 5]), 3 * 4 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True), ([2, 4, 3], [2, 4, 5]), 2 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('bij,bkj->bik', a, b), ([2, 3, 4], [2, 5, 4]), 2 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('...ij,jk->...ik', a, b), ([2, 7, 3, 4], [4, 5]), 14 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('abc,cd->abd', a, b), ([2, 3, 4], [4, 5]), 2 * 3 * 4 * 5),
    (lambda x, w: tf.nn.conv2d(x, w, 2, 'SAME'), ([2, 8, 8, 4], [3, 3, 4, 5]), 2 * 16 * 5 * 9 * 4),
    (lambda x, w: tf.nn.conv2d(x, w, 1, 'SAME'), ([2, 8, 8, 4], [3, 3, 2, 6]), 2 * 64 * 6 * 9 * 2),  # two groups
    (lambda x, w: tf.nn.conv1d(x, w, 1, 'SAME'), ([2, 8, 4], [3, 4, 5]), 2 * 8 * 5 * 3 * 4),
    (lambda x, w: tf.nn.conv3d(x, w, [1] * 5, 'SAME'), ([2, 4, 4, 4, 3], [3, 3, 3, 3, 5]), 2 * 64 * 5 * 27 * 3),
    (lambda x, w: tf.nn.depthwise_conv2d(x, w, [1] * 4, 'SAME'), ([2, 8, 8, 4], [3, 3, 4, 2]), 2 * 64 * 8 * 9),
    (lambda x, w: tf.nn.conv2d_transpose(x, w, [2, 16, 16, 5], 2), ([2, 8, 8, 4], [3, 3, 5, 4]), 2 * 64 * 4 * 9 * 5),
    (lambda a, b: tf.function(tf.matmul)(a, b), ([3, 4], [4, 5]), 3 * 4 * 5),
    (lambda a, b: tf.gather(a, [0, 1]) + b, ([3, 4], [2, 4]), 0),
  ],
)  # fmt: skip
def test_products(function, shapes, expected):
  assert counted(function, *shapes) == flops.Count(2 * expected, ())


def test_what_is_not_used_is_not_counted():
  def run(a, b):
    tf.matmul(a, b)
    return a + 1.0

  assert counted(run, [3, 4], [4, 5]).flops == 0


@pytest.mark.parametrize('cell', [keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU])
@pytest.mark.parametrize('masked', [False, True])
def test_recurrent_layers_count_each_place(cell, masked):
  layer = cell(3, return_sequences=True)
  layer.build((2, 7, 5))
  gates = layer.cell.kernel.shape[1]
  mask = tf.ones([2, 7], tf.bool) if masked else None
  assert counted(lambda x: layer(x, mask=mask), [2, 7, 5]) == flops.Count(2 * 2 * 7 * (5 + 3) * gates, ())


def test_a_loop_within_a_loop():
  def run(a, b):
    def inner(i, x, most):
      return i + 1, tf.matmul(x, b), most

    def outer(i, x, most):
      return i + 2, tf.while_loop(lambda j, _, most: j < most, inner, (tf.constant(0), x, most))[1], most

    return tf.while_loop(lambda i, *_: i <= 4, outer, (tf.constant(0), a, tf.constant(5)))[1]

  assert counted(run, [3, 4], [4, 4]) == flops.Count(3 * 5 * 2 * 3 * 4 * 4, ())


def test_what_cannot_be_counted_is_said():
  def until_small(a, b):
    return tf.while_loop(lambda x: tf.reduce_sum(x) > 1.0, lambda x: (tf.matmul(x, b),), (a,))[0]

  def either(a, b):
    return tf.cond(tf.reduce_sum(a) > 0, lambda: tf.matmul(a, b), lambda: a)

  def of_some_rows(a, b):
    return tf.matmul(tf.boolean_mask(a, a[:, 0] > 0), b)

  def in_python(a, b):
    return tf.numpy_function(lambda x, y: x @ y, [a, b], tf.float32)

  for function, why in (
    (until_small, 'how often the loop runs is not static'),
    (either, 'its branches are not as much work as each other'),
    (of_some_rows, 'its shape is not static'),
    (in_python, 'there is no formula for it'),
  ):
    found = counted(function, [4, 4], [4, 4])
    (text,) = found.not_counted
    assert found.flops == 0 and text.endswith(why)


def gpt(**changes):
  config = load('gpt2_124m').get_config('smoke')
  with config.unlocked():
    config.model.update({'layers': 2, 'width': 32, 'heads': 4} | changes.pop('model', {}))
    config.data.pack_tokens = 24
    config.train.update(changes)
  return of_step(config, 4)


def test_gpt_is_6n_plus_12ltd_per_token_however_it_is_computed():
  # Chowdhery et al., appendix B; N: the weights that are multiplied with, the table as the head among them.
  layers, width, places, vocabulary = 2, 32, 24, 300
  weights = layers * 12 * width**2 + vocabulary * width
  expected = 4 * places * (6 * weights + 12 * layers * places * width)
  ways = (
    {},
    {'model': {'remat': 'blocks'}},
    {'model': {'attention': 'blockwise'}},
    {'model': {'head_chunks': 4}},
    {'micro_batches': 2},
  )
  for way in ways:
    assert gpt(**way) == flops.Count(expected, ()), way


def test_resnet50():
  # He et al. with the stride in the second convolution: 4.09 billion multiplications (torchvision's model card).
  found = of_step(load('imagenet_resnet50').get_config(), 1)
  assert math.isclose(found.flops, 3 * 2 * 4.089e9, rel_tol=1e-3) and not found.not_counted


def test_vit_s16():
  layers, width, places = 12, 384, 196
  block = 12 * width**2 * places + 2 * places**2 * width
  ends = 16 * 16 * 3 * width * places + 1000 * width
  found = of_step(load('imagenet_vit_s16').get_config(), 2)  # of which mixup makes pairs
  assert found == flops.Count(2 * 3 * 2 * (layers * block + ends), ())
  # 4.6 billion multiplications in Touvron et al., Going Deeper with Image Transformers, 2021, table 3.
  assert math.isclose(found.flops, 2 * 3 * 2 * 4.6e9, rel_tol=0.01)
