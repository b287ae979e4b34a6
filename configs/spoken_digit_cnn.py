import ml_collections

from trainer import config as config_lib
from trainer.data.datasets.spoken_digits import SPEAKERS
from trainer.errors import ConfigError

UNHEARD = 'yweweler'


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='audio_classification', model='keyword_cnn')
  config.data.dataset = 'spoken_digits'
  if variant == 'speaker':
    config.data.train_split = '+'.join(speaker for speaker in SPEAKERS if speaker != UNHEARD)
    config.data.eval_split = UNHEARD
  else:
    config.data.train_split = '+'.join(f'{speaker}[50:]' for speaker in SPEAKERS)
    config.data.eval_split = '+'.join(f'{speaker}[:50]' for speaker in SPEAKERS)
  config.task.seconds = 0.64
  config.task.equal_loudness = True
  config.task.warp = 0.15
  config.task.pace = 0.2
  config.task.later_frames = 16
  config.task.gain_db = 6.0
  config.task.tilt_db = 6.0
  config.task.time_masks = 1
  config.task.time_mask_frames = 10
  config.task.time_mask_share = 0.3
  config.task.frequency_masks = 2
  config.task.frequency_mask_bins = 8
  config.model.dropout = 0.2
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.05
  config.optimizer.ema_decay = 0.99
  config.train.steps = 1500
  config.train.global_batch_size = 64
  config.train.log_every_steps = 100
  config.eval.every_steps = 300
  config.eval.global_batch_size = 125
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant not in ('', 'speaker'):
    raise ConfigError(f'unknown variant {variant!r} of spoken_digit_cnn. Known: smoke, speaker')
  return config
