"""Python's own documentation as a TFDS builder: its manual's topics and the docstrings of its standard library."""

from __future__ import annotations

import ast
import pathlib
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

_TEST_PERCENT = 20
# A group of topics with more of the text than this is trained on: the one on special methods has over a third of it.
_LARGEST_SHARE = 0.2
_BREAK = re.compile(r'\n\s*\n')
# Shorter ones are headings and turns of phrase.
_PARAGRAPH = 40
# What is not documentation of the library, or not installed everywhere.
_SKIPPED = ('site-packages', 'test', 'tests', 'idlelib', 'lib2to3', 'pydoc_data')


class PythonDocs(tfds.core.GeneratorBasedBuilder):
  """What `help('...')` knows, and what the modules say of themselves.

  Features: `text`, a topic or all docstrings of a module; `name`, of the topic or module.
  Splits: `test`, a fifth of the topics, by checksum; `train`, the others, then the modules. Topics that have a
  paragraph in common are on the same side, and a module's paragraph that is also in `test` is left out.

  The text is that of the Python that prepares the set, whose version is the name of the builder's config.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'As in the Python that is installed.'}
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=platform.python_version(), description='Of this Python.')]

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Topics of the Python manual and docstrings of its standard library.',
      features=tfds.features.FeaturesDict({'text': tfds.features.Text(), 'name': tfds.features.Text()}),
      homepage='https://docs.python.org/',
      license='PSF License Version 2, Copyright (c) Python Software Foundation',
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    from pydoc_data.topics import topics  # not needed to read the set, and half a megabyte

    held_out = set(chosen(topics))
    known = {paragraph for name in held_out for paragraph in paragraphs(topics[name])}
    train = [(name, topics[name]) for name in sorted(topics) if name not in held_out]
    for name, docstrings in _modules():
      parts = _BREAK.split(docstrings)
      train.append((name, '\n\n'.join(part for part in parts if not known & set(paragraphs(part)))))
    return {
      'train': self._generate_examples(train),
      'test': self._generate_examples([(name, topics[name]) for name in sorted(held_out)]),
    }

  def _generate_examples(self, rows: list[tuple[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, (name, text) in enumerate(rows):
      yield key, {'text': text, 'name': name}


def paragraphs(text: str) -> list[str]:
  """The longer paragraphs of a text, white space aside."""
  found = (re.sub(r'\s+', ' ', part).strip() for part in _BREAK.split(text))
  return [part for part in found if len(part) > _PARAGRAPH]


def chosen(topics: dict[str, str]) -> list[str]:
  """The topics of `test`.

  Args:
    topics: the text of each.
  """
  group = {name: name for name in topics}  # a smaller name of the same group, or its own

  def first(name: str) -> str:
    while group[name] != name:
      name = group[name]
    return name

  seen: dict[str, str] = {}
  for name in sorted(topics):
    for paragraph in paragraphs(topics[name]):
      one, other = sorted((first(name), first(seen.setdefault(paragraph, name))))
      group[other] = one
  members: dict[str, list[str]] = {}
  for name in sorted(topics):
    members.setdefault(first(name), []).append(name)
  whole = sum(map(len, topics.values()))
  return [
    name
    for of, names in members.items()
    if zlib.crc32(of.encode()) % 100 < _TEST_PERCENT and sum(len(topics[n]) for n in names) <= _LARGEST_SHARE * whole
    for name in names
  ]


def _modules() -> Iterator[tuple[str, str]]:
  """(name, all its docstrings) of each module of the standard library that has any; nothing is imported."""
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  for path in sorted(root.rglob('*.py')):
    parts = path.relative_to(root).with_suffix('').parts
    if any(part in _SKIPPED or part.startswith('test_') for part in parts):
      continue
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # on escapes in old strings
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and samples that are no Python of this version
      continue
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    if text := '\n\n'.join(part for part in found if part):
      yield '.'.join(parts), text
