"""Texts become ids and come back, whatever is in them."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tasks import vocabulary
from trainer.tasks.vocabulary import END, FIRST, PADDING, UNKNOWN

TEXTS = ['b a b', 'a größe', 'b']


def learnt(kind, texts=TEXTS, saved=None, most=0):
  return vocabulary.KINDS[kind](lambda: tf.data.Dataset.from_tensor_slices(texts), saved, most)


@functools.cache
def learnt_once(kind):
  return learnt(kind)


def ids(made, text):
  found = made.ids(tf.constant(text))
  assert found.dtype == tf.int32
  return found.numpy().tolist()


def test_bytes_need_nothing_learnt():
  made = vocabulary.KINDS['bytes'](None, None, 0)
  assert ids(made, 'aß') == [FIRST + byte for byte in 'aß'.encode()]
  assert made.size == 259 and made.state() == {}


def test_the_most_frequent_comes_first_and_then_the_alphabet():
  words = learnt('words')
  assert words.state() == {'entries': ['b', 'a', 'größe']}
  assert ids(words, ' größe  c b') == [FIRST + 2, UNKNOWN, FIRST]
  characters = learnt('characters')
  assert characters.state()['entries'][:3] == [' ', 'b', 'a']
  assert characters.size == FIRST + 8
  assert learnt('words', most=2).state() == {'entries': ['b', 'a']}


@pytest.mark.parametrize('kind', vocabulary.KINDS)
@given(st.data())
@settings(max_examples=25)
def test_a_text_of_known_symbols_comes_back(kind, data):
  made = learnt_once(kind)
  symbols = st.sampled_from(['b', 'a', 'größe'] if kind == 'words' else 'ab größe')
  text = (' ' if kind == 'words' else '').join(data.draw(st.lists(symbols, max_size=12)))
  row = ids(made, text)
  assert all(FIRST <= i < made.size for i in row)
  behind = data.draw(st.lists(st.integers(0, made.size - 1), max_size=3))
  assert made.text([*row, END, *behind]) == made.text(np.array([*row, PADDING, *behind])) == text


@given(st.text(max_size=20))
@settings(max_examples=50)
def test_any_text_is_bytes(text):
  made = learnt_once('bytes')
  assert made.text(ids(made, text)) == text


def test_what_is_not_known_is_shown():
  made = learnt('characters')
  assert made.text(ids(made, 'abc')) == 'ab\N{REPLACEMENT CHARACTER}'
  assert learnt('words', texts=['']).size == FIRST
  assert ids(learnt('words', texts=['']), 'a b') == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize('kind', ['characters', 'words'])
def test_what_was_learnt_is_taken_back(kind):
  saved = json.loads(json.dumps(learnt(kind).state()))
  again = vocabulary.KINDS[kind](None, saved, 0)
  assert ids(again, 'b größe') == ids(learnt(kind), 'b größe')
  assert vocabulary.KINDS[kind](None, None, 0).size > FIRST, 'made up where there is nothing to learn from'


def test_ids_are_found_in_a_graph_without_a_table():
  made = learnt('words')
  texts = tf.data.Dataset.from_tensor_slices(['a b', 'b x a']).map(made.ids)
  assert [row.tolist() for row in texts.as_numpy_iterator()] == [[4, 3], [3, UNKNOWN, 4]]
