"""GPT-2 and Llama: parameters as published, logits of others, no look ahead, and places one by one as all at once."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity, parity_gpt
from trainer.errors import ConfigError
from trainer.models import gpt

# Radford et al. say 117 M to 1542 M; these are the released weights', as transformers counts them. Llama: Touvron et
# al., table 2, 6.7 B; the released Llama 3.2 of 1 billion (its head is the embedding) and 3 of 8 billion.
PUBLISHED = {
  'gpt2': (50_257, 1024, 124_439_808),
  'gpt2_medium': (50_257, 1024, 354_823_168),
  'gpt2_large': (50_257, 1024, 774_030_080),
  'gpt2_xl': (50_257, 1024, 1_557_611_200),
  'llama_7b': (32_000, 64, 6_738_415_616),
  'llama3_1b': (128_256, 64, 1_235_814_400),
  'llama3_8b': (128_256, 64, 8_030_261_248),
}


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameters_are_as_many_as_published(size):
  vocabulary, context, count = PUBLISHED[size]

  def parameters(layers):
    return parity.parameters(lambda: parity_gpt.build(vocabulary, context, size=size, layers=layers))

  # Every block has as many, and to build all of them takes long.
  first, two = parameters(1), parameters(2)
  assert first + (gpt.SIZES[size].layers - 1) * (two - first) == count
  if size == 'gpt2':
    assert parameters(0) == count


@pytest.mark.parametrize('name', parity_gpt.CASES)
def test_logits_are_those_that_transformers_gave(name):
  expected = np.array(json.loads(parity.GOLDEN.read_text())[name])
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(parity_gpt.ours(name)(parity_gpt.ids())[:, ::8], expected, atol=1e-4)


@pytest.mark.parametrize('name', parity_gpt.CASES)
def test_logits_are_those_of_transformers(name):
  pytest.importorskip('transformers', reason='transformers is not installed; golden.json has it')
  model = parity_gpt.ours(name)
  np.testing.assert_allclose(model(parity_gpt.ids())[:, ::8], parity_gpt.theirs(name, model), atol=1e-4)


@pytest.mark.parametrize('name', parity_gpt.CASES)
def test_no_place_sees_a_later_one(name):
  model, ids = parity_gpt.ours(name), parity_gpt.ids()
  changed = ids.copy()
  changed[:, 10:] = (ids[:, 10:] + 1) % parity_gpt.UNITS
  before, after = model(ids).numpy(), model(changed).numpy()
  np.testing.assert_array_equal(before[:, :10], after[:, :10])
  assert np.abs(before[:, 10:] - after[:, 10:]).max() > 0.1


@pytest.mark.parametrize('name', parity_gpt.CASES)
@pytest.mark.parametrize('xla', [False, True])
def test_one_place_at_a_time_gives_the_same_logits(name, xla):
  model, ids = parity_gpt.ours(name), parity_gpt.ids()
  step = tf.function(model, jit_compile=xla, autograph=False)
  cache, found = model({'start': ids}), []
  for place in range(ids.shape[1]):
    out = step({'token': tf.constant(ids[:, place]), 'place': tf.constant(place), 'cache': cache})
    cache, found = out['cache'], [*found, out['logits']]
  np.testing.assert_allclose(np.stack(found, axis=1), model(ids), atol=2e-5)


def test_dropout_is_only_in_training():
  model = parity_gpt.build(layers=2, width=16, heads=2, dropout=0.5)
  ids = parity_gpt.ids()
  np.testing.assert_array_equal(model(ids), model(ids))
  assert np.abs(model(ids, training=True).numpy() - model(ids, training=True).numpy()).max() > 1e-3
  paths = [variable.path for variable in model.variables]
  assert len(set(paths)) == len(paths)


def test_first_weights_are_those_of_the_paper():
  keras.utils.set_random_seed(0)
  model = parity_gpt.build(units=200, layers=8, width=64, heads=4)
  deviation = {v.path.removeprefix('gpt/'): float(np.std(v.numpy())) for v in model.trainable_variables}
  assert deviation['tokens/embeddings'] == pytest.approx(0.02, rel=0.05)
  assert deviation['block3/up/kernel'] == pytest.approx(0.02, rel=0.05)
  assert deviation['block3/out/kernel'] == pytest.approx(0.02 / 4, rel=0.05)
  assert deviation['block3/down/kernel'] == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize('name', parity_gpt.CASES)
def test_a_saved_model_comes_back(name, tmp_path):
  model = parity_gpt.ours(name)
  model.save(tmp_path / 'model.keras')
  again = keras.saving.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(again(parity_gpt.ids()), model(parity_gpt.ids()))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'width': 30, 'heads': 4}, 'model.heads=4 does not divide the width 30'),
    ({'width': 32, 'heads': 4, 'kv_heads': 3}, 'model.kv_heads=3 does not divide the 4 heads'),
    ({'size': 'llama_7b', 'width': 12, 'heads': 4}, 'a head has 3'),
  ],
)
def test_widths_that_do_not_fit(changes, message):
  with pytest.raises(ConfigError, match=message):
    parity_gpt.build(layers=1, **changes)
