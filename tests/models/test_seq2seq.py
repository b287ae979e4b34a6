"""T5: logits and numbers of parameters of others, padding that changes nothing, and decoding place by place."""

import json
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import learning, parity, parity_t5
from trainer.errors import ConfigError
from trainer.models import seq2seq

# How far a step of plain gradient descent goes in the test of learning.
RATES = {'seq2seq': 0.2, 'seq2seq_lstm': 2.0}
SMALL = {
  'seq2seq_lstm': {'embedding': 8, 'layers': 2, 'hidden': 12, 'comparison': 6},
  'seq2seq': {'layers': 2, 'width': 16, 'heads': 2, 'head_width': 8, 'hidden': 24, 'buckets': 8, 'max_distance': 6},
}
FAMILIES = sorted(SMALL)


def small(family='seq2seq', source=9, target=7, units=11, **changes):
  model = parity_t5.build(units, source, target, family, **{**SMALL[family], **changes})
  parity.fill(model)
  return model


def few(count=3, source=9, target=7, units=11):
  return parity_t5.ids(count, source, target, units)


@pytest.mark.parametrize(
  ('size', 'count'),
  [
    ('small', 60_506_624),
    ('base', 222_903_552),
    ('large', 737_668_096),
  ],
)
def test_parameters_are_as_many_as_published(size, count):
  def parameters(layers):
    return parity.parameters(lambda: parity_t5.build(32_128, 512, 114, size=size, layers=layers))

  # Every pair of blocks has as many, and to build all of them takes long.
  first, two = parameters(1), parameters(2)
  assert first + (seq2seq.SIZES[size][0] - 1) * (two - first) == count
  if size == 'small':
    assert parameters(0) == count


@pytest.mark.parametrize('name', parity_t5.CASES)
def test_logits_are_those_that_transformers_gave(name):
  expected = np.array(json.loads(parity.GOLDEN.read_text())[name])
  assert np.abs(expected).max() > 0.5
  np.testing.assert_allclose(parity_t5.ours(name)(parity_t5.ids())[:, ::8], expected, atol=1e-4)


@pytest.mark.parametrize('name', parity_t5.CASES)
def test_logits_are_those_of_transformers(name):
  pytest.importorskip('torch', exc_type=ImportError, reason='torch cannot be imported; golden.json has its logits')
  pytest.importorskip('transformers', exc_type=ImportError, reason='transformers cannot be imported')
  model = parity_t5.ours(name)
  np.testing.assert_allclose(model(parity_t5.ids())[:, ::8], parity_t5.theirs(name, model), atol=1e-4)


def test_distances_share_buckets_as_the_paper_says():
  """Of 32 buckets without direction: 16 exact, then up to 128 by the logarithm; farther ones are as the last."""
  buckets = seq2seq.distance_buckets(32, 128)
  assert buckets[:16].tolist() == list(range(16)) and buckets[-1] == 31
  expected = [16 + int(math.log(d / 16) / math.log(8) * 16 + 1e-6) for d in range(16, 128)]
  assert buckets[16:128].tolist() == expected
  table = seq2seq.Positions(1, 8, 6, causal=False)
  bias = table(tf.range(9), tf.range(9))[0, 0].numpy()
  assert bias[0, 1] != bias[1, 0] and bias[0, 1] == bias[4, 5], 'direction counts, and distance alone'
  assert bias[0, 6] == bias[0, 8] and bias[0, 6] != bias[0, 2], 'all that is far is alike'


@pytest.mark.parametrize('family', FAMILIES)
def test_padding_of_the_source_is_not_seen(family):
  model, rows = small(family), few()
  shorter = small(family, source=4)
  last = {'source': rows['source'][1:2], 'target': rows['target'][1:2]}
  assert np.count_nonzero(last['source']) == 4
  np.testing.assert_allclose(shorter({**last, 'source': last['source'][:, :4]}), model(last), atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_place_sees_the_source_and_what_came_before_it(family):
  model, rows = small(family), few()
  whole = model(rows).numpy()
  changed = {**rows, 'target': rows['target'].copy()}
  changed['target'][:, 4:] = 1 + changed['target'][:, 4:] % 10
  after = model(changed).numpy()
  np.testing.assert_array_equal(whole[:, :4], after[:, :4])
  assert np.abs(whole[:, 4:] - after[:, 4:]).max() > 1e-3
  other = model({**rows, 'source': rows['source'][::-1].copy()}).numpy()
  assert np.abs(whole - other).max(axis=(1, 2))[[0, 2]].min() > 1e-3


@pytest.mark.parametrize('family', FAMILIES)
def test_place_by_place_it_says_the_same(family):
  model, rows = small(family), few()
  expected = model(rows)
  given = model({'source': rows['source']})
  for place in range(rows['target'].shape[1]):
    token = tf.constant(rows['target'][:, place])
    found = model({**given, 'token': token, 'place': tf.constant(place)})
    given['cache'] = found['cache']
    np.testing.assert_allclose(found['logits'], expected[:, place], atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_saved_model_is_the_same_model(family, tmp_path):
  model, rows = small(family), few()
  model.save(tmp_path / 'model.keras')
  loaded = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(loaded(rows), model(rows))
  assert [v.path for v in loaded.weights] == [v.path for v in model.weights]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('policy', [pytest.param('float32', marks=pytest.mark.thorough), 'mixed_bfloat16'])
def test_it_compiles_and_learns(family, policy):
  keras.config.set_dtype_policy(policy)
  try:
    keras.utils.set_random_seed(0)
    model = parity_t5.build(11, 9, 7, family, **SMALL[family], dropout=0.1)
  finally:
    keras.config.set_dtype_policy('float32')
  rows = few(8)
  answers = np.roll(rows['target'], -1, axis=1)
  step = learning.descent(model, rows, answers, RATES[family])
  assert model(rows).dtype == tf.float32
  losses = [float(step()[0]) for _ in range(15)]
  assert np.mean(losses[-3:]) < 0.95 * losses[0]


@pytest.mark.parametrize('family', FAMILIES)
def test_other_inputs_are_refused_in_one_line(family):
  with pytest.raises(ConfigError, match=re.escape("set task.name='seq2seq'")) as caught:
    parity.build(family, (8,), **SMALL[family])
  assert '\n' not in str(caught.value)


def test_buckets_that_do_not_fit_are_named():
  with pytest.raises(ConfigError, match=r'model.buckets=8 .* model.max_distance=4 more than half') as caught:
    small(max_distance=4)
  assert '\n' not in str(caught.value)
