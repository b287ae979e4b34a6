"""Texts packed into records of one length: every token is there, each to be learnt once where nothing overlaps."""

import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from trainer import config as config_lib
from trainer import tokens
from trainer.data import packing, shards
from trainer.data.source import open_dataset
from trainer.errors import ConfigError


class Row:
  """Tokens in memory."""

  def __init__(self, tokens):
    self.tokens, self.size = np.array(tokens, np.int32), len(tokens)

  def read(self, begin, end):
    assert 0 <= begin <= end <= self.size
    return self.tokens[begin:end]


@given(st.lists(st.integers(0, 256), max_size=120), st.integers(1, 12), st.integers(1, 12), st.integers(1, 9))
def test_each_token_is_learnt_from_those_before_it(tokens_of_row, length, stride, together):
  row, stride = Row(tokens_of_row), min(stride, length)
  cut = shards.Cut(length, stride, 300)
  total = cut.count(row.size)
  parts = [cut.records(row, begin, min(total, begin + together)) for begin in range(0, total, together)]
  records = [(record, count) for part in parts for record, count in zip(*part, strict=True)]
  learnt = np.zeros(row.size, int)
  for k, (record, count) in enumerate(records):
    assert record.shape == (length + 1,) and 1 <= count <= length
    begin = k * stride
    np.testing.assert_array_equal(record[: count + 1], row.tokens[begin : begin + count + 1])
    assert (record[count + 1 :] == 300).all()
    learnt[begin + 1 : begin + count + 1] += 1
  assert [count for _, count in records[:-1]] == [length] * (len(records) - 1)
  if stride == length:
    assert learnt.tolist() == [0] * min(1, row.size) + [1] * (row.size - 1)
  elif row.size > 1:
    assert learnt[0] == 0 and (learnt[1:] >= 1).all()


@pytest.mark.parametrize('largest', [0, 256, 2**20])
def test_records_are_what_tfds_would_write(largest):
  random = np.random.default_rng(0)
  rows, counts = random.integers(0, largest + 1, (5, 9)).astype(np.int32), np.array([8, 8, 0, 3, 8], np.int32)
  features = tfds.features.FeaturesDict({'tokens': packing.TokenRow(9, tokens.BYTES), 'count': np.int32})
  for found, row, count in zip(shards.serialized(rows, counts).numpy(), rows, counts, strict=True):
    wanted = features.serialize_example({'tokens': row, 'count': count})
    assert len(found) == len(wanted) and tf.train.Example.FromString(found) == tf.train.Example.FromString(wanted)


@given(st.text())
def test_a_text_comes_back_from_its_tokens(text):
  ids = tokens.byte_tokens(text.encode())
  assert ids[-1] == tokens.BYTES.end and (ids[:-1] != tokens.BYTES.end).all() and ids.max() < len(tokens.BYTES)
  assert tokens.BYTES.text(ids[:-1]) == text


class Notes(tfds.core.GeneratorBasedBuilder):
  """Three short texts, and as many to test on."""

  VERSION = tfds.core.Version('1.0.0')
  TEXTS = ('one two three', 'vier', 'cinq six sept huit')

  def _info(self):
    features = {'text': tfds.features.Text(), 'title': tfds.features.Text()}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples() for name in ('train', 'test')}

  def _generate_examples(self):
    for key, text in enumerate(self.TEXTS):
      yield key, {'text': text, 'title': str(key)}


def packed(folder, **changes):
  config = config_lib.base(task='language_modeling', model='gpt')
  config.data.update({'dataset': 'notes', 'data_dir': str(folder), 'pack_tokens': 8, 'pack_feature': 'text', **changes})
  return open_dataset(config)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  Notes(data_dir=path).download_and_prepare(file_format='tfrecord')
  return path


def test_a_set_is_packed_once_and_read_like_any_other(folder):
  row = np.concatenate([tokens.byte_tokens(text.encode()) for text in Notes.TEXTS])
  dataset = packed(folder, pack_stride=3)
  made = {path: path.stat().st_mtime_ns for path in (folder / 'packed').rglob('*.tfrecord*')}
  assert made
  train = list(dataset.examples(dataset.train).as_numpy_iterator())
  for k, example in enumerate(train):
    np.testing.assert_array_equal(example['tokens'][: example['count'] + 1], row[3 * k :][: example['count'] + 1])
  assert len(train) == dataset.train.num_examples > dataset.evaluation.num_examples
  assert sum(e['count'] for e in dataset.examples(dataset.evaluation).as_numpy_iterator()) == len(row) - 1
  again = packed(folder, pack_stride=3)
  assert again.fingerprint(again.train) == dataset.fingerprint(dataset.train)
  assert {path: path.stat().st_mtime_ns for path in (folder / 'packed').rglob('*.tfrecord*')} == made
  other = packed(folder)
  assert other.fingerprint(other.train) != dataset.fingerprint(dataset.train)
  assert other.train.num_examples == other.evaluation.num_examples


def test_a_vocabulary_is_learnt_once_from_the_training_split_and_lies_beside_the_records(folder, monkeypatch):
  dataset = packed(folder, pack_tokenizer='bpe', pack_vocabulary=270)
  vocabulary = dataset.features['tokens'].vocabulary
  assert len(vocabulary) == 270
  monkeypatch.setitem(sys.modules, 'tokenizers', None)  # not needed to read it
  again = packed(folder, pack_tokenizer='bpe', pack_vocabulary=270)
  assert again.features['tokens'].vocabulary == vocabulary
  whole = [e['tokens'][1:][: e['count']] for e in again.examples(again.evaluation).as_numpy_iterator()]
  assert vocabulary.text(np.concatenate(whole)).split('\n\n')[1:] == [*Notes.TEXTS[1:], '']
  assert packed(folder).features['tokens'].vocabulary == tokens.BYTES


def test_synthetic_input_packs_nothing(tmp_path):
  Notes(data_dir=tmp_path).download_and_prepare(file_format='tfrecord')
  assert packed(tmp_path, source='synthetic').features['tokens'].shape == (9,)
  assert not list(tmp_path.glob('packed/**/*.tfrecord*'))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'pack_feature': ''}, "data.pack_tokens needs one text, and the set has ['text', 'title']"),
    ({'pack_feature': 'texts'}, "data.pack_feature='texts' is not a text of the set; did you mean 'text'"),
  ],
)
def test_a_text_that_is_not_clear(folder, changes, message):
  with pytest.raises(ConfigError) as error:
    packed(folder, **changes)
  assert str(error.value).startswith(message)
