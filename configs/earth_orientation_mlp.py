"""Where the Earth's pole will stand in 1, 10 and 30 days, from a year of its course: a network of one hidden layer.

Command   python -m trainer --config=configs/earth_orientation_mlp.py --workdir=runs/earth_orientation_mlp
          needs `pip install astropy-iers-data`, which carries the data
Time      9 s in all, of which 3 s are steps (0.42 ms each)
Result    error 30 days ahead .059 standard deviations, 10 days .027, 1 day .0038, on 2,335 days of test; persistence
          has .315 at 30 days, a linear forecast from the same year of history, solved exactly, .058
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

The test split is the last tenth of the days since 1962, the training split what lies before. Variant `smoke`: a few
steps on made-up windows.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='forecasting', model='mlp')
  config.data.dataset = 'earth_orientation'
  config.task.horizons = (1, 10, 30)
  config.task.every = 3
  config.model.hidden = (128,)
  config.model.activation = 'gelu'
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.ema_decay = 0.995
  config.train.steps = 6000
  config.train.global_batch_size = 128
  config.train.log_every_steps = 500
  config.eval.every_steps = 2000
  config.eval.global_batch_size = 240
  if variant == 'smoke':
    config_lib.smoke(config)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of earth_orientation_mlp. Known: smoke')
  return config
