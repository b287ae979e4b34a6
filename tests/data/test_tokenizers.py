"""Byte-pair encoding: every text comes back, the same vocabulary each time, and files that are none are refused."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import tokens
from trainer.data import tokenizers
from trainer.errors import ConfigError

TEXTS = [b'the theme of the thesis', 'le thème de là-bas'.encode(), b'', b'the end <|endoftext|> of the end'] * 3
SIZE = 280


def learnt(texts=TEXTS):
  tokenizer = tokenizers.create('bpe', SIZE)
  tokenizer.learn(texts)
  return tokenizer


@pytest.fixture(scope='module')
def bpe():
  return learnt()


@pytest.fixture
def file(bpe, tmp_path):
  path = tmp_path / 'tokenizer.json'
  path.write_text(bpe._cutter.to_str())
  return path


@given(texts=st.lists(st.text(), max_size=4))
def test_a_text_comes_back_from_its_tokens_and_ends(bpe, texts):
  written = [text.encode() for text in texts]
  for text, row in zip(written, bpe.rows(written), strict=True):
    assert row.dtype == np.int32 and row[-1] == bpe.vocabulary.end and (row[:-1] != bpe.vocabulary.end).all()
    assert bpe.vocabulary.text(row[:-1]).encode() == text
    assert bpe.vocabulary.lengths[row].sum() == len(text)


def test_frequent_pairs_become_tokens_and_the_same_each_time(bpe):
  assert len(bpe.vocabulary) == SIZE and len(set(bpe.vocabulary.pieces)) == SIZE
  assert b' the' in bpe.vocabulary.pieces
  (row,) = bpe.rows([b'the the the'])
  assert len(row) == 4
  assert learnt().vocabulary == bpe.vocabulary
  assert learnt(TEXTS[:1]).vocabulary.digest != bpe.vocabulary.digest


def test_a_vocabulary_is_kept_as_json(bpe):
  state = json.loads(json.dumps(bpe.vocabulary.state()))
  assert tokens.Vocabulary.from_state(state) == bpe.vocabulary


def test_before_it_is_learnt_only_the_size_is_known():
  assert len(tokenizers.create('bpe', SIZE).vocabulary) == SIZE


def test_a_vocabulary_is_learnt_from_the_beginning_of_a_large_set(monkeypatch):
  monkeypatch.setattr(tokenizers, '_LEARNT_FROM', 40)
  assert learnt().vocabulary == learnt(TEXTS[:2]).vocabulary


def test_texts_that_are_cut_together_are_cut_alike(bpe, monkeypatch):
  rows = list(bpe.rows(TEXTS))
  monkeypatch.setattr(tokenizers, '_TOGETHER', 30)
  for one, other in zip(rows, bpe.rows(TEXTS), strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_file_gives_the_same_tokens(bpe, file):
  loaded = tokenizers.create(str(file), 0)
  assert loaded.name.startswith('tokenizer_') and loaded.vocabulary.pieces == bpe.vocabulary.pieces
  for one, other in zip(loaded.rows(TEXTS), bpe.rows(TEXTS), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  ('change', 'complaint'),
  [
    (lambda made: made['model'].update(type='WordPiece'), 'it is of another kind'),
    (lambda made: made.update(pre_tokenizer={'type': 'Whitespace'}), 'it is of another kind'),
    (lambda made: made.update(normalizer={'type': 'Lowercase'}), 'it normalizes texts'),
    (lambda made: made.update(added_tokens=[]), 'none of its added tokens ends a text'),
    (lambda made: made['model']['vocab'].update(more=1000), 'its ids have gaps'),
    (lambda made: made.pop('model'), "'model'"),
  ],
)
def test_a_file_that_would_change_texts_is_refused(file, change, complaint):
  made = json.loads(file.read_text())
  change(made)
  file.write_text(json.dumps(made))
  with pytest.raises(ConfigError, match=f'no byte-level BPE of the package tokenizers: .*{complaint}') as error:
    tokenizers.create(str(file), 0)
  assert '\n' not in str(error.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path):
  with pytest.raises(ConfigError, match=r"data\.pack_tokenizer='/nowhere\.json' cannot be read"):
    tokenizers.create('/nowhere.json', 0)
  (tmp_path / 'a.json').write_text('{')
  with pytest.raises(ConfigError, match='is no byte-level BPE'):
    tokenizers.create(str(tmp_path / 'a.json'), 0)


def test_a_tokenizer_that_changes_a_text_after_all_is_found_out(file):
  made = json.loads(file.read_text())
  made['pre_tokenizer']['add_prefix_space'] = True
  file.write_text(json.dumps(made))
  with pytest.raises(ConfigError, match='changes texts'):
    list(tokenizers.create(str(file), 0).rows([b'the end']))


def test_what_is_no_text(bpe):
  with pytest.raises(ConfigError, match=r'is no UTF-8 .*set data\.pack_tokenizer=bytes'):
    list(bpe.rows([b'\xff']))


def test_the_package_is_asked_for_where_it_is_needed(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(ConfigError, match=r"data\.pack_tokenizer='bpe' needs the package tokenizers.*pip install"):
    learnt()


def test_names_of_tokenizers():
  assert tokens.check_tokenizer('bpe') == tokens.check_tokenizer('gs://a/tokenizer.json') == ''
  assert 'must be' in tokens.check_tokenizer('words')
