"""Shakespeare's plays byte by byte, a small GPT: the setting that nanoGPT's README gives for a CPU.

Command   python -m trainer --config=configs/shakespeare_gpt.py --workdir=runs/shakespeare_gpt
          --config.data.data_dir=DIR, a TFDS data directory in which tiny_shakespeare is prepared
Time      89 s in all (46 ms per step), on a machine that did other work beside
Result    validation loss 1.776 nats per byte (2.562 bits) over all 55,796 bytes; nanoGPT's
          README has 1.88 for this setting, on its own split and a sample of batches
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Layers, heads, width, context, batch, steps and decay are nanoGPT's; the learning rate is twice its 1e-3, and the
weights are averaged. With 1e-3 and without averaging the loss is 1.886. Byte-pair encoding
(--config.data.pack_tokenizer=bpe --config.data.pack_vocabulary=1024; needs `pip install tokenizers`) has 2.208 bits per
byte, or 1.530 nats, in 108 s: the context of 64 tokens is longer then.

`--mode=predict` writes how the model goes on from the beginning of each example; of one that was trained so:

  GREMIO:
  Good morrow, neighbou|r'd the mean I know,
  Peason go the cropess,
  One all my lives hather, our do see: sir!

 The texts are packed once into a set of their own in the data directory.
Variant `smoke`: a few steps on made-up tokens.

`sweep` is what scripts/tune tries: 16 points of what has most to say about the loss here. With --halving (rungs at 500
and 2,000 steps, for --eta=3) it takes less than half of the steps of 16 runs.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.tune import space


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='language_modeling', model='gpt')
  config.data.dataset = 'tiny_shakespeare'
  config.data.eval_split = 'validation'
  config.data.pack_tokens = 64
  config.data.pack_stride = 16
  config.model.layers = 4
  config.model.heads = 4
  config.model.width = 128
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 2e-3
  config.optimizer.end_factor = 0.1
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 1.0
  config.optimizer.options = '{"beta_2": 0.99}'
  config.optimizer.ema_decay = 0.99
  config.train.steps = 2000
  config.train.global_batch_size = 12
  config.train.log_every_steps = 250
  config.eval.every_steps = 500
  config.eval.global_batch_size = 120
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.layers = 2
    config.model.width = 32
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of shakespeare_gpt. Known: smoke')
  return config


def sweep() -> space.Space:
  return space.space(
    {
      'optimizer.learning_rate': space.log_uniform(5e-4, 8e-3),
      'optimizer.weight_decay': space.choice(0.0, 0.1, 0.3),
      'optimizer.ema_decay': space.choice(0.0, 0.98, 0.99),
      'model.dropout': space.uniform(0.0, 0.2),
    },
    count=16,
  )
