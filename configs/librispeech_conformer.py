"""LibriSpeech, the encoder of Conformer (S) of Gulati et al., Conformer, 2020, trained by CTC on letters.

Command   python -m trainer --config=configs/librispeech_conformer.py --workdir=runs/librispeech_conformer
          --config.data.data_dir=DIR, a TFDS data directory in which librispeech is prepared
Time      not measured here
Result    not measured here; the paper has 2.7 % wrong words on test-clean without a language model, as a transducer
Machine   none yet

From the paper (section 3.1 and table 1): 80 bands in windows of 25 ms every 10 ms; SpecAugment with two masks of up to
27 bands and ten of up to a twentieth of the recording; the encoder's sizes; dropout of .1; Adam with its constants and
the peak of the learning rate, .05 over the square root of the width, after 10,000 steps. Different: letters by CTC, not
word pieces by a transducer; normalisation over channels in the convolution modules; a cosine after the warm-up, not an
inverse square root; averaged weights; no variational noise and no L2 penalty. Batch size and number of steps are ours.
Recordings are heard for 35 seconds, as long as the longest that is tested; LibriSpeech has no longer one.
Variant `smoke`: a small encoder, a few steps on made-up recordings; needs no data directory.
"""

import ml_collections

from trainer import config as config_lib
from trainer.errors import ConfigError

EPOCH = 1098  # batches of 256 of 281,241 recordings


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='ctc', model='conformer')
  config.data.dataset = 'librispeech'
  config.data.train_split = 'train_clean100+train_clean360+train_other500'
  config.data.eval_split = 'dev_clean'
  config.task.seconds = 35.0
  config.task.mel_bins = 80
  config.task.characters = " 'abcdefghijklmnopqrstuvwxyz"
  config.task.max_characters = 640
  config.task.frequency_masks = 2
  config.task.frequency_mask_bins = 27
  config.task.time_masks = 10
  config.task.time_mask_frames = 200
  config.task.time_mask_share = 0.05
  config.model.size = 'S'
  config.model.dropout = 0.1
  config.optimizer.name = 'adam'
  config.optimizer.options = '{"beta_1": 0.9, "beta_2": 0.98, "epsilon": 1e-9}'
  config.optimizer.learning_rate = 0.05 / 144**0.5
  config.optimizer.warmup_steps = 10_000
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.9999
  config.train.steps = 100 * EPOCH
  config.train.global_batch_size = 256
  config.eval.every_steps = 5 * EPOCH
  config.eval.global_batch_size = 256
  if variant == 'smoke':
    config_lib.smoke(config)
    config.data.eval_split = 'dev_clean[:8]'
    config.model.blocks = 1
    config.model.width = 16
    config.model.heads = 2
    config.train.global_batch_size = config.eval.global_batch_size = 4
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of librispeech_conformer. Known: smoke')
  return config
