"""Spoken digits, small separable convolutions over log-mel frames; recordings held out, or (variant `speaker`) a voice.

Command   python -m trainer --config=configs/spoken_digits_cnn.py --workdir=runs/spoken_digits_cnn
          --config.data.data_dir=DIR, a TFDS data directory in which spoken_digit is prepared
Time      4 min 40 s in all, on a machine that ran two other programs beside
Result    accuracy .964 of 250 recordings held out, after .636, .908 and .944 at steps 300, 600 and 900; of the voice
          never heard (variant `speaker`, theo) .844 of 500. A logistic regression on mel bands has .968 and .51 to
          .59, on splits of its own
Machine   2 cores of an AMD EPYC (Zen 4, virtual), no accelerator; TensorFlow 2.21, Python 3.11

Held out are recordings 0 to 4 of each digit by each of the five speakers, as the authors of the set do. Variant
`speaker` trains on four speakers and is tested on all recordings of the fifth, theo, with recordings changed more
strongly; a speaker's name, such as `george`, does so with another voice. Variant `smoke`: a few steps on
made-up recordings.
"""

import ml_collections

from trainer import config as config_lib
from trainer.data.datasets.spoken_digits import SPEAKERS
from trainer.errors import ConfigError

UNHEARD = 'theo'


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = config_lib.base(task='audio_classification', model='keyword_cnn')
  config.data.dataset = 'spoken_digits'
  config.data.train_split = '+'.join(f'{speaker}[50:]' for speaker in SPEAKERS)
  config.data.eval_split = '+'.join(f'{speaker}[:50]' for speaker in SPEAKERS)
  config.task.seconds = 0.8
  config.task.equal_loudness = True
  config.task.warp = 0.05
  config.task.pace = 0.1
  config.task.later_frames = 10
  config.task.gain_db = 3.0
  config.task.tilt_db = 3.0
  config.task.frequency_masks = 1
  config.task.time_masks = 1
  config.task.label_smoothing = 0.1
  config.model.size = 'S'
  config.model.dropout = 0.1
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 4e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.05
  config.optimizer.ema_decay = 0.99
  config.train.steps = 1200
  config.train.global_batch_size = 64
  config.eval.every_steps = 300
  config.eval.global_batch_size = 200
  if variant == 'smoke':
    config_lib.smoke(config)
    config.model.channels = 8
    config.model.stages = 1
  elif variant in ('speaker', *SPEAKERS):
    unheard = UNHEARD if variant == 'speaker' else variant
    config.data.train_split = '+'.join(speaker for speaker in SPEAKERS if speaker != unheard)
    config.data.eval_split = unheard
    config.task.warp = config.task.pace = 0.15
    config.task.gain_db = config.task.tilt_db = 6.0
    config.model.dropout = 0.2
    config.optimizer.learning_rate = 3e-3
  elif variant:
    raise ConfigError(f'unknown variant {variant!r} of spoken_digits_cnn. Known: smoke, speaker, {", ".join(SPEAKERS)}')
  return config
