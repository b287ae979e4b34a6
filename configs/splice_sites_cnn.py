"""How much RNA is spliced at a 5' splice site, from its nine letters: convolutions.

Command   python -m trainer --config=configs/splice_sites_cnn.py --workdir=runs/splice_sites_cnn
          needs `pip install mavenn`, which carries the data
Time      19 s in all (6 ms per step)
Result    R2 .751 of 6,078 test sequences; least squares on the letters, one-hot, has .190
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Splits are those of the authors. Variant `smoke`: a few steps on made-up sequences.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tasks import text_classification


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='text_regression', model='sequence')
  config.data.dataset = 'splice_sites'
  config.task.bytes = 9
  config.task.metrics = ('r2', 'rmse')
  config.model.vocabulary = text_classification.VOCABULARY
  config.model.embedding = 32
  config.model.channels = (64, 128)
  config.model.convs = 2
  config.model.kernel_size = 3
  config.model.summary = 'all'
  config.model.dropout = 0.1
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.05
  config.optimizer.ema_decay = 0.995
  config.train.steps = 2000
  config.train.global_batch_size = 128
  config.train.log_every_steps = 250
  config.eval.every_steps = 500
  config.eval.global_batch_size = 512
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.channels = (8,)
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of splice_sites_cnn. Known: smoke')
  return config
