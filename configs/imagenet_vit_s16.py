"""ImageNet, ViT-S/16, by the recipe of Beyer et al., Better Plain ViT Baselines for ImageNet-1k, 2022.

Command   python -m trainer --config=configs/imagenet_vit_s16.py --workdir=runs/imagenet_vit_s16
          --config.data.data_dir=DIR, a TFDS data directory in which imagenet2012 is prepared
Time      not measured here
Result    not measured here; the paper has a top-1 accuracy above .76 after 90 epochs, and of .80 after 300
Machine   none yet

The paper's weight decay of 1e-4 is relative to the peak learning rate, ours to the learning rate: .1. Crops are cut
out of all of an image at its own size, as it is streamed.
Variant `smoke`: a few steps on made-up images; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError

EPOCH = 1251  # batches of 1024 of 1,281,167 images


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='classification', model='vit')
  config.data.dataset = 'imagenet2012'
  config.data.eval_split = 'validation'
  config.task.image_size = (224, 224)
  config.task.keep_aspect = True
  config.task.normalize = 'given'
  config.task.mean = config.task.deviation = (127.5,)
  config.task.crop_area = 0.05
  config.task.flip_horizontal = True
  config.task.randaugment_layers = 2
  config.task.randaugment_magnitude = 10.0
  config.task.mixup = 0.2
  config.task.metrics = ('accuracy', 'sparse_top_k_categorical_accuracy')
  config.model.size = 'S'
  config.model.patch_size = 16
  config.model.pooling = 'mean'
  config.model.positions = 'sincos'
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 10_000
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 1.0
  config.train.steps = 90 * EPOCH
  config.train.global_batch_size = 1024
  config.eval.every_steps = 5 * EPOCH
  config.eval.global_batch_size = 1024
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.layers = 3
    config.model.width = 24
    config.model.heads = 2
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of imagenet_vit_s16. Known: smoke')
  return config
