"""Letters hidden in Shakespeare's plays, found by a small BERT from what stands on both sides.

Command   python -m trainer --config=configs/shakespeare_bert.py --workdir=runs/shakespeare_bert
          --config.data.data_dir=DIR, a TFDS data directory in which tiny_shakespeare is prepared
Time      12 min 08 s in all (174 ms per step) on a machine that ran several other programs beside; 120 ms per step
          without
Result    at the hidden places of the validation split 1.254 nats and .625 of the bytes right, after .317, .557 and .607
          at steps 1,000, 2,000 and 3,000, and still rising. Counts of the bytes on both sides, which are never hidden
          there, have .481 with one on each side and .758 with two. With batches of 32 and a peak of 2e-3 it knew for
          1,800 steps no more than which bytes are common, and ended at .513
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

`--mode=predict` shows each example with its gaps, and what is read there. Variant `smoke`: a few steps on made-up
tokens.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='masked_language_modeling', model='bert')
  config.data.dataset = 'tiny_shakespeare'
  config.data.eval_split = 'validation'
  config.data.pack_tokens = 64
  config.data.pack_stride = 16
  config.model.layers = 4
  config.model.heads = 4
  config.model.width = 128
  config.model.dropout = 0.0
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.end_factor = 0.1
  config.optimizer.warmup_steps = 400
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 1.0
  config.optimizer.options = '{"beta_2": 0.99}'
  config.optimizer.ema_decay = 0.99
  config.train.steps = 4000
  config.train.global_batch_size = 64
  config.train.log_every_steps = 250
  config.eval.every_steps = 1000
  config.eval.global_batch_size = 120
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.layers = 1
    config.model.width = 16
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of shakespeare_bert. Known: smoke')
  return config
