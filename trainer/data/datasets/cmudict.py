"""The CMU Pronouncing Dictionary as a TFDS builder: how English words are spelt, and which phonemes they are."""

from __future__ import annotations

import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

_TEST_PERCENT = 10
# The second and later pronunciations of a word are numbered: tomato, tomato(2).
_NUMBER = re.compile(r'\(\d+\)$')


class Cmudict(tfds.core.GeneratorBasedBuilder):
  """134,860 pronunciations of 126,052 words, without stress, as a speech recogniser uses them.

  Features: `word`, in small letters, with apostrophes, hyphens and dots; `phonemes`, of the 39 of the ARPAbet, with
    spaces between them.
  Splits: `test`, a tenth of the words, chosen by their checksum: 13,508 examples of 12,638 words; `train`, the others.
    So all pronunciations of a word are in one split; they follow each other.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in the version of pocketsphinx that is installed.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='English words and their phonemes.',
      features=tfds.features.FeaturesDict({'word': tfds.features.Text(), 'phonemes': tfds.features.Text()}),
      supervised_keys=('word', 'phonemes'),
      homepage='http://www.speech.cs.cmu.edu/cgi-bin/cmudict',
      license='BSD 2-Clause, Copyright (c) 1999-2016 Carnegie Mellon University',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    path = carriers.file(self.name, 'pocketsphinx', 'pocketsphinx/model/en-us/cmudict-en-us.dict')
    rows = list(_pronunciations(path))
    return {
      'train': self._generate_examples([row for row in rows if not _is_test(row[0])]),
      'test': self._generate_examples([row for row in rows if _is_test(row[0])]),
    }

  def _generate_examples(self, rows: list[tuple[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, (word, phonemes) in enumerate(rows):
      yield key, {'word': word, 'phonemes': phonemes}


def _pronunciations(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """(word, phonemes) of each line, in the order of the file."""
  for line in path.read_text(encoding='utf-8').splitlines():
    word, *phonemes = line.split()
    yield _NUMBER.sub('', word), ' '.join(phonemes)


def _is_test(word: str) -> bool:
  return zlib.crc32(word.encode()) % 100 < _TEST_PERCENT
