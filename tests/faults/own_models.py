"""The config of test_own_models.py, a variant for each model of tests/models/tutorials.py: short, with many saves."""

import ml_collections

from trainer import config as config_lib

# Variant -> (task, TFDS set). tutorial_images and tutorial_series are made by the test.
VARIANTS = {
  'linear_regression': ('regression', 'diabetes'),
  'logistic_regression': ('classification', 'breast_cancer'),
  'feed_forward': ('classification', 'uci_digits'),
  'cnn': ('classification', 'tutorial_images'),
  'lstm': ('regression', 'tutorial_series'),
}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  task, dataset = VARIANTS[variant]
  config = config_lib.base(task=task, model=f'tests.models.tutorials:{variant}')
  config.data.dataset = dataset
  config.cluster.cpu_devices = 2
  if variant == 'logistic_regression':
    config.task.single_logit = True
  config.optimizer.name = 'adam'
  config.train.steps = 120
  config.train.global_batch_size = 16
  config.train.steps_per_loop = 5
  config.train.log_every_steps = 10
  config.eval.every_steps = 40
  config.checkpoint.every_steps = 10
  config.checkpoint.every_seconds = 0.0
  return config
