import ml_collections

from trainer import config as config_lib
from trainer.data.datasets.spoken_digits import SPEAKERS
from trainer.errors import ConfigError

UNHEARD = 'yweweler'


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='ctc', model='conformer')
  config.data.dataset = 'spoken_digits'
  config.data.train_split = '+'.join(f'{speaker}[50:]' for speaker in SPEAKERS)
  config.data.eval_split = '+'.join(f'{speaker}[:50]' for speaker in SPEAKERS)
  config.task.seconds = 0.8
  config.task.hop_ms = 10.0
  config.task.equal_loudness = True
  config.task.max_characters = 5
  config.task.warp = 0.1
  config.task.pace = 0.1
  config.task.time_masks = 1
  config.task.time_mask_share = 0.2
  config.task.frequency_masks = 1
  config.model.blocks = 3
  config.model.width = 96
  config.model.heads = 4
  config.model.kernel_size = 7
  config.model.subsampling = 2
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.05
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.99
  config.train.steps = 1200
  config.train.global_batch_size = 32
  config.train.log_every_steps = 100
  config.eval.every_steps = 300
  config.eval.global_batch_size = 125
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of spoken_digit_conformer. Known: smoke')
  return config
