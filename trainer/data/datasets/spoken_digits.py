"""TFDS' set spoken_digit by speaker, as a TFDS builder: a voice can be held out, and so can single recordings."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from trainer.errors import ConfigError

SPEAKERS = ('george', 'jackson', 'nicolas', 'theo', 'yweweler')
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
_SOURCE = 'spoken_digit:1.0.9'
_SAMPLE_RATE = 8000


class SpokenDigits(tfds.core.GeneratorBasedBuilder):
  """The Free Spoken Digit Dataset: five people say each digit fifty times.

  Features: `audio` int16, 8,000 samples per second; `label`, the digit; `text`, the digit's name in letters.
  Splits: one per speaker, by SPEAKERS' names. In each, the recordings come by their number, and of one number the ten
    digits: so the slices [:50] are the recordings 0 to 4 of each digit, which the authors hold out, [50:] the others.

  Made from spoken_digit of TFDS, which has to be prepared in the same data directory.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': f'As {_SOURCE}.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Recordings of spoken digits, a split for each of the five speakers.',
      features=tfds.features.FeaturesDict(
        {
          'audio': tfds.features.Audio(dtype=np.int16, sample_rate=_SAMPLE_RATE),
          'label': tfds.features.ClassLabel(names=list(DIGITS)),
          'text': tfds.features.Text(),
        }
      ),
      supervised_keys=('audio', 'label'),
      homepage='https://github.com/Jakobovski/free-spoken-digit-dataset',
      license='CC BY-SA 4.0, Zohar Jackson and contributors',
      citation="""@misc{jackson2016, author={Jackson, Zohar}, title={Free Spoken Digit Dataset}, year={2016},
        url={https://github.com/Jakobovski/free-spoken-digit-dataset}}""",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    directory = pathlib.Path(self.data_dir).parents[1]
    source = tfds.builder(_SOURCE, data_dir=directory)
    if not source.is_prepared():
      raise ConfigError(
        f'data.dataset={self.name!r} is made from spoken_digit, which is not prepared in {directory}: run '
        f'`tfds build spoken_digit --data_dir={directory}` on a machine with network'
      )
    recordings: dict[str, list[tuple[int, int, np.ndarray]]] = {speaker: [] for speaker in SPEAKERS}
    for row in source.as_dataset(split='train').as_numpy_iterator():
      digit, speaker, number = row['audio/filename'].decode().removesuffix('.wav').split('_')
      recordings[speaker].append((int(number), int(digit), row['audio'].astype(np.int16)))
    return {
      speaker: self._generate_examples(sorted(rows, key=lambda row: row[:2])) for speaker, rows in recordings.items()
    }

  def _generate_examples(self, rows: list[tuple[int, int, np.ndarray]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, (_, digit, audio) in enumerate(rows):
      yield key, {'audio': audio, 'label': digit, 'text': DIGITS[digit]}
