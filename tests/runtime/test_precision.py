"""The table of choices, over fake devices."""

from __future__ import annotations

import keras
import pytest

from tests.runtime.settings import config
from trainer.errors import ConfigError
from trainer.runtime import devices, precision
from trainer.runtime.cluster import Cluster


def choose(kind: str, capability: tuple[int, int] = (0, 0), **fields) -> precision.Precision:
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(precision, '_capability', lambda cluster: capability)
    kept, measured = fields.pop('kept', None), fields.pop('measured', None)
    return precision.choose(config(**fields), Cluster('one', '', kind, 1), kept, measured)


@pytest.mark.parametrize(
  ('kind', 'capability', 'policy', 'xla'),
  [
    ('cpu', (0, 0), 'float32', False),
    ('tpu', (0, 0), 'mixed_bfloat16', False),
    ('gpu', (9, 0), 'mixed_bfloat16', True),
    ('gpu', (8, 0), 'mixed_bfloat16', True),
    ('gpu', (12, 0), 'mixed_bfloat16', True),
    ('gpu', (7, 5), 'mixed_float16', True),
    ('gpu', (7, 0), 'mixed_float16', True),
    ('gpu', (6, 1), 'float32', True),
    ('gpu', (0, 0), 'float32', True),
  ],
)
def test_auto(kind, capability, policy, xla):
  chosen = choose(kind, capability)
  assert (chosen.policy, chosen.xla) == (policy, xla)
  assert chosen.policy_reason
  assert chosen.xla_reason


@pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16', 'mixed_float16'])
@pytest.mark.parametrize('kind', ['cpu', 'gpu'])
def test_what_is_asked_for_is_done(kind, policy):
  chosen = choose(kind, (7, 0), policy=policy, xla='on')
  assert (chosen.policy, chosen.xla) == (policy, True)
  assert f'precision.policy={policy!r} asks for it' in chosen.policy_reason
  assert not choose(kind, (7, 0), xla='off').xla


def test_bfloat16_on_a_gpu_without_units_for_it_is_said_to_be_slow():
  assert 'slower than float32' in choose('gpu', (7, 5), policy='mixed_bfloat16').policy_reason
  assert 'slower' not in choose('gpu', (8, 0), policy='mixed_bfloat16').policy_reason


def test_what_a_tpu_cannot_do_is_refused():
  with pytest.raises(ConfigError, match=r"precision.policy='mixed_float16', but a TPU computes in bfloat16"):
    choose('tpu', policy='mixed_float16')
  with pytest.raises(ConfigError, match=r"precision.xla='off', but a TPU"):
    choose('tpu', xla='off')
  assert not choose('tpu', xla='on').xla


def test_the_least_able_gpu_decides(monkeypatch):
  import tensorflow as tf

  able = {0: (9, 0), 1: (7, 5), 2: (8, 0)}
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: [0, 1, 2])
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda gpu: {'compute_capability': able[gpu]})
  assert precision.choose(config(), Cluster('mirrored', '', 'gpu', 3, gpus=(0, 1, 2))).policy == 'mixed_float16'
  assert precision.choose(config(), Cluster('mirrored', '', 'gpu', 2, gpus=(0, 2))).policy == 'mixed_bfloat16'
  monkeypatch.setattr(tf.config.experimental, 'get_device_details', lambda gpu: {})
  assert precision.choose(config(), Cluster('one', '', 'gpu', 1, gpus=(0,))).policy == 'float32'


MEASURED = {'policy': 'mixed_bfloat16', 'xla': True, 'reason': 'measured on 2026-01-31: 1.90 times'}
KEPT = {'cpu': {'policy': 'float32', 'xla': True, 'policy_reason': 'measured long ago', 'xla_reason': 'the same'}}


def test_what_was_measured_goes_before_the_table():
  chosen = choose('cpu', measured=MEASURED)
  assert (chosen.policy, chosen.xla) == ('mixed_bfloat16', True)
  assert chosen.policy_reason == chosen.xla_reason == MEASURED['reason']
  asked = choose('cpu', measured=MEASURED, policy='float32')
  assert (asked.policy, asked.xla) == ('float32', True) and 'asks for it' in asked.policy_reason
  assert not choose('tpu', measured=MEASURED).xla  # it compiles anyway


def test_a_run_keeps_what_it_began_with():
  chosen = choose('cpu', kept=KEPT, measured=MEASURED)
  assert (chosen.policy, chosen.xla) == ('float32', True)
  assert chosen.policy_reason == 'as this run began: measured long ago'
  assert chosen.record() == KEPT['cpu']  # however often it is resumed
  assert not choose('cpu', kept=KEPT, xla='off').xla
  assert choose('cpu', kept={}, measured=None) == choose('cpu')


def test_on_another_kind_of_device_it_chooses_anew_and_says_so():
  chosen = choose('gpu', (7, 5), kept=KEPT)
  assert (chosen.policy, chosen.xla) == ('mixed_float16', True)
  assert chosen.policy_reason.endswith('(this run has had float32 on a CPU)')
  assert choose('gpu', (8, 0), kept=KEPT, measured=MEASURED).policy_reason.startswith('measured on')


def test_the_word_of_the_chief():
  own = choose('cpu')
  assert precision.of_code(own.code, own) is own
  for policy in precision.POLICIES:
    for xla in ('on', 'off'):
      chief = choose('cpu', policy=policy, xla=xla)
      other = precision.of_code(chief.code, own)
      assert (other.policy, other.xla) == (chief.policy, chief.xla)


@pytest.mark.parametrize(
  ('kind', 'units', 'capability', 'fields', 'expected'),
  [
    ('cpu', ['amx_bf16'], (0, 0), {}, ['float32 off', 'float32 on', 'mixed_bfloat16 off', 'mixed_bfloat16 on']),
    ('cpu', ['avx2'], (0, 0), {}, ['float32 off', 'float32 on']),
    ('cpu', ['bf16'], (0, 0), {'xla': 'off'}, ['float32 off', 'mixed_bfloat16 off']),
    ('cpu', ['avx2'], (0, 0), {'policy': 'mixed_bfloat16'}, ['mixed_bfloat16 off', 'mixed_bfloat16 on']),
    ('gpu', [], (9, 0), {'xla': 'on'}, ['float32 on', 'mixed_bfloat16 on']),
    ('gpu', [], (7, 5), {'xla': 'on'}, ['float32 on', 'mixed_float16 on']),
    ('gpu', [], (6, 0), {}, ['float32 off', 'float32 on']),
    ('tpu', [], (0, 0), {}, ['float32 auto', 'mixed_bfloat16 auto']),
    ('tpu', [], (0, 0), {'policy': 'float32'}, ['float32 auto']),
  ],
)
def test_candidates(monkeypatch, kind, units, capability, fields, expected):
  monkeypatch.setattr(precision, '_capability', lambda cluster: capability)
  monkeypatch.setattr(devices, 'cpu_units', lambda: units)
  found = precision.candidates(config(**fields), Cluster('one', '', kind, 1))
  assert [' '.join(pair) for pair in found] == expected


def test_apply_sets_the_policy_of_new_layers():
  before = keras.config.dtype_policy()
  try:
    precision.apply(choose('tpu'))
    layer = keras.layers.Dense(1)
    assert (layer.compute_dtype, layer.variable_dtype) == ('bfloat16', 'float32')
  finally:
    keras.config.set_dtype_policy(before)
