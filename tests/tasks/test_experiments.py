"""Every file in configs gives a config that obeys the rules, and says what it costs and reaches."""

import importlib.util
import pathlib

import pytest

from trainer import config as config_lib
from trainer.errors import ConfigError

FOLDER = pathlib.Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
VARIANTS = [(name, variant) for name in NAMES for variant in ('', 'smoke')] + [('digits_mlp', 'plain')]


def load(name):
  spec = importlib.util.spec_from_file_location(f'configs.{name}', FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_first_five_are_there():
  assert {'breast_cancer_logistic', 'diabetes_linear', 'digits_cnn', 'digits_mlp', 'fashion_mnist_cnn'} <= set(NAMES)


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_every_variant_obeys_the_rules(name, variant):
  config = load(name).get_config(variant)
  config_lib.check(config)
  config_lib.check_topology(config, replicas=2, workers=1)
  config_lib.check_topology(config, replicas=4, workers=2)
  assert config.is_locked
  if variant == 'smoke':
    assert config.data.source == 'synthetic'
    assert config.train.steps <= 10


@pytest.mark.parametrize('name', NAMES)
def test_an_unknown_variant_is_an_error_that_names_the_known(name):
  with pytest.raises(ConfigError, match=r'Known: .*smoke') as caught:
    load(name).get_config('smoky')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', NAMES)
def test_the_docstring_says_command_time_result_and_machine(name):
  text = load(name).__doc__
  assert f'--config=configs/{name}.py' in text
  for word in ('Command', 'Time', 'Result', 'Machine'):
    assert f'\n{word}  ' in text, word
