"""Sea, land and lakes on satellite images of the whole Earth: a small U-Net."""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='segmentation', model='unet')
  config.data.dataset = 'land_cover'
  config.task.normalize = 'standardize'
  config.task.flip_horizontal = True
  config.task.flip_vertical = True
  config.task.shift_pixels = 32.0
  config.task.class_weights = (1.0, 1.0, 4.0)
  config.model.channels = (16, 32, 64, 128)
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.weight_decay = 0.05
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.99
  config.train.steps = 1200
  config.train.global_batch_size = 16
  config.train.log_every_steps = 100
  config.eval.every_steps = 300
  config.eval.global_batch_size = 16
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'test[:8]'
    config.model.channels = (4, 8, 8, 8)
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of land_cover_unet. Known: smoke')
  return config
