"""Whose directory it is."""

import json

import pytest

from tests.test_config import good
from trainer.errors import ConfigError
from trainer.train.workdir import Workdir


def test_a_kill_while_the_config_was_written_leaves_a_directory_that_can_be_claimed_again(tmp_path):
  Workdir(str(tmp_path)).claim()
  (tmp_path / 'config.json.tmp').write_text('{"se')
  again = Workdir(str(tmp_path))
  again.claim()
  again.adopt(good(), trained=False, write=True)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_what_is_not_ours_is_left_alone(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(ConfigError, match='is not empty and holds no run'):
    Workdir(str(tmp_path)).claim()
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_one_writer_at_a_time(tmp_path):
  first = Workdir(str(tmp_path))
  first.claim()
  with pytest.raises(ConfigError, match=r'is in use by process .* on '):
    Workdir(str(tmp_path)).claim()


def test_changes_are_shown_and_refused_where_they_would_break_a_trained_run(tmp_path):
  directory = Workdir(str(tmp_path))
  directory.claim()
  assert directory.adopt(good(), trained=False, write=True) == []
  assert directory.adopt(good(train__steps=7), trained=True, write=True) == ['train.steps: 1000 -> 7']
  with pytest.raises(ConfigError, match='seed was 0 and is now 1'):
    directory.adopt(good(train__steps=7, seed=1), trained=True, write=True)
  assert directory.adopt(good(train__steps=7, seed=1), trained=False, write=True) == ['seed: 0 -> 1']


def test_a_config_that_cannot_be_parsed_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{"se')
  with pytest.raises(ConfigError, match='cannot be read'):
    Workdir(str(tmp_path)).earlier_config()


def test_a_bucket_whose_address_makes_no_sense_is_refused():
  with pytest.raises(ConfigError, match='names no bucket'):
    Workdir('gs://', good().storage)
