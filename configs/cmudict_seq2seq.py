"""Spelling to phonemes of English words, a small encoder-decoder transformer.

Command   python -m trainer --config=configs/cmudict_seq2seq.py --workdir=runs/cmudict_seq2seq
          needs `pip install pocketsphinx`, which carries the data
Time      8 min 49 s in all (156 ms per step; 72 alone), on a machine that did other work beside
Result    phoneme error rate .094 on all 13,508 test examples, .368 of the words not exactly
          right (token_error, sequence_error); saying each letter by itself has .504
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

No word of the test split is in the training split. Errors are of the likeliest phoneme each time; of a word with
several pronunciations the nearest counts. With a beam, `--mode=eval --config.task.beam=4`, they
were .090 and .358, and .096 and .364 without, of the weights of the last step (`optimizer.ema_decay=0`).
Variant `smoke`: a few steps on made-up words.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='seq2seq', model='seq2seq')
  config.precision.policy = 'mixed_bfloat16'  # a processor with AMX does it faster
  config.data.dataset = 'cmudict'
  config.task.source = 'word'
  config.task.target = 'phonemes'
  config.task.target_vocabulary = 'words'
  config.task.source_length = 20
  config.task.target_length = 20
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
    config.model.layers = 1
    config.model.width = 16
    config.model.hidden = 32
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of cmudict_seq2seq. Known: smoke')
  return config
