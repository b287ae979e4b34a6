"""ImageNet, ResNet-50, by the recipe of Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017.

Command   python -m trainer --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50
          --config.data.data_dir=DIR, a TFDS data directory in which imagenet2012 is prepared
Time      not measured here
Result    not measured here; the paper has a top-1 accuracy of .764 (table 1, batches of 256)
Machine   none yet

For another batch, multiply the learning rate with it: .1 for 256. The paper's weight decay is a penalty in the
gradient, hence model.l2. One thing differs: colours stay as they are. Crops are cut out of all of an image at its own
size, as it is streamed; with data.source=memory out of the square in its middle, at 224 pixels.
Variant `smoke`: a few steps on made-up images; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError

EPOCH = 1251  # batches of 1024 of 1,281,167 images


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='classification', model='resnet')
  config.data.dataset = 'imagenet2012'
  config.data.eval_split = 'validation'
  config.task.image_size = (224, 224)
  config.task.keep_aspect = True
  config.task.normalize = 'given'
  config.task.mean = (123.675, 116.28, 103.53)
  config.task.deviation = (58.395, 57.12, 57.375)
  config.task.crop_area = 0.08
  config.task.flip_horizontal = True
  config.task.metrics = ('accuracy', 'sparse_top_k_categorical_accuracy')
  config.model.depth = 50
  config.model.stem = 'image'
  config.model.zero_scale = True
  config.model.l2 = 5e-5
  config.optimizer.name = 'sgd'
  config.optimizer.options = '{"momentum": 0.9, "nesterov": true}'
  config.optimizer.learning_rate = 0.4
  config.optimizer.warmup_steps = 5 * EPOCH
  config.optimizer.schedule = 'piecewise'
  config.optimizer.boundaries = (30 * EPOCH, 60 * EPOCH, 80 * EPOCH)
  config.train.steps = 90 * EPOCH
  config.train.global_batch_size = 1024
  config.eval.every_steps = 5 * EPOCH
  config.eval.global_batch_size = 1024
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.width = 4
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of imagenet_resnet50. Known: smoke')
  return config
