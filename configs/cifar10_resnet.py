"""CIFAR-10, ResNet-18 for small images, by the recipe of DeVries and Taylor, Improved Regularization of Convolutional
Neural Networks with Cutout, 2017, section 4.1, without Cutout.

Command   python -m trainer --config=configs/cifar10_resnet.py --workdir=runs/cifar10_resnet
          --config.data.data_dir=DIR, a TFDS data directory in which cifar10 is prepared
Time      not measured here
Result    not measured here: the set cannot be had without a network; the paper has an accuracy of .953
Machine   none yet

The paper crops an image padded by 4 pixels; here it moves by up to 4 pixels, which is the same, but for moves by all of
the 4, which are half as frequent. Its weight decay is a penalty in the gradient, hence model.l2; here it spares
normalisations. Variant `smoke`: a few steps on made-up images; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError

EPOCH = 391  # batches of 128 of 50,000 images


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='classification', model='resnet')
  config.data.dataset = 'cifar10'
  config.task.normalize = 'given'
  config.task.mean = (125.3, 123.0, 113.9)
  config.task.deviation = (63.0, 62.1, 66.7)
  config.task.shift_pixels = 4.0
  config.task.flip_horizontal = True
  config.model.depth = 18
  config.model.l2 = 2.5e-4
  config.optimizer.name = 'sgd'
  config.optimizer.options = '{"momentum": 0.9, "nesterov": true}'
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule = 'piecewise'
  config.optimizer.boundaries = (60 * EPOCH, 120 * EPOCH, 160 * EPOCH)
  config.optimizer.decay_rate = 0.2
  config.train.steps = 200 * EPOCH
  config.train.global_batch_size = 128
  config.eval.every_steps = 10 * EPOCH
  config.eval.global_batch_size = 1000
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.width = 8
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of cifar10_resnet. Known: smoke')
  return config
