"""Diabetes progression from ten measurements, linear regression: 442 patients, 88 of them for test.

Command   python -m trainer --config=configs/diabetes_linear.py --workdir=runs/diabetes_linear
Time      3 s (0.5 ms per step)
Result    R2 .4465, RMSE 57.3 on 88 patients; least squares, solved exactly, has R2 .447 on this test split
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Variant `smoke`: a few steps on made-up rows.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='regression', model='linear')
  config.data.dataset = 'diabetes'
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 0.05
  config.train.steps = 1000
  config.train.global_batch_size = 64
  config.eval.every_steps = 500
  config.eval.global_batch_size = 88
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of diabetes_linear. Known: smoke')
  return config
