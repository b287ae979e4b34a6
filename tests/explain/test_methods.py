"""The methods where the right answer is known on paper."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.explain import explaining, grad_cam, mutagenesis, occlusion, rollout, sanity, subjects, views
from trainer.explain.attribution import Attribution, correlation
from trainer.explain.integrated_gradients import integrated_gradients
from trainer.explain.methods import METHODS, Case
from trainer.explain.network import Network, gradients, scores
from trainer.explain.permutation_importance import permutation_importance
from trainer.explain.smoothgrad import smoothgrad
from trainer.models import attention, ngrams

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(4, 4, 1)).astype(np.float32)


def line(x):
  """A linear model of an image, and a bias."""
  return tf.reduce_sum(x * KERNEL, axis=[1, 2, 3])[:, tf.newaxis] + 0.7


def first(outputs):
  return outputs[:, 0]


def network(model: keras.Model) -> Network:
  return Network(model, [], []).at([v.numpy() for v in model.trainable_variables], [])


def test_a_linear_model_has_its_weights_times_the_inputs():
  x, base = RANDOM.normal(size=(2, 1, 4, 4, 1)).astype(np.float32)
  found = integrated_gradients(line, x, first, baseline=base, steps=2, most_steps=2, together=2)
  np.testing.assert_allclose(found.values, (KERNEL * (x - base))[0], rtol=1e-5, atol=1e-6)
  assert found.check['complete'] and found.check['steps'] == 2
  same = smoothgrad(line, x, first, noise=0.5, samples=7, seed=(0, 0), together=3)
  np.testing.assert_allclose(same.values, KERNEL, rtol=1e-5)


def test_points_are_added_until_the_attributions_are_complete_or_it_is_said_that_they_are_not():
  def sharp(x):
    return tf.tanh(200.0 * (x - 0.31))

  x, base = np.ones([1, 1], np.float32), np.zeros([1, 1], np.float32)
  kept = {'baseline': base, 'steps': 4, 'together': 64}
  found = integrated_gradients(sharp, x, first, most_steps=1024, **kept)
  assert found.check['complete'] and found.check['steps'] > 4 and found.check['gap'] <= 0.01
  assert found.values[0] == pytest.approx(2.0, rel=0.011)
  few = integrated_gradients(sharp, x, first, most_steps=7, **kept)
  assert not few.check['complete'] and few.check['steps'] == 4 and few.check['gap'] > 0.01


def test_what_is_covered_of_a_linear_model_is_its_part():
  x = RANDOM.normal(size=(1, 4, 4, 1)).astype(np.float32)
  regions = occlusion.windows((4, 4), 2, 2)
  found = occlusion.occlusion(line, x, first, baseline=np.full_like(x, 0.5), regions=regions, together=3)
  part = (KERNEL * (x[0] - 0.5))[..., 0]
  expected = part.reshape(2, 2, 2, 2).sum(axis=(1, 3)).repeat(2, 0).repeat(2, 1)
  np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
  assert found.check == {'largest': pytest.approx(expected.max(), rel=1e-4), 'regions': 4}


@pytest.mark.parametrize(('shape', 'size', 'stride', 'count'), [((5, 7), 2, 2, 12), ((5,), 3, 4, 2), ((3, 3), 3, 1, 1)])
def test_windows_cover_all(shape, size, stride, count):
  regions = occlusion.windows(shape, size, stride)
  assert len(regions) == count and regions.any(axis=0).all()
  assert (regions.reshape(count, -1).sum(axis=1) == size ** len(shape)).all()


def camera() -> keras.Model:
  """Two channels that are the image and its negative above 0, their means, and what each counts."""
  inputs = keras.Input((4, 4, 1), name='inputs')
  x = keras.layers.Conv2D(2, 1, use_bias=False, name='conv')(inputs)
  x = keras.layers.Activation('relu', name='conv_activation')(x)
  x = keras.layers.GlobalAveragePooling2D(name='vector')(x)
  model = keras.Model(inputs, keras.layers.Dense(2, name='head')(x), name='camera')
  model.set_weights([np.array([1.0, -1.0]).reshape(1, 1, 1, 2), np.array([[3.0, 0.0], [-2.0, 0.0]]), np.zeros(2)])
  return model


def test_the_map_of_a_hand_made_network():
  net, x = network(camera()), RANDOM.normal(size=(1, 4, 4, 1)).astype(np.float32)
  called = grad_cam.layer(net.calls(x), '')
  assert called.layer.name == 'conv_activation'
  given, call = net.beyond(called, x)
  np.testing.assert_allclose(call(given), net(x), rtol=1e-6)
  found = grad_cam.grad_cam(call, given.numpy(), first, size=(4, 4))
  above, below = np.maximum(x[0, ..., 0], 0), np.maximum(-x[0, ..., 0], 0)
  np.testing.assert_allclose(found.values, np.maximum(3 * above - 2 * below, 0) / 16, rtol=1e-5)
  negative = 2 * below.sum() / (3 * above.sum() + 2 * below.sum())
  assert found.check == {'size': [4, 4], 'negative': pytest.approx(negative, rel=1e-5)}


def test_the_layer_of_a_map():
  net, x = network(camera()), np.ones([1, 4, 4, 1], np.float32)
  calls = net.calls(x)
  assert grad_cam.layer(calls, 'conv').layer.name == 'conv'
  for name, words in (('convv', "did you mean 'conv'"), ('head', 'name a layer that gives channels')):
    with pytest.raises(ConfigError, match=words):
      grad_cam.layer(calls, name)
  patches = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 2, 2), keras.layers.Flatten()])
  assert grad_cam.layer(network(patches).calls(x), '') is None


def test_attention_by_hand():
  one = np.array([[[0.0, 1.0], [0.5, 0.5]]])
  two = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
  mixed = (0.5 * np.array([[0.5, 0.5], [1.0, 0.0]]) + 0.5 * np.eye(2)) @ (0.5 * one[0] + 0.5 * np.eye(2))
  found = rollout.rollout([one, two], np.array([0.0, 1.0]))
  np.testing.assert_allclose(found.values, mixed[1])
  assert found.values.sum() == pytest.approx(1.0) and found.check == {'layers': 2, 'off': 0.0}


@pytest.mark.parametrize('keywords', [{}, {'causal': True, 'rotary_base': 1e4}, {'blocks': True}])
def test_the_shares_are_those_that_attention_takes(keywords):
  layer = attention.Attention(2, kv_heads=1, name='core', **keywords)
  query, key, value = (RANDOM.normal(size=(2, 5, 4 * n)).astype(np.float32) for n in (2, 1, 1))
  mask = np.array([[True] * 5, [True, True, True, False, False]])
  shares = layer.shares([query, key, value], key_mask=tf.constant(mask)).numpy()
  assert shares.shape == (2, 2, 5, 5) and not shares[1, :, :, 3:].any()
  mixed = np.einsum('bnts,bsk->btnk', shares, value).reshape(2, 5, 8)
  np.testing.assert_allclose(layer([query, key, value], key_mask=tf.constant(mask)), mixed, rtol=1e-4, atol=1e-5)


def test_each_substitution_in_a_matrix_of_weights():
  weights = RANDOM.normal(size=(6, 8)).astype(np.float32)  # of each place and symbol

  def call(ids):
    return tf.reduce_sum(tf.one_hot(ids, 8) * weights, axis=[1, 2])[:, tf.newaxis]

  ids, symbols = np.array([[1, 2, 3, 4, 1, 0]], np.int32), np.array([1, 2, 3, 4])
  found = mutagenesis.mutagenesis(call, ids, first, symbols=symbols, places=np.arange(5), together=4)
  expected = np.array([[weights[t, k] - weights[t, ids[0, t]] for t in range(5)] for k in symbols])
  np.testing.assert_allclose(found.values[:, :5], expected, rtol=1e-4, atol=1e-5)
  assert not found.values[:, 5].any() and found.check['substitutions'] == 15
  named = mutagenesis.strongest(found.values, list('ACGT'), [*'ACGTA', ''], most=1)
  k, t = np.unravel_index(np.abs(expected).argmax(), expected.shape)
  assert list(named) == [f'{"ACGTA"[t]}{t + 1}{"ACGT"[k]}']


def test_importance_is_what_a_linear_function_loses_on_paper():
  # E[(w x - w x')^2] = 2 w^2 Var(x) for an independent draw x' of the same feature.
  inputs = RANDOM.normal(size=(20_000, 4)).astype(np.float32) * [1.0, 2.0, 1.0, 1.0]
  weights = np.array([3.0, 1.0, 0.0, 0.5])
  target = inputs @ weights
  base, found = permutation_importance(
    lambda x: {'loss': float(np.mean((x @ weights - target) ** 2))},
    inputs, {'a': [0], 'b': [1], 'c and d': [2, 3]}, repeats=3, seed=0,
  )  # fmt: skip
  assert base == {'loss': 0.0}
  for name, expected in (('a', 18.0), ('b', 8.0), ('c and d', 0.5)):
    mean, deviation = found[name]['loss']
    assert mean == pytest.approx(expected, rel=0.05) and 0 < deviation < 0.1 * expected


def test_what_does_not_depend_on_the_weights_is_told_from_what_does():
  x = RANDOM.normal(size=(1, 60)).astype(np.float32)
  keras.utils.set_random_seed(0)
  inputs = keras.Input((60,), name='inputs')
  head = keras.layers.Dense(1, name='head')
  hidden = keras.layers.Dense(16, 'tanh', name='hidden')(inputs)
  net = network(keras.Model(inputs, head(hidden), name='two'))
  trained = [v.numpy() for v in net.model.trainable_variables]
  assert [trained[i].shape for i in sanity.last_layer(net, net.calls(x))] == [(16, 1), (1,)]
  fresh = sanity.drawn_anew(trained, [np.zeros_like(each) for each in trained], 0)
  assert fresh[0].std() == pytest.approx(trained[0].std(), rel=0.3) and not fresh[1].any()
  found = explaining.Sanity()
  for number in range(8):
    here = RANDOM.normal(size=(1, 60)).astype(np.float32)
    others = [
      net.at(sanity.drawn_anew(trained, [np.zeros_like(e) for e in trained], number + seed), []) for seed in (10, 50)
    ]
    maps = [Attribution(gradients(each, first, here)[0].astype(float), {}) for each in (net, *others)]
    found.add('gradient', *maps)
    found.add('edges', *[Attribution(np.diff(here[0], prepend=0.0), {})] * 3)
  results = found.results()
  assert results['edges'] == {'last_layer': 1.0, 'all_layers': 1.0, 'verdict': 'does not depend on the weights'}
  assert results['gradient']['verdict'] == 'depends on the weights'
  assert sanity.verdict(sanity.strength([None])) == 'cannot be told'
  falling = np.arange(9.0)[::-1]
  assert correlation(np.arange(9.0), falling) == pytest.approx(-1.0)
  assert correlation(np.arange(7.0), falling[:7]) is None and correlation(np.ones(9), falling) is None


def test_a_run_speaks_for_its_symbols():
  runs = ngrams.Runs(3, 1009, name='runs')
  ids = np.array([5, 6, 7, 0, 0])
  covered, (_, there) = runs.covers(ids), runs(ids[np.newaxis])
  assert covered.shape == (there.shape[1], 5) and not covered[:, 3:].any()
  np.testing.assert_allclose(covered[there.numpy()[0]].sum(axis=1), 1.0)
  assert covered[1].tolist() == [1, 0, 0, 0, 0]  # the first symbol alone, behind the mark
  assert covered[7 + 1].tolist() == [0.5, 0.5, 0, 0, 0]


def test_embedded_ids_are_complete():
  inputs = keras.Input((5,), dtype='int32', name='inputs')
  x = keras.layers.Embedding(9, 3, name='embedding')(inputs)
  x = keras.layers.Dense(4, 'tanh', name='hidden')(keras.layers.Flatten(name='flatten')(x))
  net = network(keras.Model(inputs, keras.layers.Dense(2, name='head')(x), name='ids'))
  fields = SimpleNamespace(baseline='auto', steps=16, most_steps=64, batch_size=8)
  ids = np.array([[3, 1, 4, 1, 0]], np.int32)
  view = views.Ids(5, lambda i: bytes([64 + i]), 0)
  subject = subjects.Subject('x', None, 'a logit', first)
  case = Case(SimpleNamespace(explain=fields), view, ids, subject, 0, lambda: ids)
  method = METHODS['integrated_gradients']
  assert method.refusal(net, case) == ''
  found = method.run(net, case)
  assert found.values.shape == (5,) and found.values[4] == 0 and found.check['complete']
  before, after = scores(net, first, np.concatenate([np.zeros_like(ids), ids]), 8)
  assert found.check['sum'] == pytest.approx(after - before, rel=0.01)
  (part,) = method.parts('integrated_gradients', case, found)
  assert [text for text, _ in part.value] == list('CADA@') and max(abs(weight) for _, weight in part.value) == 1


def test_bytes_of_one_character_are_put_together():
  text = 'aé€'.encode()
  found = subjects.characters([bytes([byte]) for byte in text], [1.0, 2, 3, 4, 5, 6])
  assert found == [('a', 1.0), ('é', 5.0), ('€', 15.0)]
  assert subjects.characters([b'a', b'\xe2'], [1.0, 2.0]) == [('a', 1.0), ('\N{REPLACEMENT CHARACTER}', 2.0)]


@pytest.mark.parametrize(
  ('sequences', 'expected'),
  [
    (['ACGU', 'UUNA'], 'ACGU'),
    (['ACG'], 'ACGT'),
    (['DAEF', 'DA*F'], 'ACDEFGHIKLMNPQRSTVWY*'),
    (['Hello'], ''),
  ],
)
def test_the_alphabet_of_sequences(sequences, expected):
  ids = [np.frombuffer(each.encode(), np.uint8).astype(np.int32) + 1 for each in sequences]
  fields = SimpleNamespace(alphabet='')
  assert explaining.alphabet(fields, 'text_regression', ids) == expected
  assert explaining.alphabet(fields, 'language_modeling', ids) == ''


@pytest.mark.parametrize(
  ('text', 'complaint'), [('grad_cam,auto', ''), ('gradcam', "did you mean 'grad_cam'"), (' ', 'names no method')]
)
def test_the_names_of_methods(text, complaint):
  said = explaining.FIELDS['methods'].rule(text)
  assert complaint in said and bool(said) == bool(complaint)
