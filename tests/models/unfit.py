"""Functions that cannot serve as a model, each for a reason of its own."""

import keras
import tensorflow as tf
from keras import layers

MADE = keras.Sequential([keras.Input((4,)), layers.Dense(3)])


def made_before():
  return MADE


def nothing():
  keras.Sequential([layers.Dense(3)])


def raises():
  return layers.Dense(-3)


def needs(width):
  return keras.Sequential([keras.Input((4,)), layers.Dense(width), layers.Dense(3)])


def for_shape(input_shape, units):
  return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(units)])


def images():
  return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])


def convolution():
  return keras.Sequential([layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])


def four_outputs():
  return keras.Sequential([keras.Input((4,)), layers.Dense(4)])


def two_heads():
  x = keras.Input((4,))
  return keras.Model(x, [layers.Dense(3)(x), layers.Dense(3)(x)])


def separate_softmax():
  return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Activation('softmax')])


def softmax_layer():
  return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Softmax()])


def sigmoids():
  return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation='sigmoid')])


class Noise(layers.Layer):
  def call(self, x):
    return x + tf.random.normal(tf.shape(x))


class GlobalNoise(layers.Layer):
  def call(self, x):
    return x + keras.random.normal(keras.ops.shape(x))


def unseeded():
  return keras.Sequential([keras.Input((4,)), Noise(), layers.Dense(3)])


def globally_seeded():
  return keras.Sequential([keras.Input((4,)), GlobalNoise(), layers.Dense(3)])


class Twins(layers.Layer):
  def build(self, shape):
    self.first = self.add_weight(shape=(3,), name='w')
    self.second = self.add_weight(shape=(3,), name='w')

  def call(self, x):
    return x + self.first + self.second


def twins():
  return keras.Sequential([keras.Input((4,)), layers.Dense(3), Twins()])


class Subclassed(keras.Model):
  def __init__(self):
    super().__init__()
    self.blocks = [layers.Dense(5, activation='relu') for _ in range(2)]
    self.norm = layers.BatchNormalization()
    self.dropout = layers.Dropout(0.5)
    self.last = layers.Dense(3)

  def call(self, x, training=False):
    for block in self.blocks:
      x = block(x)
    return self.last(self.dropout(self.norm(x, training=training), training=training))


def subclassed():
  return Subclassed()
