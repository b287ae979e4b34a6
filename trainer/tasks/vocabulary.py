"""Texts as ids and back: bytes, characters or words.

Ids 0 to 2 are alike in all: padding behind a text, its end, and what is not in the vocabulary. `ids` is made of graph
operations without a table of the runtime's: strings are found by their hash.

Dimensions: n symbols of one text, V vocabulary.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

PADDING, END, UNKNOWN = 0, 1, 2
FIRST = 3
# What stands for UNKNOWN in a text.
_UNKNOWN_SIGN = '\N{REPLACEMENT CHARACTER}'
# Hashes are in [0, 2^62): among a million words two alike have a probability of one in ten million.
_HASHES = 2**62
# Texts that are split together when a vocabulary is learnt.
_TOGETHER = 1024
_MADE_UP = tuple(chr(code) for code in range(32, 127))


class Vocabulary(abc.ABC):
  """One kind of symbols.

  Attributes:
    size: V, one more than the largest id.
  """

  size: int

  @abc.abstractmethod
  def ids(self, text: tf.Tensor) -> tf.Tensor:
    """A text, string [] -> int32 [n], without END."""

  @abc.abstractmethod
  def text(self, ids: Iterable[int]) -> str:
    """The text of ids up to END or PADDING."""

  def wording(self) -> dict[str, Any]:
    """What the ids stand for; see `Task.wording`."""
    return {'encoding': 'utf-8', 'joint': '', 'ends': [PADDING, END]}

  def state(self) -> dict[str, Any]:
    """What was learnt, ready for JSON."""
    return {}


class Bytes(Vocabulary):
  """The bytes of UTF-8: Xue et al., ByT5, 2022, with its ids."""

  size = FIRST + 256

  def ids(self, text: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32) + FIRST

  def text(self, ids: Iterable[int]) -> str:
    return bytes(i - FIRST for i in _written(ids) if FIRST <= i < self.size).decode(errors='replace')

  def wording(self) -> dict[str, Any]:
    pieces = [*[''] * FIRST, *(chr(value) for value in range(256))]
    return {**super().wording(), 'pieces': pieces, 'encoding': 'latin-1'}


class Symbols(Vocabulary):
  """Strings out of a list, the most frequent first."""

  def __init__(self, split: Callable[[tf.Tensor], Any], joint: str, entries: Sequence[str]):
    """Args:
    split: a text, string [] -> string [n]; or several, string [B] -> ragged string [B, n].
    joint: what stands between two symbols in a text.
    entries: the symbols, in the order of their ids.
    """
    self._split, self._joint, self._entries = split, joint, list(entries)
    self._names = dict(enumerate(self._entries, FIRST))
    self.size = FIRST + len(self._entries)
    hashes = _hash(tf.constant(self._entries, tf.string, shape=[len(self._entries)])).numpy()
    assert len(set(hashes.tolist())) == len(hashes), 'two entries have the same hash'
    # Sorted, to be found by bisection; one that none can have stands for an empty list.
    order = np.argsort(hashes, kind='stable')
    self._hashes = np.append(hashes[order], np.int64(_HASHES))
    self._ids = np.append(order.astype(np.int32) + FIRST, np.int32(UNKNOWN))

  def ids(self, text: tf.Tensor) -> tf.Tensor:
    wanted = _hash(self._split(text))
    place = tf.searchsorted(self._hashes, wanted)
    return tf.where(tf.gather(self._hashes, place) == wanted, tf.gather(self._ids, place), UNKNOWN)

  def text(self, ids: Iterable[int]) -> str:
    return self._joint.join(self._names.get(i, _UNKNOWN_SIGN) for i in _written(ids))

  def wording(self) -> dict[str, Any]:
    pieces = ['', '', _UNKNOWN_SIGN, *self._entries]
    return {**super().wording(), 'pieces': pieces, 'joint': self._joint}

  def state(self) -> dict[str, Any]:
    return {'entries': self._entries}


def _characters(text: tf.Tensor) -> Any:
  return tf.strings.unicode_split(text, 'UTF-8')


def _words(text: tf.Tensor) -> Any:
  return tf.strings.split(text)


def _learnt(split: Callable[[tf.Tensor], Any], joint: str) -> Callable[..., Vocabulary]:
  """Makes a vocabulary of the symbols of texts, or takes back those that were saved."""

  def make(texts: Callable[[], tf.data.Dataset] | None, saved: Mapping[str, Any] | None, most: int) -> Vocabulary:
    if saved is not None:
      return Symbols(split, joint, saved['entries'])
    if texts is None:
      return Symbols(split, joint, _MADE_UP)
    # Counted in the graph, text by text, so that a word comes to Python once and not each time.
    symbols = texts().batch(_TOGETHER).map(lambda rows: split(rows).flat_values, tf.data.AUTOTUNE, deterministic=True)
    count: collections.Counter[bytes] = collections.Counter()
    for row in symbols.as_numpy_iterator():
      count.update(row.tolist())
    return Symbols(split, joint, most_frequent(count, most))

  return make


# kind -> (texts of the training split or None, saved state or None, largest number of entries or 0) -> Vocabulary
KINDS: dict[str, Callable[..., Vocabulary]] = {
  'bytes': lambda texts, saved, most: Bytes(),
  'characters': _learnt(_characters, ''),
  'words': _learnt(_words, ' '),
}


def most_frequent(count: Mapping[bytes, int], most: int) -> list[str]:
  """At most so many keys, or all with 0; by how frequent they are, and by their bytes where that is the same."""
  ordered = sorted(count, key=lambda symbol: (-count[symbol], symbol))
  return [symbol.decode(errors='replace') for symbol in (ordered[:most] if most else ordered)]


def _hash(strings: tf.Tensor) -> tf.Tensor:
  return tf.strings.to_hash_bucket_fast(strings, _HASHES)


def _written(ids: Iterable[int]) -> list[int]:
  """Ids up to END or PADDING."""
  found: list[int] = []
  for i in ids:
    if i in (PADDING, END):
      break
    found.append(int(i))
  return found
