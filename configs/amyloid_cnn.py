"""How readily a mutant of amyloid beta forms plaque, from its 42 letters: convolutions.

Command   python -m trainer --config=configs/amyloid_cnn.py --workdir=runs/amyloid_cnn
          needs `pip install mavenn`, which carries the data
Time      1 min 13 s in all (29 ms per step), on a machine that did other work beside
Result    R2 .742 of 759 test sequences, after .684, .677, .733 at steps 500, 1,000, 1,500; no better
          than ridge regression on the letters, one-hot, which has .743. A network without neighbours (kernels of one
          letter, no normalisation) has .693
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Splits are those of the authors. Variant `smoke`: a few steps on made-up sequences.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tasks import text_classification


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='text_regression', model='sequence')
  config.data.dataset = 'amyloid'
  config.task.bytes = 42
  config.task.metrics = ('r2', 'rmse')
  config.model.vocabulary = text_classification.VOCABULARY
  config.model.embedding = 32
  config.model.channels = (64, 64)
  config.model.convs = 2
  config.model.kernel_size = 5
  config.model.summary = 'all'
  config.model.dropout = 0.2
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
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of amyloid_cnn. Known: smoke')
  return config
