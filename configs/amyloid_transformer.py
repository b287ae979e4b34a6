"""How readily a mutant of amyloid beta forms plaque, from its 42 letters: a transformer.

Command   python -m trainer --config=configs/amyloid_transformer.py --workdir=runs/amyloid_transformer
          needs `pip install mavenn`, which carries the data
Time      2 min 33 s in all (45 ms per step), on a machine that did other work beside
Result    R2 .753 of 759 test sequences, after .660, .737, .746 and .750 at steps 500 to 2,000. Ridge regression on the
          letters has .747, a feed-forward network (amyloid_mlp) .7726
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Splits are those of the authors. Variant `smoke`: a few steps on made-up sequences.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tasks import text_classification


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='text_regression', model='sequence_transformer')
  config.data.dataset = 'amyloid'
  config.task.bytes = 42
  config.task.metrics = ('r2', 'rmse')
  config.model.vocabulary = text_classification.VOCABULARY
  config.model.layers = 2
  config.model.width = 64
  config.model.heads = 4
  config.model.summary = 'all'
  config.model.dropout = 0.1
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.995
  config.train.steps = 2500
  config.train.global_batch_size = 128
  config.train.log_every_steps = 250
  config.eval.every_steps = 500
  config.eval.global_batch_size = 256
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.layers = 1
    config.model.width = 16
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of amyloid_transformer. Known: smoke')
  return config
