"""x"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='seq2seq', model='seq2seq')
  config.data.dataset = 'cmudict'
  config.task.source, config.task.target = 'word', 'phonemes'
  config.task.source_vocabulary, config.task.target_vocabulary = 'characters', 'words'
  config.task.source_length = config.task.target_length = 20
  config.task.label_smoothing = 0.1
  config.model.layers = 3
  config.model.width = 128
  config.model.heads = 4
  config.model.head_width = 32
  config.model.hidden = 512
  config.model.max_distance = 20
  config.model.dropout = 0.0
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.998
  config.train.steps = 3600
  config.train.global_batch_size = 128
  config.train.log_every_steps = 100
  config.eval.every_steps = 1800
  config.eval.global_batch_size = 500
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'test[:8]'
    config.model.layers, config.model.width, config.model.heads, config.model.hidden = 1, 16, 2, 32
    config.train.global_batch_size = config.eval.global_batch_size = 8
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of cmudict_seq2seq. Known: smoke')
  return config
