"""What was measured is found again for the same config, devices and versions, and for no others."""

from __future__ import annotations

import json
import os

import pytest

from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.modes import benchmark_search
from trainer.runtime import measured
from trainer.runtime.cluster import Cluster

CPU = Cluster('one', '', 'cpu', 1)
CHOICE = {'policy': 'mixed_bfloat16', 'xla': False, 'reason': 'measured on 2026-01-31: 1.90 times the speed of ...'}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path / 'tf-trainer' / 'precision'


def config(**fields):
  made = config_lib.base(task='classification', model='mlp')
  made.data.dataset = 'uci_digits'
  with made.unlocked():
    made.update_from_flattened_dict(fields)
  return made


def test_what_is_written_is_found(cache):
  assert measured.find(config(), CPU) is None
  name = measured.write(measured.key(config(), CPU), CHOICE)
  assert os.listdir(cache) == [os.path.basename(name)]
  found = measured.find(config(), CPU)
  assert CHOICE.items() <= found.items()
  assert found['key']['versions'].keys() == {'trainer', 'tensorflow', 'keras'}


@pytest.mark.parametrize(
  'fields',
  [
    {'train.global_batch_size': 128},
    {'train.micro_batches': 2},
    {'model.hidden': (7,)},
    {'optimizer.name': 'sgd'},
    {'optimizer.ema_decay': 0.9},
    {'task.max_value': 16.0},
    {'data.dataset': 'mnist'},
    {'precision.xla': 'off'},
    {'deterministic': False},
  ],
)
def test_what_changes_the_step_has_its_own(fields):
  measured.write(measured.key(config(), CPU), CHOICE)
  assert measured.find(config(**fields), CPU) is None


def test_what_does_not_change_the_step_shares_it(monkeypatch):
  measured.write(measured.key(config(), CPU), CHOICE)
  same = {'optimizer.learning_rate': 0.5, 'train.steps': 7, 'seed': 3, 'data.data_dir': 'x', 'data.source': 'synthetic'}
  assert measured.find(config(**same), CPU)
  assert measured.find(config(), Cluster('mirrored', '', 'cpu', 2)) is None
  monkeypatch.setattr('keras.__version__', '3.99')
  assert measured.find(config(), CPU) is None
  monkeypatch.undo()
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math')
  assert measured.find(config(), CPU) is None


@pytest.mark.parametrize(
  ('change', 'why'),
  [
    (lambda text: text[:20], 'JSONDecodeError'),
    (lambda text: '[]', 'TypeError'),
    (lambda text: text.replace('"mixed_bfloat16"', '"bfloat17"'), 'its values make no sense'),
    (lambda text: text.replace('"version": 1', '"version": 99'), 'it is of another program'),
    (lambda text: json.dumps(json.loads(text) | {'key': {}}), 'or of another config'),
    (lambda text: '\udcff', 'UnicodeDecodeError'),
  ],
)
def test_a_damaged_file_is_ignored_and_said(change, why, caplog):
  name = measured.write(measured.key(config(), CPU), CHOICE)
  with open(name) as file:
    text = change(file.read())
  with open(name, 'w', errors='surrogateescape') as file:
    file.write(text)
  assert measured.find(config(), CPU) is None
  assert why in caplog.text and name in caplog.text and 'remove it' in caplog.text


def test_where_nothing_is_open_nothing_is_looked_for():
  settled = config(**{'precision.policy': 'float32', 'precision.xla': 'on'})
  measured.write(measured.key(settled, CPU), CHOICE)
  assert measured.find(settled, CPU) is None


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_measured(cache):
  cache.parent.mkdir()
  cache.write_text('a file')
  with pytest.raises(ConfigError, match='name another folder with XDG_CACHE_HOME'):
    benchmark_search._make_writable(measured.folder())
