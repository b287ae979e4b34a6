"""How texts become tokens when they are packed (packing.py): bytes, byte-pair encoding learnt from the set, or a
tokenizer out of a file.

Byte-pair encoding is that of the package tokenizers (the extra `bpe`), on the bytes of words: Sennrich et al., Neural
Machine Translation of Rare Words with Subword Units, 2016, section 3.2; Radford et al., Language Models are
Unsupervised Multitask Learners, 2019, section 2.2. The package is needed where a set is prepared, and not to read it.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.tokens import BYTES, Vocabulary, byte_tokens

# The bytes of text, from the beginning of the training split, that a vocabulary is learnt from.
_LEARNT_FROM = 256 * 1024**2
# The bytes of text that are cut at once.
_TOGETHER = 4 * 1024**2
# What ends a text in the tokenizers that are in use.
_ENDS = ('<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>')


class Tokenizer(abc.ABC):
  """One way to cut texts.

  Attributes:
    name: names what is made with it; the same for the same tokens of the same set.
    vocabulary: of the tokens. Of one that is still to be learnt only its size counts.
  """

  name: str
  vocabulary: Vocabulary

  def learn(self, texts: Iterable[bytes]) -> None:
    """Learns the vocabulary, where it is learnt."""
    del texts

  @abc.abstractmethod
  def rows(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    """The tokens of each text with its end, int32 [n + 1]."""


def create(name: str, size: int) -> Tokenizer:
  """The tokenizer that `data.pack_tokenizer` names.

  Args:
    name: 'bytes', 'bpe' or the path of a tokenizer.json, on any file system that TensorFlow knows.
    size: tokens of a vocabulary that is learnt.

  Raises:
    ConfigError: the file is not there, or is no byte-level BPE.
  """
  if name == 'bytes':
    return Bytes()
  return Learnt(size) if name == 'bpe' else Loaded(name)


def of(vocabulary: Vocabulary, name: str) -> Tokenizer:
  """What cuts texts into a vocabulary that is known.

  Args:
    vocabulary: of a prepared set.
    name: `data.pack_tokenizer`.

  Raises:
    ConfigError: the file is not there; the package tokenizers is not installed; or the vocabulary is another's.
  """
  found = Relearnt(vocabulary) if name == 'bpe' else create(name, len(vocabulary))
  if found.vocabulary.digest != vocabulary.digest:
    raise ConfigError(f'data.pack_tokenizer={name!r} is not what the set was packed with: set it as it was')
  return found


class Bytes(Tokenizer):
  """Each byte is a token."""

  name, vocabulary = 'bytes', BYTES

  def rows(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    return map(byte_tokens, texts)


class _BytePairs(Tokenizer):
  """Runs of bytes."""

  _cutter: Any

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_cutter': self._cutter.to_str()}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _cutter=_plain(_package(state['name']).Tokenizer.from_str(state['_cutter'])))

  def rows(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    lengths = self.vocabulary.lengths.astype(np.int64)
    for together in _together(texts, _TOGETHER):
      cut = self._cutter.encode_batch([_decoded(text) for text in together], add_special_tokens=False)
      for text, encoding in zip(together, cut, strict=True):
        row = np.array(encoding.ids, np.int32)
        if lengths[row].sum() != len(text):
          raise ConfigError(f'the tokenizer {self.name} changes texts, so they cannot be packed: take another')
        yield np.append(row, np.int32(self.vocabulary.end))


class Learnt(_BytePairs):
  """Pairs that are frequent in the set, joined one after another until there are so many tokens; 0 is the end."""

  def __init__(self, size: int):
    self.name, self._size = f'bpe_{size}', size
    # Made up, until it is learnt or read.
    longer = itertools.repeat(b'  ', size - len(BYTES))
    self.vocabulary = Vocabulary('bpe', (*BYTES.pieces, *longer), BYTES.end)

  def learn(self, texts: Iterable[bytes]) -> None:
    package = _package('bpe')
    byte_level = package.pre_tokenizers.ByteLevel
    cutter = package.Tokenizer(package.models.BPE())
    cutter.pre_tokenizer = byte_level(add_prefix_space=False)
    teacher = package.trainers.BpeTrainer(
      vocab_size=self._size, special_tokens=[_ENDS[0]], initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    cutter.train_from_iterator(map(_decoded, _beginning(texts, _LEARNT_FROM)), teacher)
    self._cutter = _plain(cutter)
    self.vocabulary = _vocabulary('bpe', json.loads(cutter.to_str()))


class Relearnt(_BytePairs):
  """As Learnt, from the vocabulary alone: a token joins the two of lower numbers that its bytes are cut into."""

  def __init__(self, vocabulary: Vocabulary):
    package = _package('bpe')
    self.name, self.vocabulary = f'bpe_{len(vocabulary)}', vocabulary
    names = [''.join(map(_characters().__getitem__, piece)) for piece in vocabulary.pieces]
    number = {piece: i for i, piece in enumerate(vocabulary.pieces) if i != vocabulary.end}
    merges = [tuple(names[number[part]] for part in _halves(piece, number)) for piece in number if len(piece) > 1]
    names[vocabulary.end] = _ENDS[0]
    cutter = package.Tokenizer(package.models.BPE({name: i for i, name in enumerate(names)}, merges))
    cutter.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    self._cutter = _plain(cutter)


def _halves(piece: bytes, number: dict[bytes, int]) -> list[bytes]:
  """What the bytes of a token are cut into by the tokens before it: two."""
  parts = [piece[i : i + 1] for i in range(len(piece))]
  while len(parts) > 2:
    pairs = [number.get(parts[i] + parts[i + 1], len(number) + 1) for i in range(len(parts) - 1)]
    place = min(range(len(pairs)), key=pairs.__getitem__)
    parts[place : place + 2] = [parts[place] + parts[place + 1]]
  return parts


class Loaded(_BytePairs):
  """A file of the package tokenizers, as it stands: GPT-2's, Llama 3's, or one of your own."""

  def __init__(self, path: str):
    # Whoever only cuts (cutter.py) does without.
    import tensorflow as tf

    try:
      with tf.io.gfile.GFile(path) as file:
        self._text = file.read()
      self.vocabulary = _vocabulary(path, json.loads(self._text))
    except tf.errors.OpError as error:
      raise ConfigError(f'data.pack_tokenizer={path!r} cannot be read: {" ".join(str(error).split())}') from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      raise ConfigError(
        f'data.pack_tokenizer={path!r} is no byte-level BPE of the package tokenizers: {error}'
      ) from error
    digest = hashlib.sha256(self._text.encode()).hexdigest()[:12]
    self.name = f'{path.rpartition("/")[2].removesuffix(".json")}_{digest}'

  @functools.cached_property
  def _cutter(self) -> Any:
    return _plain(_package(self.name).Tokenizer.from_str(self._text))


def _plain(cutter: Any) -> Any:
  """The same, but that it takes a text as it is: no padding, and no tokens that only look like such."""
  cutter.no_padding()
  cutter.no_truncation()
  cutter.encode_special_tokens = True
  return cutter


def _vocabulary(name: str, described: dict[str, Any]) -> Vocabulary:
  """What the tokens of a tokenizer.json stand for.

  Raises:
    ValueError, LookupError, TypeError, AttributeError: it is not a byte-level BPE without changes to the text.
  """
  model, before = described['model'], described['pre_tokenizer'] or {}
  parts = before.get('pretokenizers', [before])
  if model['type'] != 'BPE' or not any(part.get('type') == 'ByteLevel' for part in parts):
    raise ValueError('it is of another kind')
  if described['normalizer'] is not None:
    raise ValueError('it normalizes texts')
  byte = {character: value for value, character in _characters().items()}
  found = {i: bytes(byte[character] for character in piece) for piece, i in model['vocab'].items()}
  added = {token['content']: token['id'] for token in described['added_tokens']}
  found.update({i: content.encode() for content, i in added.items()})
  end = next((added[content] for content in _ENDS if content in added), None)
  if end is None:
    raise ValueError(f'none of its added tokens ends a text ({", ".join(_ENDS)})')
  if sorted(found) != list(range(len(found))):
    raise ValueError('its ids have gaps')
  return Vocabulary(name, tuple(b'' if i == end else found[i] for i in range(len(found))), end)


def _characters() -> dict[int, str]:
  """The character for each byte, itself where it is visible: `bytes_to_unicode` in GPT-2's encoder.py."""
  visible = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
  others = [value for value in range(256) if value not in visible]
  return {**{value: chr(value) for value in visible}, **{value: chr(256 + k) for k, value in enumerate(others)}}


def _package(name: str) -> Any:
  try:
    import tokenizers
  except ImportError as error:
    raise ConfigError(
      f'data.pack_tokenizer={name!r} needs the package tokenizers, which is not installed: run `pip install tokenizers`'
    ) from error
  return tokenizers


def _decoded(text: bytes) -> str:
  try:
    return text.decode()
  except UnicodeDecodeError as error:
    raise ConfigError(f'a text of the set is no UTF-8 ({error}): set data.pack_tokenizer=bytes') from error


def _beginning(texts: Iterable[bytes], size: int) -> Iterator[bytes]:
  """The first texts, until they have so many bytes."""
  for text in texts:
    yield text
    size -= len(text)
    if size <= 0:
      return


def _together(texts: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
  """The texts in lists of about so many bytes."""
  texts = iter(texts)
  while part := list(_beginning(texts, size)):
    yield part
