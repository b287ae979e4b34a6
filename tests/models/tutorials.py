"""Models as a beginner's tutorial writes them: no names, no seeds, an activation at the end, and `compile`.

They are the fixtures of test_own.py and of tests/faults/test_own_models.py; do not tidy them up.
"""

import keras
from keras import layers
from keras.layers import LSTM, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from keras.models import Sequential


def linear_regression():
  model = Sequential()
  model.add(Dense(1, input_shape=(10,)))
  model.compile(optimizer='sgd', loss='mean_squared_error')
  return model


def logistic_regression():
  model = Sequential([keras.Input(shape=(30,)), Dense(1, activation='sigmoid')])
  model.compile(optimizer='adam', loss='binary_crossentropy', metrics=['accuracy'])
  return model


def feed_forward(hidden=64):
  return Sequential(
    [
      Flatten(),
      Dense(hidden, activation='relu'),
      Dropout(0.2),
      Dense(10, activation='softmax'),
    ]
  )


def cnn():
  model = Sequential()
  model.add(Conv2D(32, (3, 3), activation='relu', input_shape=(32, 32, 3)))
  model.add(MaxPooling2D((2, 2)))
  model.add(Conv2D(64, (3, 3), activation='relu'))
  model.add(layers.BatchNormalization())
  model.add(Flatten())
  model.add(Dense(64, activation='relu'))
  model.add(Dense(10))
  model.compile(
    optimizer='adam', loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=['accuracy']
  )
  return model


def lstm():
  model = Sequential()
  model.add(LSTM(50, activation='relu', input_shape=(10, 1)))
  model.add(Dense(1))
  model.compile(optimizer='adam', loss='mse')
  return model
