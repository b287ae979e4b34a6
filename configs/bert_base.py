"""English Wikipedia, BERT-base as a masked language model: Devlin et al., BERT, 2019, section A.2.

Command   python -m trainer --config=configs/bert_base.py --workdir=runs/bert_base
          --config.data.data_dir=DIR, a TFDS data directory in which wikipedia/20230601.en is prepared; to
          pack it for the first time needs `pip install tokenizers`
Time      not measured here
Result    not measured here
Machine   none yet

Batches of 256 texts of 512 tokens, a million steps of Adam at 1e-4 with 10,000 of warm-up and a linear fall, decay of
.01, dropout of .1 and 30,522 ids are the paper's. What differs: tokens are joined pairs of bytes, not word pieces; no
books and no next-sentence objective; each text of 512 from the beginning, where the paper has 128 for nine tenths of
the steps. Variant `smoke`: a few steps on made-up tokens, one narrow block; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='masked_language_modeling', model='bert')
  config.data.dataset = 'wikipedia/20230601.en'
  config.data.train_split = 'train[:99%]'
  config.data.eval_split = 'train[99%:]'
  config.data.pack_tokens = 512
  config.data.pack_feature = 'text'
  config.data.pack_tokenizer = 'bpe'
  config.data.pack_vocabulary = 30_520  # and padding and the mask
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-4
  config.optimizer.schedule = 'polynomial'
  config.optimizer.warmup_steps = 10_000
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.train.steps = 1_000_000
  config.train.global_batch_size = 256
  config.eval.every_steps = 50_000
  config.eval.global_batch_size = 256
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.pack_vocabulary = 300
    config.model.layers = 1
    config.model.width = 16
    config.model.heads = 2
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of bert_base. Known: smoke')
  return config
