"""Letters from recordings: the loss against all alignments one by one, what is counted, and how it is read."""

import itertools
import re

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.tasks import made_up, recordings
from trainer.errors import ConfigError
from trainer.tasks import ctc_loss, edits


def task(*texts, **changes):
  """A task whose training split has these transcripts."""
  return recordings.task('ctc', [recordings.row(200, text) for text in texts], **{'max_characters': 6, **changes})


def collapsed(path):
  return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def by_enumeration(logits, transcript):
  """The definition: minus the logarithm of the sum over all paths that collapse to the transcript."""
  logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
  total = [sum(logs[s, v] for s, v in enumerate(path)) for path in paths if collapsed(path) == transcript]
  return -np.log(np.sum(np.exp(total))) if total else np.inf


@hypothesis.settings(max_examples=30)
@hypothesis.given(
  transcript=st.lists(st.integers(1, 2), max_size=4),
  frames=st.integers(1, 5),
  seed=st.integers(0, 2**31),
  filler=st.integers(0, 2),
)
def test_the_loss_is_the_sum_over_all_alignments(transcript, frames, seed, filler):
  logits = np.random.default_rng(seed).normal(size=(1, 6, 3)) * 2
  symbols = np.array([transcript + [filler] * (4 - len(transcript))], np.int32)
  got = ctc_loss.negative_log_likelihoods(
    tf.constant(logits, tf.float32), tf.constant([frames]), tf.constant(symbols), tf.constant([len(transcript)]), 0
  )
  expected = by_enumeration(logits[0, :frames], transcript)
  if np.isinf(expected):
    assert got > ctc_loss.IMPOSSIBLE
  else:
    np.testing.assert_allclose(got, [expected], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('compiled', [False, True])
def test_loss_and_gradient_are_those_of_the_kernel_that_xla_has_not(compiled):
  random = np.random.default_rng(0)
  logits = tf.constant(random.normal(size=(4, 30, 8)), tf.float32)
  count, frames = np.int32([7, 1, 4, 7]), np.int32([30, 9, 12, 14])
  symbols = random.integers(1, 8, (4, 7)).astype(np.int32)
  symbols[2, :4] = [5, 5, 2, 2]
  filled = np.where(np.arange(7) < count[:, None], symbols, 0)

  def with_gradient(function):
    with tf.GradientTape() as tape:
      tape.watch(logits)
      losses = function()
    return losses, tape.gradient(losses, logits)

  ours = tf.function(
    lambda: with_gradient(lambda: ctc_loss.negative_log_likelihoods(logits, frames, symbols, count, 0)),
    jit_compile=compiled,
    autograph=False,
  )()
  labels = tf.sparse.from_dense(filled)
  theirs = with_gradient(lambda: tf.nn.ctc_loss(labels, logits, None, frames, logits_time_major=False, blank_index=0))
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
  np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)


def test_an_example():
  made = task('ba', 'a é')
  assert made.state()['characters'] == [' ', 'a', 'b', 'é'] and made.units == 6
  example = made.example(recordings.row(90, 'ÉAx'))
  assert example['targets']['symbols'].numpy().tolist() == [4, 2, 5, 0, 0, 0], 'x was never seen'
  assert int(example['targets']['characters']) == 3 and bool(example['targets']['whole'])
  assert int(example['inputs']['length']) == 4
  spec = tf.data.Dataset.from_tensors(recordings.row(90)).map(made.example).element_spec
  assert spec['inputs'] == made.input_spec
  assert spec['targets']['symbols'] == tf.TensorSpec([6], tf.int32)
  again = recordings.task('ctc', saved=made.state(), max_characters=6)
  assert again.state() == made.state()
  cased = task('Ba', lowercase=False)
  assert cased.state()['characters'] == ['B', 'a']


def test_characters_are_given_found_or_of_the_alphabet():
  assert task('ba', characters='zyx').state()['characters'] == ['x', 'y', 'z']
  assert recordings.task('ctc').units == 28 + 2
  with pytest.raises(ConfigError, match="the transcripts 'text' of the training split are empty"):
    task('')


def test_what_was_cut_counts_nothing():
  made = task('ab')
  rows = [recordings.row(samples, text) for samples, text in ((90, 'ab'), (300, 'ab'), (90, 'abababa'), (90, ''))]
  batch = recordings.batch(made, rows)
  assert made.weights(batch).numpy().tolist() == [2, 0, 0, 1]
  batch['weight'] = tf.constant([0.5, 1.0, 1.0, 0.0])
  assert made.weights(batch).numpy().tolist() == [1, 0, 0, 0]
  losses = made.losses(tf.zeros([4, 16, made.units]), batch)
  assert np.all(np.isfinite(losses))


def test_the_loss_is_per_character_and_of_the_frames_that_are_heard():
  made = task('ab')
  batch = recordings.batch(made, [recordings.row(n, text) for n, text in ((272, 'abba'), (96, 'ba'))])
  assert batch['inputs']['length'].numpy().tolist() == [16, 5]
  outputs = np.random.default_rng(0).normal(size=(2, 8, made.units)).astype(np.float32)
  losses = made.losses(tf.constant(outputs), batch).numpy()
  assert losses[1] == pytest.approx(by_enumeration(outputs[1, :3].astype(np.float64), [2, 1]) / 2, rel=1e-4)
  outputs[1, 3:] = np.nan
  np.testing.assert_allclose(made.losses(tf.constant(np.nan_to_num(outputs)), batch), losses, rtol=1e-6)


def test_a_recording_that_is_too_short_gives_no_gradient():
  made = task('ab')
  batch = recordings.batch(made, [recordings.row(n, 'aabb') for n in (272, 48)])
  outputs = tf.Variable(np.random.default_rng(0).normal(size=(2, 16, made.units)).astype(np.float32))
  with tf.GradientTape() as tape:
    losses = made.losses(outputs, batch)
  gradient = tape.gradient(losses, outputs).numpy()
  assert float(losses[1]) == 0 and float(losses[0]) > 0
  assert np.all(gradient[1] == 0) and np.all(np.isfinite(gradient)) and np.any(gradient[0] != 0)


def outputs_saying(paths, units):
  return tf.one_hot(np.array(paths), units) * 5.0


def test_the_best_path_is_read_up_to_the_end_of_the_recording():
  made = task('ab ')
  space, a, b = 1, 2, 3
  rows = [recordings.row(272, 'a bb'), recordings.row(96, 'ba')]
  paths = [[a, a, 0, space, b, 0, b, b], [b, 0, a, a, b, b, 0, a]]
  outputs, batch = outputs_saying(paths, made.units), recordings.batch(made, rows)
  predictions = tf.nest.map_structure(lambda x: x.numpy(), made.predictions(lambda inputs: outputs, outputs, batch))
  assert predictions['path'].tolist() == [[a, 0, 0, space, b, 0, b, 0], [b, 0, a, 0, 0, 0, 0, 0]]
  read = [made.readable({name: value[i] for name, value in predictions.items()}) for i in (0, 1)]
  assert read == [{'text': 'a bb', 'reference': 'a bb'}, {'text': 'ba', 'reference': 'ba'}]
  assert made.prediction_results(predictions) == {'token_error': 0.0, 'sequence_error': 0.0, 'word_error': 0.0}
  assert set(made.prediction_modes) == {'token_error', 'sequence_error', 'word_error'} and made.best[0] == 'token_error'
  assert set(task('ab').prediction_modes) == {'token_error', 'sequence_error'}, 'no words without a space'


def test_errors_are_edits_over_characters_words_and_transcripts():
  made = task('ab ')
  rows = [recordings.row(272, text) for text in ('ab', 'a b', 'x')]
  batch = recordings.batch(made, rows)
  outputs = outputs_saying([[2, 3, 0, 0], [2, 0, 3, 0], [0, 0, 0, 0]], made.units)
  predictions = made.predictions(lambda inputs: outputs, outputs, batch)
  results = made.prediction_results(tf.nest.map_structure(lambda x: x.numpy(), predictions))
  # 'a b' read as 'ab': one of three characters, two edits of two words; 'x' is not known, and so is an error.
  assert results == {
    'token_error': pytest.approx(2 / 6), 'sequence_error': pytest.approx(2 / 3), 'word_error': pytest.approx(3 / 4),
  }  # fmt: skip


def test_a_reference_that_was_cut_ends_the_evaluation():
  made = task('ab')
  batch = recordings.batch(made, [recordings.row(272, 'abababab')])
  predictions = made.predictions(lambda inputs: inputs, tf.zeros([1, 8, made.units]), batch)
  with pytest.raises(ConfigError, match=r'a transcript of 8 characters: set .*=8 or more, not 6') as caught:
    made.prediction_results(tf.nest.map_structure(lambda x: x.numpy(), predictions))
  assert '\n' not in str(caught.value)


def levenshtein(one, two):
  row = list(range(len(two) + 1))
  for i, a in enumerate(one, 1):
    diagonal, row[0] = row[0], i
    for j, b in enumerate(two, 1):
      diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
  return row[-1]


@hypothesis.settings(max_examples=40)
@hypothesis.given(
  pairs=st.lists(st.tuples(*[st.lists(st.integers(0, 3), max_size=6)] * 2), min_size=1, max_size=5),
  padding=st.sampled_from([-1, 0]),
)
def test_edits_are_levenshteins(pairs, padding):
  """Padding is no token, wherever it stands."""

  def padded(rows):
    return np.array([row + [padding] * (6 - len(row)) for row in rows])

  got = edits.errors(padded([h for h, _ in pairs]), padded([r for _, r in pairs]), padding)
  real = [[[token for token in row if token != padding] for row in pair] for pair in pairs]
  distances = [levenshtein(*pair) for pair in real]
  tokens = sum(len(reference) for _, reference in real)
  assert got['sequence_error'] == pytest.approx(np.mean([d > 0 for d in distances]))
  if tokens:
    assert got['token_error'] == pytest.approx(sum(distances) / tokens)
  else:
    assert np.isnan(got['token_error'])
  assert got.keys() == edits.MODES.keys()


def test_words_are_what_stands_between_spaces():
  assert edits.word_error(['the  cat', ''], ['the cat sat', 'on']) == pytest.approx(2 / 4)
  assert edits.word_error(['a b'], ['a b']) == 0


def test_augmentation_keeps_frames_and_length_together():
  made = task('ab', pace=0.3, time_masks=1, later_frames=2)
  batch = recordings.batch(made, [recordings.row(n, seed=n) for n in (90, 200)])
  same = made.augment(batch, tf.fill([2, made.draws], 0.5))['inputs']
  np.testing.assert_allclose(same['frames'], batch['inputs']['frames'], atol=1e-5)
  assert same['length'].numpy().tolist() == batch['inputs']['length'].numpy().tolist() == [4, 11]
  changed = made.augment(batch, tf.fill([2, made.draws], 0.2))['inputs']
  assert changed['length'][0] > 4
  assert np.all(changed['frames'][0, int(changed['length'][0]) :] == 0)
  assert task('ab').augment(batch, tf.zeros([2, 0])).keys() == batch.keys()


@pytest.mark.parametrize(
  ('changes', 'words'),
  [({'transcript': 'txt'}, "did you mean 'text'?"), ({'transcript': 'audio'}, 'is not a text: take text')],
)
def test_what_does_not_fit_is_named(changes, words):
  with pytest.raises(ConfigError, match=re.escape(words)) as caught:
    recordings.task('ctc', **changes)
  assert '\n' not in str(caught.value)
  with pytest.raises(ConfigError, match='no feature of the dataset is a text'):
    made_up.task('ctc', made_up.images())
