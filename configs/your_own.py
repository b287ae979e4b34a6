"""A model of your own, as a tutorial writes it, on the UCI handwritten digits: copy this file, and change both halves.

Command   python -m trainer --config=configs/your_own.py --workdir=runs/your_own
Time      25 s in all, of which 1.4 s are steps (0.68 ms each), on a machine that did other work beside
Result    accuracy on the 360 test images .911
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

`model.name` is an import path, 'package.module:function', found from the current directory or among the installed
packages; `model.arguments` are the function's keyword arguments as JSON. Layers need no names and dropout no seed. The
softmax at the end is left out, since the loss takes the values before it, and `compile` is ignored: the config decides.
Variant `smoke`: a few steps on made-up images.
"""

import keras
import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def network(hidden):
  model = keras.Sequential()
  model.add(keras.layers.Flatten())
  model.add(keras.layers.Dense(hidden, activation='relu'))
  model.add(keras.layers.Dropout(0.2))
  model.add(keras.layers.Dense(10, activation='softmax'))
  model.compile(optimizer='adam', loss='sparse_categorical_crossentropy', metrics=['accuracy'])
  return model


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='classification', model='configs.your_own:network')
  config.model.arguments = '{"hidden": 128}'
  config.data.dataset = 'uci_digits'
  config.task.max_value = 16.0
  config.optimizer.name = 'adam'
  config.train.steps = 2000
  config.eval.every_steps = 500
  config.eval.global_batch_size = 120
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of your_own. Known: smoke')
  return config
