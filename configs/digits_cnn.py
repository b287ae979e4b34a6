"""UCI handwritten digits, a small convolutional network: the default.

Command   python -m trainer --config=configs/digits_cnn.py --workdir=runs/digits_cnn
Time      20 to 23 s (5 to 8 ms per step)
Result    accuracy on the 360 test images .989, .986, .986 (seeds 0, 1, 2)
Machine   2 cores of an Intel Xeon (virtual), no accelerator; TensorFlow 2.21, Python 3.11

The test split is 360 images by writers whom the training split does not hold. Variant `smoke`: a few steps on made-up
images, to see that the machine works.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='classification', model='cnn')
  config.data.dataset = 'uci_digits'
  config.task.max_value = 16.0
  config.task.shift_pixels = 1.0
  config.task.rotate_degrees = 12.0
  config.task.zoom = 0.12
  config.model.channels = (32, 64)
  config.model.convs = 2
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.01
  config.optimizer.ema_decay = 0.995
  config.train.steps = 2000
  config.train.global_batch_size = 64
  config.eval.every_steps = 500
  config.eval.global_batch_size = 120
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of digits_cnn. Known: smoke')
  return config
