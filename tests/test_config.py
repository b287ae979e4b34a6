"""Every field, every rule, and what a change on resume means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import config as config_lib
from trainer import models, tasks
from trainer.errors import ConfigError
from trainer.fields import Field, look_up, nearest


def good(**changes):
  """A valid config, with changes as section__field=value."""
  config = config_lib.base(task='classification', model='mlp')
  config.data.dataset = 'uci_digits'
  for path, value in changes.items():
    section, _, field = path.rpartition('__')
    part = config[section] if section else config
    with part.unlocked():
      part[field] = value
  return config


def complaint(**changes) -> str:
  with pytest.raises(ConfigError) as caught:
    config_lib.check(good(**changes))
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('model', sorted(models.FAMILIES))
@pytest.mark.parametrize('task', sorted(tasks.TASKS))
def test_defaults_obey_their_rules(task, model):
  config = config_lib.base(task=task, model=model)
  config.data.dataset = 'uci_digits'
  config_lib.check(config)


def test_every_field_has_a_meaning():
  for section, name, field in config_lib.declared(good()):
    assert isinstance(field, Field) and len(field.meaning) > 5, (section, name)


@given(st.sampled_from(sorted(config_lib.flatten(good()))), st.integers(0, 20))
def test_a_misspelt_field_names_the_nearest(path, position):
  section, _, name = path.rpartition('.')
  misspelt = name[: position % len(name)] + name[position % len(name) + 1 :] + 'z'
  config = good()
  part = config[section] if section else config
  with part.unlocked():
    part[misspelt] = 1
  with pytest.raises(ConfigError, match='unknown config field'):
    config_lib.check(config)


def test_did_you_mean():
  assert "unknown config field 'train.stepz'; did you mean 'train.steps'?" in complaint(train__stepz=5)
  assert nearest('resnet_50', ['resnet50', 'vit']) == "; did you mean 'resnet50'?"
  with pytest.raises(ConfigError, match="unknown model 'mpl'; did you mean 'mlp'"):
    look_up('model', 'mpl', {'mlp': 1, 'cnn': 2})


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({'train__steps': 0}, 'train.steps=0 must be at least 1'),
    ({'train__steps': True}, 'must be int'),
    ({'seed': -1}, 'seed=-1 must be at least 0'),
    ({'optimizer__learning_rate': 0.0}, 'must be above 0'),
    ({'optimizer__ema_decay': 1.0}, 'below 1'),
    ({'optimizer__name': 'adamx'}, "did you mean 'adam"),
    ({'optimizer__schedule': 'cosin'}, "did you mean 'cosine'"),
    ({'optimizer__options': '{"beta_3": 1}'}, 'does not take'),
    ({'optimizer__warmup_steps': 2000}, 'more than train.steps'),
    ({'data__dataset': ''}, 'data.dataset is empty'),
    ({'data__lanes': 128}, 'data.lanes=128 is more than train.global_batch_size=64'),
    ({'data__lanes': 48}, 'not divisible by data.lanes=48'),
    ({'train__micro_batches': 3}, 'not divisible by train.micro_batches=3'),
    ({'cluster__strategy': 'horovod'}, 'must be one of auto'),
    ({'precision__policy': 'bfloat16'}, "did you mean 'mixed_bfloat16'"),
    ({'model__name': 'mpl'}, "did you mean 'mlp'"),
    ({'task__name': 'clasification'}, "did you mean 'classification'"),
  ],
)
def test_a_broken_rule_is_one_line_with_the_fix(changes, expected):
  assert expected in complaint(**changes)


def test_credentials_are_refused_and_not_repeated():
  config = good()
  config.data.data_dir = 's3://key:SECRET@bucket/tfds'
  with pytest.raises(ConfigError, match=r'data\.data_dir is an address with a user or a password in it') as caught:
    config_lib.check(config)
  assert 'SECRET' not in str(caught.value)


def test_an_int_is_good_where_a_float_is_asked_for():
  config_lib.check(good(optimizer__learning_rate=1))


@pytest.mark.parametrize(
  ('replicas', 'workers', 'changes', 'expected'),
  [
    (3, 1, {}, 'not divisible by 3 replicas x 1'),
    (4, 1, {'train__micro_batches': 32}, 'make it a multiple of 128'),
    (4, 1, {'eval__global_batch_size': 6}, 'eval.global_batch_size=6'),
  ],
)
def test_batches_are_shared_out_evenly(replicas, workers, changes, expected):
  with pytest.raises(ConfigError, match=expected):
    config_lib.check_topology(good(**changes), replicas, workers)


@given(st.integers(1, 4096), st.lists(st.integers(1, 4096), max_size=4))
def test_a_mixture_gives_each_set_whole_examples(batch, others):
  mixture = tuple((f'set{i}', rows / batch) for i, rows in enumerate(others) if rows < batch)
  rows = [round(weight * batch) for _, weight in mixture]
  config = good(train__global_batch_size=batch, data__mixture=mixture)
  if sum(rows) < batch:
    assert config_lib.mixture_rows(config) == [batch - sum(rows), *rows]
  else:
    with pytest.raises(ConfigError, match='leaves nothing'):
      config_lib.mixture_rows(config)


def test_mistakes_in_a_mixture_are_one_line():
  for mixture, words in (
    ((('other', 0.3),), r'0\.3 of .*=64 is no whole number of examples of .other.: take 0\.296875 or 0\.3125'),
    ((('other', 0.001),), r'take 0\.015625'),
    ((('other', 1.5),), 'must be above 0 and below 1'),
    (('other', 0.5), 'must be pairs of a name and a share'),
    ((('a', 0.5), ('b', 0.5)), 'leaves nothing'),
  ):
    with pytest.raises(ConfigError, match=words):
      config_lib.check(good(data__mixture=mixture))
  with pytest.raises(ConfigError, match='has 54, 18 examples of its sets, which 4 replicas'):
    config_lib.check_topology(good(data__mixture=(('other', 0.25),), train__global_batch_size=72), 4, 1)


@given(st.integers(1, 5000))
def test_lanes_divide_the_batch_and_are_at_most_64(batch):
  lanes = config_lib.lanes(good(train__global_batch_size=batch), batch)
  assert batch % lanes == 0 and 1 <= lanes <= 64
  assert not any(batch % more == 0 for more in range(lanes + 1, min(64, batch) + 1))


def test_changes_tell_what_would_break_the_run():
  before = json.loads(config_lib.to_json(good()))
  assert config_lib.changes(good(), before) == []
  changed = good(train__steps=5000, seed=1, optimizer__learning_rate=0.5)
  assert config_lib.changes(changed, before) == [
    ('optimizer.learning_rate', 0.001, 0.5, False),
    ('seed', 0, 1, True),
    ('train.steps', 1000, 5000, False),
  ]


def test_tuples_survive_json():
  config = good(optimizer__schedule='piecewise', optimizer__boundaries=(10, 20))
  assert config_lib.changes(config, json.loads(config_lib.to_json(config))) == []


def test_a_field_of_another_version_breaks_nothing():
  before = json.loads(config_lib.to_json(good()))
  before['train']['retired_field'] = 3
  del before['data']['lanes']
  assert [breaks for *_, breaks in config_lib.changes(good(), before)] == [False, False]
