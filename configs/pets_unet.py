"""Oxford-IIIT Pet, pet, background or outline at each pixel: a U-Net by the recipe of Chollet, Image Segmentation with
a U-Net-like Architecture (keras.io, 2019).

Command   python -m trainer --config=configs/pets_unet.py --workdir=runs/pets_unet
          --config.data.data_dir=DIR, a TFDS data directory in which oxford_iiit_pet is prepared
Time      not measured here
Result    not measured here; the recipe names none on this test split
Machine   none yet

Images of 160 x 160 pixels, batches of 32, 50 epochs of Adam at 1e-4 and cross-entropy are the recipe's. What differs:
the network is that of Ronneberger et al., 2015, in half its width and with group normalisation; images are mirrored;
the learning rate falls to 0; the split is that of the authors of the set. Variant `smoke`: a few steps on made-up
images, with narrow layers; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError

EPOCH = 115  # batches of 32 of 3,680 images


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='segmentation', model='unet')
  config.data.dataset = 'oxford_iiit_pet'
  config.task.image_size = (160, 160)
  config.task.mask = 'segmentation_mask'
  config.task.classes = ('pet', 'background', 'outline')
  config.task.first_label = 1
  config.task.flip_horizontal = True
  config.model.channels = (32, 64, 128, 256, 512)
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-4
  config.train.steps = 50 * EPOCH
  config.train.global_batch_size = 32
  config.eval.every_steps = 5 * EPOCH
  config.eval.global_batch_size = 32
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'test[:8]'
    config.model.channels = (4, 8, 8, 8, 8)
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of pets_unet. Known: smoke')
  return config
