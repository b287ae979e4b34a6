"""Spoken digits by speaker, made from a small stand-in for the set of TFDS."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data import small
from trainer.data.datasets import spoken_digits
from trainer.data.source import open_dataset
from trainer.errors import ConfigError

NUMBERS = (0, 2, 10)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A data directory in which spoken_digit is prepared, with three recordings of each digit and speaker."""
  directory = tmp_path_factory.mktemp('spoken')

  def recordings(self, path):
    for speaker in spoken_digits.SPEAKERS:
      for number in NUMBERS:
        for digit in range(10):
          name = f'{digit}_{speaker}_{number}'
          yield name, {'audio': value(speaker, number, digit), 'label': digit, 'audio/filename': f'{name}.wav'}

  with pytest.MonkeyPatch.context() as patch:
    builder = tfds.builder('spoken_digit', data_dir=directory)
    patch.setattr(type(builder), '_split_generators', lambda self, _: {'train': self._generate_examples('')})
    patch.setattr(type(builder), '_generate_examples', recordings)
    builder.download_and_prepare()
  return directory


def value(speaker, number, digit):
  return np.arange(3 + digit) * (number + 1) - 100 * spoken_digits.SPEAKERS.index(speaker)


def test_a_split_per_speaker_with_the_digits_of_a_number_together(prepared):
  for speaker in spoken_digits.SPEAKERS:
    config = small.config(prepared, dataset='spoken_digits', train_split=speaker, eval_split=f'{speaker}[:10]')
    dataset = open_dataset(config)
    rows = list(dataset.examples(dataset.train).as_numpy_iterator())
    assert [row['label'] for row in rows] == list(range(10)) * 3
    assert rows[7]['text'] == b'seven'
    for i, row in enumerate(rows):
      np.testing.assert_array_equal(row['audio'], value(speaker, NUMBERS[i // 10], i % 10), 'by number, not by name')
  assert dataset.features['audio'].sample_rate == 8000
  assert dataset.evaluation.num_examples == 10 and dataset.labels['label'][3] == 'three'


def test_a_source_that_is_not_there_is_one_line_with_the_command(tmp_path):
  config = small.config(tmp_path, dataset='spoken_digits', train_split='theo', eval_split='theo')
  with pytest.raises(ConfigError, match='run `tfds build spoken_digit --data_dir=') as caught:
    open_dataset(config)
  assert '\n' not in str(caught.value)
