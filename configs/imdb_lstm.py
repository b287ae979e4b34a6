"""Whether a film review is good or bad, from its bytes: the network of Chollet, Bidirectional LSTM on IMDB, 2020 (an
example in Keras' documentation).

Command   python -m trainer --config=configs/imdb_lstm.py --workdir=runs/imdb_lstm
          --config.data.data_dir=DIR, a TFDS data directory in which imdb_reviews is prepared
Time      not measured here
Result    not measured here: the set cannot be had without a network
Machine   none yet

The example reads the first 200 words of a review; here it is the first 1,024 bytes, which are about as long. So the
vector is the mean over the bytes, not the last state, a warm-up and a limit of the gradient's norm are added, and there
are more epochs: ten. Variant `smoke`: narrow layers, a few steps on made-up reviews; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tasks import text_classification

EPOCH = 782  # batches of 32 of 25,000 reviews


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='text_classification', model='rnn')
  config.data.dataset = 'imdb_reviews'
  config.task.bytes = 1024
  config.model.vocabulary = text_classification.VOCABULARY
  config.model.embedding = 128
  config.model.hidden = (64, 64)
  config.model.bidirectional = True
  config.model.summary = 'mean'
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.train.steps = 10 * EPOCH
  config.train.global_batch_size = 32
  config.eval.every_steps = EPOCH
  config.eval.global_batch_size = 200
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.embedding = 8
    config.model.hidden = (4, 4)
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of imdb_lstm. Known: smoke')
  return config
