"""Sequence to sequence: what is learnt of a pair of texts, what is counted, and what a model writes by itself."""

import functools
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import parity_t5
from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer.errors import ConfigError
from trainer.tasks import seq2seq
from trainer.tasks.vocabulary import END, FIRST, PADDING, UNKNOWN

TEXTS = F.FeaturesDict({'word': F.Text(), 'sounds': F.Text()})
ROWS = {'word': ['cab', 'bad', 'ab'], 'sounds': ['K AE B', 'B AE D', 'AE B']}
FIELDS = {'source': 'word', 'target_vocabulary': 'words', 'source_length': 5, 'target_length': 4}
# By how frequent they are, and by their bytes where that is the same.
A, B, C, D = range(FIRST, FIRST + 4)
AE_, B_, D_, K_ = range(FIRST, FIRST + 4)
SMALL = {
  'seq2seq_lstm': {'embedding': 8, 'layers': 1, 'hidden': 12, 'comparison': 6},
  'seq2seq': {'layers': 1, 'width': 16, 'heads': 2, 'head_width': 8, 'hidden': 24, 'buckets': 8, 'max_distance': 6},
}


def make(rows=ROWS, saved=None, **changes):
  return made_up.task('seq2seq', TEXTS, rows, saved, **{**FIELDS, **changes})


@functools.cache
def made_once():
  return make()


def pair(word, sounds):
  return {'word': tf.constant(word), 'sounds': tf.constant(sounds)}


def batch(task, pairs, weight=None):
  prepared = [task.example(pair(*each)) for each in pairs]
  stacked = tf.nest.map_structure(lambda *parts: tf.stack(parts), *prepared)
  return {**stacked, 'weight': tf.constant(weight or [1.0] * len(pairs))}


PAIRS = [('cab', 'K AE B'), ('ab', 'AE B'), ('bad', 'B AE D'), ('a', 'AE')]


def outputs(task, count, seed=0):
  return np.random.default_rng(seed).normal(size=(count, FIELDS['target_length'], task.units)).astype(np.float32)


def part(made, rows):
  return tf.nest.map_structure(lambda value: value[rows], made)


def test_a_target_ends_and_is_shifted_to_be_an_input():
  task = make()
  example = task.example(pair('cabx', 'B AE'))
  assert example['inputs']['source'].numpy().tolist() == [C, A, B, UNKNOWN, PADDING]
  assert example['targets'].numpy().tolist() == [B_, AE_, END, PADDING]
  assert example['inputs']['target'].numpy().tolist() == [PADDING, B_, AE_, PADDING]
  assert task.units == FIRST + 4


def test_what_is_longer_is_cut_off():
  example = make().example(pair('cabbab', 'B AE B AE D'))
  assert example['inputs']['source'].numpy().tolist() == [C, A, B, B, A]
  assert example['targets'].numpy().tolist() == [B_, AE_, B_, AE_], 'no end is learnt where it is not seen'
  assert example['inputs']['target'].numpy().tolist() == [PADDING, B_, AE_, B_]


def test_shapes_are_static():
  task = make()
  spec = tf.data.Dataset.from_tensors(pair('ab', 'B')).map(task.example).element_spec
  assert spec['inputs'] == task.input_spec
  assert spec['targets'] == tf.TensorSpec([4], tf.int32)


@given(st.lists(st.sampled_from(['AE', 'B', 'D', 'K']), max_size=6))
@settings(max_examples=25)
def test_an_input_is_its_target_one_place_later(symbols):
  example = made_once().example(pair('a', ' '.join(symbols)))
  target, given_ = (value.numpy().tolist() for value in (example['targets'], example['inputs']['target']))
  ids = [{'AE': AE_, 'B': B_, 'D': D_, 'K': K_}[symbol] for symbol in symbols] + [END]
  assert [i for i in target if i != PADDING] == ids[:4]
  assert given_ == [PADDING, *(ids[:-1] + [PADDING] * 4)[:3]]


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_the_loss_is_that_of_keras_for_each_symbol(smoothing):
  task = make(label_smoothing=smoothing)
  made, logits = batch(task, PAIRS), outputs(task, 4)
  reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction='none')
  losses = reference(tf.one_hot(made['targets'], task.units), logits).numpy()
  sizes = [4, 3, 4, 2]
  expected = [losses[row, :size].mean() for row, size in enumerate(sizes)]
  np.testing.assert_allclose(task.losses(tf.constant(logits), made), expected, rtol=1e-5)


def test_each_symbol_counts_alike():
  task = make()
  made, logits = batch(task, PAIRS, [1.0, 1.0, 0.5, 0.0]), outputs(task, 4)
  weights, losses = task.weights(made).numpy(), task.losses(tf.constant(logits), made).numpy()
  assert weights.tolist() == [4, 3, 2, 0]
  log = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  targets = made['targets'].numpy()
  nats = [-log[row, place, targets[row, place]] for row in range(2) for place in range([4, 3][row])]
  mean = np.sum((weights * losses)[:2]) / np.sum(weights[:2])
  assert mean == pytest.approx(np.mean(nats), rel=1e-5), 'the mean over symbols, not over examples'


def test_what_is_behind_the_end_is_not_learnt():
  task = make()
  made, logits = batch(task, PAIRS[1:2]), tf.Variable(outputs(task, 1))
  with tf.GradientTape() as tape:
    losses = task.losses(logits, made)
  gradient = tape.gradient(losses, logits).numpy()
  assert np.all(gradient[0, 3:] == 0) and np.all(np.abs(gradient[0, :3]).max(axis=-1) > 0)


def test_accuracy_is_a_sum_over_symbols_and_padding_counts_nothing():
  task = make()
  made, logits = batch(task, PAIRS, [1.0, 1.0, 1.0, 0.0]), outputs(task, 4)
  logits[:3] = np.eye(task.units)[made['targets'].numpy()[:3]]
  logits[0, 1], logits[1, 2] = np.eye(task.units)[[UNKNOWN, UNKNOWN]]
  logits[3] = np.nan
  whole = task.metric_values(tf.constant(logits), made).numpy()
  assert whole.tolist() == [9, 11] and task.metric_results(whole) == {'token_accuracy': pytest.approx(9 / 11)}
  halves = [
    task.metric_values(tf.constant(logits[rows]), part(made, rows)).numpy() for rows in (slice(0, 1), slice(1, 4))
  ]
  assert (halves[0] + halves[1]).tolist() == whole.tolist()
  assert np.isnan(task.metric_results(np.zeros(2))['token_accuracy'])
  assert task.metric_names == ('token_accuracy', 'token_error', 'sequence_error')
  assert task.best == ('token_error', 'min')


def model(task, family):
  """One that writes different targets for different sources, some of which end."""
  made, random = parity_t5.build(task.units, 5, 4, family, **SMALL[family]), np.random.default_rng(0)
  for weight in made.weights:
    weight.assign(random.normal(size=weight.shape) / 2)
  return made


def written(task, family, rows, compiled=False):
  """What a small model writes for the rows of a batch, as np.ndarray."""
  network = model(task, family)

  @tf.function(jit_compile=compiled, autograph=False)
  def predict():
    return task.predictions(network, network(rows['inputs']), rows)

  return tf.nest.map_structure(lambda value: value.numpy(), predict())


@pytest.mark.parametrize('family', SMALL)
@pytest.mark.parametrize('beam', [1, 3])
def test_what_is_kept_changes_nothing_and_the_score_is_the_probability(family, beam):
  task = make(beam=beam, length_penalty=0.6)
  rows = batch(task, PAIRS)
  found = written(task, family, rows)
  again = written(make(beam=beam, length_penalty=0.6, cache=False), family, rows, compiled=True)
  np.testing.assert_array_equal(again['hypothesis'], found['hypothesis'])
  np.testing.assert_allclose(again['score'], found['score'], rtol=1e-4)
  ids = found['hypothesis']
  assert len({tuple(row) for row in ids}) > 1, 'the source is heard'
  # The model reads what it wrote as if that were the true target.
  shifted = np.pad(ids[:, :-1], [[0, 0], [1, 0]])
  taught = model(task, family)({'source': rows['inputs']['source'], 'target': shifted})
  log = tf.nn.log_softmax(taught).numpy()
  there = ids != PADDING
  total = np.where(there, np.take_along_axis(log, ids[:, :, None], axis=2)[:, :, 0], 0).sum(axis=1)
  np.testing.assert_allclose(found['score'], total / ((5 + there.sum(axis=1)) / 6) ** 0.6, rtol=1e-4)
  if beam == 1:
    likeliest = 1 + log[:, :, 1:].argmax(axis=-1)
    np.testing.assert_array_equal(ids, np.where(there, likeliest, PADDING))


def test_predictions_of_an_example_are_its_own():
  """Halves of a batch give the rows of the whole, as replicas do."""
  task = make(beam=2)
  rows = batch(task, PAIRS)
  whole = written(task, 'seq2seq', rows)
  for half in (slice(0, 2), slice(2, 4)):
    for name, value in written(task, 'seq2seq', part(rows, half)).items():
      np.testing.assert_allclose(value, whole[name][half], rtol=1e-5)


def predictions(task, rows):
  """Predictions of (word, reference, hypothesis)."""

  def targets(place):
    return np.stack([task.example(pair(row[0], row[place]))['targets'] for row in rows])

  sources = np.stack([task.example(pair(row[0], ''))['inputs']['source'] for row in rows])
  return {
    'source': sources, 'reference': targets(1), 'hypothesis': targets(2), 'score': np.zeros(len(rows), np.float32),
  }  # fmt: skip


# Of 'ab' the second answer is nearest, one edit of two symbols; of 'bad' one edit of three; 'cab' is right.
SCORED = [
  ('ab', 'K AE B', 'AE D'),
  ('cab', 'K AE B', 'K AE B'),
  ('ab', 'AE B', 'AE D'),
  ('bad', 'B AE D', 'B AE'),
  ('ab', 'B B B', 'AE D'),
]


@given(st.permutations(SCORED))
@settings(max_examples=10)
def test_the_nearest_of_several_right_answers_counts(rows):
  results = made_once().prediction_results(predictions(made_once(), rows))
  assert results == {'token_error': pytest.approx(2 / 8), 'sequence_error': pytest.approx(2 / 3)}


def test_the_end_is_no_symbol_in_an_error():
  # Cut off at four symbols, the reference has no end, and the hypothesis one of three.
  results = made_once().prediction_results(predictions(made_once(), [('a', 'B B B B', 'B B B')]))
  assert results == {'token_error': pytest.approx(1 / 4), 'sequence_error': 1.0}


def test_a_prediction_is_read_as_text():
  found = part(predictions(made_once(), SCORED), 3)
  expected = {'source': 'bad', 'hypothesis': 'B AE', 'reference': 'B AE D', 'score': 0.0}
  assert json.loads(json.dumps(made_once().readable(found))) == expected


def test_vocabularies_come_back_from_what_was_saved():
  saved = json.loads(json.dumps(made_once().state()))
  again = make(rows=None, saved=saved)
  assert again.state() == saved and again.units == made_once().units
  for name, value in made_once().example(pair('cab', 'K D'))['inputs'].items():
    np.testing.assert_array_equal(again.example(pair('cab', 'K D'))['inputs'][name], value)


def test_one_vocabulary_for_both_is_learnt_from_both():
  task = make(shared_vocabulary=True, target_vocabulary='characters')
  entries = task.state()['source_vocabulary']['entries']
  assert set(entries) == set('abcd ABDEK') and 'target_vocabulary' not in task.state()
  example = task.example(pair('b', 'B'))
  assert example['inputs']['source'][0] == FIRST + entries.index('b')
  assert example['targets'][0] == FIRST + entries.index('B')
  assert make(vocabulary_size=2).units == FIRST + 2


def test_without_examples_there_is_a_vocabulary_all_the_same():
  task = make(rows=None)
  assert task.units > FIRST and task.example(pair('ab', 'B'))['targets'].shape == (4,)


def test_texts_that_are_cut_off_are_told(monkeypatch):
  said = []
  monkeypatch.setattr(seq2seq.logging, 'warning', lambda text, *values: said.append(text % values))
  make(source_length=3)
  assert said == []
  make(source_length=2, target_length=3)
  assert len(said) == 2
  assert said[0].startswith("66.7% of the texts 'word' are longer than task.source_length=2 and cut off")
  assert said[1].startswith("66.7% of the texts 'sounds' are longer than task.target_length=3")
  make(source_length=2, saved=made_once().state())
  assert len(said) == 2, 'not again after a restart'


@pytest.mark.parametrize(
  ('features', 'changes', 'words'),
  [
    (TEXTS, {'source': 'auto'}, 'but several features are a text to read: set it to one of sounds, word'),
    (TEXTS, {'source': 'wrod'}, "did you mean 'word'?"),
    (TEXTS, {'shared_vocabulary': True}, 'task.shared_vocabulary needs one kind'),
    (made_up.images(), {'source': 'auto'}, 'no feature of the dataset is a text to read'),
    (made_up.images(), {'source': 'label'}, 'is not a text to read'),
    (F.FeaturesDict({'word': F.Text()}), {}, 'no feature of the dataset is a text to write'),
  ],
)
def test_what_does_not_fit_is_named(features, changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    made_up.task('seq2seq', features, None, **{**FIELDS, **changes})
  assert '\n' not in str(caught.value)
