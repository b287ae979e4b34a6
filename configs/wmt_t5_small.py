"""English to German, T5-small of Raffel et al., Exploring the Limits of Transfer Learning, 2020, without pre-training.

Command   python -m trainer --config=configs/wmt_t5_small.py --workdir=runs/wmt_t5_small
          --config.data.data_dir=DIR, a TFDS data directory in which wmt_t2t_translate/de-en is prepared
Time      not measured here
Result    not measured here; the paper has a BLEU of 26.7 on newstest2014 for T5-small after
          pre-training (table 14), and of 25.86 for its larger baseline without it (table 1)
Machine   none yet

From the paper (section 3.1.2, and 3.7 for sizes and search): the sizes of the model, dropout of .1, AdaFactor, whose
constants are Keras' defaults, a constant learning rate of .001 for 2^18 steps, lengths of 512, a beam of 4 with a
length penalty of .6; and the data, with newstest2013 to look at and newstest2014 for the end. Different: no
pre-training on C4; bytes, not 32,000 word pieces, so that a sentence is several times as long, and the model has
44,189,696 parameters; one pair of sentences in a row, not as many as fit, and so 1,024 rows, not 128, a number that is
ours; no prefix that names the task. BLEU is not computed: errors are edits over bytes, during training on a third of
newstest2013. On newstest2014: the same command with `--mode=eval --config.data.eval_split=test`.
Variant `smoke`: a small model on made-up texts of the same length; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='seq2seq', model='seq2seq')
  config.data.dataset = 'wmt_t2t_translate/de-en'
  config.data.eval_split = 'validation[:1000]'
  config.task.source = 'en'
  config.task.target = 'de'
  config.task.source_vocabulary = config.task.target_vocabulary = 'bytes'
  config.task.source_length = config.task.target_length = 512
  config.task.beam = 4
  config.task.length_penalty = 0.6
  config.model.size = 'small'
  config.model.dropout = 0.1
  config.optimizer.name = 'adafactor'
  config.optimizer.schedule = 'constant'
  config.optimizer.learning_rate = 1e-3
  config.train.steps = 2**18
  config.train.global_batch_size = 1024
  config.eval.every_steps = 2**14
  config.eval.global_batch_size = 256
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'validation[:8]'
    config.model.layers = 1
    config.model.width = 16
    config.model.heads = 2
    config.model.head_width = 8
    config.model.hidden = 32
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of wmt_t5_small. Known: smoke')
  return config
