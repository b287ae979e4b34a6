"""Operations are counted as often as they run, and those of which nothing is used are not."""

import keras
import pytest
import tensorflow as tf

from trainer.plan import hlo


def program(function, *shapes):
  made = tf.function(function, jit_compile=True, autograph=False)
  return hlo.Program(made.experimental_get_compiler_ir(*(tf.TensorSpec(shape) for shape in shapes))(stage='hlo'))


def test_products():
  assert program(lambda a, b: tf.matmul(a, b), [3, 4], [4, 5]).flops() == 2 * 3 * 4 * 5
  assert program(lambda a, b: tf.einsum('bij,bkj->bik', a, b), [2, 3, 4], [2, 5, 4]).flops() == 2 * 2 * 3 * 5 * 4


@pytest.mark.parametrize('trips', [1, 7])
def test_a_loop_counts_as_often_as_it_runs(trips):
  def run(a, b):
    def body(i, x):
      return i + 1, tf.matmul(x, b)

    return tf.while_loop(lambda i, _: i < trips, body, (tf.constant(0), a), maximum_iterations=trips)[1]

  assert program(run, [3, 4], [4, 4]).flops() == trips * 2 * 3 * 4 * 4


def test_a_loop_within_a_loop():
  def run(a, b):
    def inner(i, x):
      return i + 1, tf.matmul(x, b)

    def outer(i, x):
      return i + 1, tf.while_loop(lambda j, _: j < 5, inner, (tf.constant(0), x))[1]

    return tf.while_loop(lambda i, _: i < 3, outer, (tf.constant(0), a))[1]

  assert program(run, [3, 4], [4, 4]).flops() == 15 * 2 * 3 * 4 * 4


def test_the_gradient_of_a_recurrent_layer_counts_each_place():
  layer = keras.layers.LSTM(3)
  layer.build((2, 7, 5))
  weights = layer.trainable_variables

  def backward(x):
    values = [tf.convert_to_tensor(v.value) for v in weights]
    with tf.GradientTape() as tape:
      tape.watch(values)
      y, _ = layer.stateless_call(values, [tf.convert_to_tensor(v.value) for v in layer.non_trainable_variables], x)
    return tape.gradient(y, values)

  made = program(backward, [2, 7, 5])
  # Three products for each of the forward pass, but for the gradient of the input.
  assert made.flops() == 2 * 2 * 7 * 12 * (3 * (5 + 3) - 5) and not made.counted_once


def test_a_loop_of_unknown_length_counts_once_and_is_named():
  def run(a, b):
    return tf.while_loop(lambda x: tf.reduce_sum(x) > x[0, 0], lambda x: (tf.matmul(x, b),), (a,))[0]

  made = program(run, [4, 4], [4, 4])
  assert made.flops() == 2 * 4**3 and len(made.counted_once) == 1


def test_what_is_not_used_is_not_counted():
  def run(a, b):
    tf.matmul(a, b)
    return a + 1.0

  assert program(run, [3, 4], [4, 5]).flops() == 0


@pytest.mark.parametrize('stride', [1, 2])
def test_convolutions_and_their_gradients(stride):
  images, kernel = [2, 8, 8, 3], [1, 1, 3, 5]
  places = (8 // stride) ** 2
  once = 2 * 2 * places * 3 * 5

  def forward(x, w):
    return tf.nn.conv2d(x, w, stride, 'SAME')

  def backward(x, w):
    with tf.GradientTape() as tape:
      tape.watch([x, w])
      y = forward(x, w)
    return tape.gradient(y, [x, w])

  assert program(forward, images, kernel).flops() == once
  assert program(backward, images, kernel).flops() == 2 * once


def test_collectives():
  text = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (x: f32[10], y: bf16[4,2]) -> (f32[10], bf16[4,2]) {
  %x = f32[10]{0} parameter(0)
  %y = bf16[4,2]{1,0} parameter(1)
  %all-reduce.1 = f32[10]{0} all-reduce(f32[10]{0} %x), replica_groups={{0,1}}, to_apply=%add
  %all-reduce.2 = bf16[4,2]{1,0} all-reduce(bf16[4,2]{1,0} %y), replica_groups={{0,1}}, to_apply=%add
  ROOT %tuple = (f32[10]{0}, bf16[4,2]{1,0}) tuple(f32[10]{0} %all-reduce.1, bf16[4,2]{1,0} %all-reduce.2)
}
"""
  assert hlo.Program(text).collectives() == {'all-reduce': {'count': 2, 'bytes': 40 + 16}}


def test_a_dimension_of_unknown_size_counts_as_its_bound():
  made = program(lambda a, b: tf.matmul(tf.boolean_mask(a, a[:, 0] > 0), b), [4, 3], [3, 5])
  assert made.flops() == 2 * 4 * 3 * 5


def test_sizes():
  assert hlo.size('(f32[2,3]{1,0}, bf16[4], pred[])') == 24 + 8 + 1
