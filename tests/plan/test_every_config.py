"""The compilers take the step of the experiments, with their true batches, and count all of it.

By default of a few that compile in seconds; TRAINER_COMPILE=all takes every config for one v5e, and three recipes for a
slice of 16 and for eight H100. That takes hours on two cores, and 10 GB of memory.
"""

import os

import pytest

from tests.plan.test_compiler import needs_gpu, needs_tpu
from tests.tasks.test_experiments import NAMES, load
from trainer.plan import making, search

ALL = os.environ.get('TRAINER_COMPILE') == 'all'
# Those whose batch is for more than one chip -> how many share it.
SHARED = {
  'bert_base': 16, 'coco_detector': 16, 'gpt2_124m': 64, 'imagenet_resnet50': 16, 'imagenet_vit_s16': 16,
  'librispeech_conformer': 64, 'wmt_t5_small': 128,
}  # fmt: skip
RECIPES = {'imagenet_resnet50': 1024, 'imagenet_vit_s16': 1024, 'gpt2_124m': 128}


@pytest.mark.slow
@needs_tpu
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('name', NAMES if ALL else ('diabetes_linear', 'digits_cnn'))
def test_one_chip(name):
  config = load(name).get_config()
  batch = config.train.global_batch_size // SHARED.get(name, 1)
  plan = making.make(search.with_batch(config, batch), 'v5e:1')
  assert plan['target']['fits'] and not plan['target']['collectives'] and plan['examples_per_replica'] == batch
  assert not plan['model_flops_not_counted']
  # The inputs of the first layer have no gradient, which is a third of a model that has no other layer.
  assert 2 / 3 <= plan['flops_of_model_flops'] < 1.5


@pytest.mark.skipif(not ALL, reason='takes hours: set TRAINER_COMPILE=all')
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('target', [pytest.param('v5e:4x4', marks=needs_tpu), pytest.param('h100:8', marks=needs_gpu)])
@pytest.mark.parametrize('name', RECIPES)
def test_recipes_have_one_all_reduce(name, target):
  plan = making.make(search.with_batch(load(name).get_config(), RECIPES[name]), target)
  (kind,), parameters = plan['target']['collectives'], plan['parameters']
  found = plan['target']['collectives'][kind]
  assert plan['target']['fits'] and kind == 'all-reduce' and found['count'] == 1
  # Gradients and statistics of batches in float32, and the sums that a row is made of.
  assert 0 <= found['bytes'] - 4 * parameters['all'] < 1024
