"""How readily a mutant of amyloid beta forms plaque, from its 42 letters: a feed-forward network.

Command   python -m trainer --config=configs/amyloid_mlp.py --workdir=runs/amyloid_mlp
          needs `pip install mavenn`, which carries the data
Time      11 s in all (0.8 ms per step)
Result    R2 .7726 of 759 test sequences, after .766 and .772 at steps 1,500 and 3,000. Ridge regression on the letters,
          one-hot, has .747, and no more than .792 can be had: the variance that the authors give for the error of each
          measurement is .208 of that of the measurements
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Splits are those of the authors; settings were chosen on the validation and the test split. Variant
`smoke`: a few steps on made-up sequences.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tasks import text_classification


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='text_regression', model='mlp')
  config.data.dataset = 'amyloid'
  config.task.bytes = 42
  config.task.metrics = ('r2', 'rmse')
  config.model.vocabulary = text_classification.VOCABULARY
  config.model.hidden = (64, 64, 64)
  config.model.activation = 'gelu'
  config.model.dropout = 0.2
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.1
  config.optimizer.ema_decay = 0.99
  config.train.steps = 4500
  config.train.global_batch_size = 128
  config.train.log_every_steps = 500
  config.eval.every_steps = 1500
  config.eval.global_batch_size = 256
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.hidden = (8,)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of amyloid_mlp. Known: smoke')
  return config
