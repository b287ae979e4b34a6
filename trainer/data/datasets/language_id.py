"""Strings of a web framework in twenty languages as a TFDS builder: which language is it?"""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

# All written in Latin letters, some of them close kin.
LANGUAGES = (
  'cs', 'da', 'de', 'es', 'et', 'fi', 'fr', 'hu', 'id', 'it', 'lt', 'lv', 'nb', 'nl', 'pl', 'pt', 'ro', 'sk', 'sv',
  'tr',
)  # fmt: skip
_TEST_PERCENT = 20
# Where the files lie in the carrier; each has one folder per language.
_PARTS = (
  'admin',
  'admindocs',
  'auth',
  'contenttypes',
  'flatpages',
  'gis',
  'humanize',
  'redirects',
  'sessions',
  'sites',
)
_FOLDERS = ('django/conf/locale', *(f'django/contrib/{part}/locale' for part in _PARTS))
_ENTRY = re.compile(
  r'^msgid ((?:".*"\n)+)(?:msgid_plural (?:".*"\n)+)?((?:msgstr(?:\[\d\])? (?:".*"\n)+)+)', re.MULTILINE
)
_STRING = re.compile(r'^msgstr(?:\[\d\])? ((?:".*"\n)+)', re.MULTILINE)


class LanguageId(tfds.core.GeneratorBasedBuilder):
  """Translated strings of Django (its core and ten of its parts), without duplicates.

  Features: `text`; `label`, one of LANGUAGES.
  Splits: `test`, the translations of a fifth of the English messages, chosen by their checksum; `train`, the others. So
  no message is in both, in whatever language.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in the version of Django that is installed.'}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'Strings of Django in {len(LANGUAGES)} languages, and which language it is.',
      features=tfds.features.FeaturesDict(
        {'text': tfds.features.Text(), 'label': tfds.features.ClassLabel(names=list(LANGUAGES))}
      ),
      supervised_keys=('text', 'label'),
      homepage='https://www.djangoproject.com/',
      license='BSD 3-Clause, Copyright (c) Django Software Foundation and individual contributors',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    messages: dict[tuple[str, str], int] = {}
    for language in LANGUAGES:
      for folder in _FOLDERS:
        path = carriers.file(self.name, 'Django', f'{folder}/{language}/LC_MESSAGES/django.po')
        for message, text in _translations(path.read_text(encoding='utf-8')):
          # Of a text that translates several messages, the first says in which split it is.
          messages.setdefault((language, text), zlib.crc32(message.encode()) % 100)
    return {
      'train': self._generate_examples([key for key, draw in messages.items() if draw >= _TEST_PERCENT]),
      'test': self._generate_examples([key for key, draw in messages.items() if draw < _TEST_PERCENT]),
    }

  def _generate_examples(self, rows: list[tuple[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, (language, text) in enumerate(rows):
      yield key, {'text': text, 'label': language}


def _translations(catalogue: str) -> Iterator[tuple[str, str]]:
  """(message, translation) of each entry of a .po file; a plural form is a translation of its own.

  The header, entries that are not translated and those whose translation is the message itself are left out.
  """
  for message, translations in _ENTRY.findall(catalogue):
    source = _joined(message)
    for translation in map(_joined, _STRING.findall(translations)):
      if source and translation.strip() and translation != source:
        yield source, translation


def _joined(lines: str) -> str:
  """The text of adjacent quoted strings, as in C."""
  return ''.join(ast.literal_eval(line) for line in lines.splitlines())
