"""C4, GPT-2 of 124 million parameters: Radford et al., Language Models are Unsupervised Multitask Learners, 2019.

Command   python -m trainer --config=configs/gpt2_124m.py --workdir=runs/gpt2_124m
          --config.data.data_dir=DIR, a TFDS data directory in which c4/en is prepared; to pack it for the first time
          needs `pip install tokenizers`
Time      not measured here
Result    not measured here
Machine   none yet

The model, its 50,257 tokens of byte-pair encoding and texts of 1,024 are the paper's, which does not give the rest.
Half a million tokens per step, the peak of 6e-4 and its fall to a tenth, decay of .1, second moments of .95 and the
clipping are those of Brown et al., Language Models are Few-Shot Learners, 2020, table 2.1 and appendix B, for this
size; 600,000 steps with 2,000 of warm-up are those of nanoGPT. What differs: the text is C4 and not WebText, and the
pairs are learnt from it; --config.data.pack_tokenizer=FILE takes GPT-2's own tokenizer.json instead. Variant `smoke`: a
few steps on made-up tokens, one narrow block; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='language_modeling', model='gpt')
  config.data.dataset = 'c4/en'
  config.data.eval_split = 'validation'
  config.data.pack_tokens = 1024
  config.data.pack_feature = 'text'
  config.data.pack_tokenizer = 'bpe'
  config.data.pack_vocabulary = 50_257
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 6e-4
  config.optimizer.end_factor = 0.1
  config.optimizer.warmup_steps = 2000
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 1.0
  config.optimizer.options = '{"beta_2": 0.95, "epsilon": 1e-8}'
  config.train.steps = 600_000
  config.train.global_batch_size = 512
  config.eval.every_steps = 10_000
  config.eval.global_batch_size = 512
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.pack_tokens = 16
    config.data.pack_vocabulary = 300
    config.model.layers = 1
    config.model.width = 16
    config.model.heads = 2
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of gpt2_124m. Known: smoke')
  return config
