"""COCO, ResNet-50 with a feature pyramid, by the recipe of Tian et al., FCOS: Fully Convolutional One-Stage Object
Detection, 2019, section 4, for 90,000 steps.

Command   python -m trainer --config=configs/coco_detector.py --workdir=runs/coco_detector
          --config.data.data_dir=DIR, a TFDS data directory in which coco/2017 is prepared
Time      not measured here
Result    not measured here; the paper has an average precision of .386 with weights of ImageNet to start from
Machine   none yet

What differs: weights start at random, with group normalisation, and need more steps for the same result (He et al.,
Rethinking ImageNet Pre-training, 2019, who take two to six times as many); images become 800 x 1088 pixels, aspect not
kept, not 800 on the shorter side. The paper's weight decay of 1e-4 is a penalty in the gradient, hence model.l2.
Variant `smoke`: a few steps on made-up images; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='detection', model='detector')
  config.data.dataset = 'coco/2017'
  config.data.eval_split = 'validation'
  config.task.image_size = (800, 1088)
  config.task.normalize = 'given'
  config.task.mean = (123.675, 116.28, 103.53)
  config.task.deviation = (58.395, 57.12, 57.375)
  config.task.flip_horizontal = True
  config.model.depth = 50
  config.model.zero_scale = True
  config.model.l2 = 5e-5
  config.optimizer.name = 'sgd'
  config.optimizer.options = '{"momentum": 0.9}'
  config.optimizer.learning_rate = 0.01
  config.optimizer.warmup_steps = 500
  config.optimizer.schedule = 'piecewise'
  config.optimizer.boundaries = (60_000, 80_000)
  config.train.steps = 90_000
  config.train.global_batch_size = 16
  config.eval.every_steps = 10_000
  config.eval.global_batch_size = 16
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'validation[:8]'
    config.task.image_size = (128, 192)
    config.model.depth, config.model.width, config.model.pyramid = 18, 16, 16
    config.model.head_convs = 1
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of coco_detector. Known: smoke')
  return config
