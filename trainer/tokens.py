"""Texts as tokens: what each token stands for. Known to what packs texts (trainer/data) and to what learns from them
(trainer/tasks).

Every token is a run of bytes, of UTF-8 where a text is, so a text comes back exactly, and bits per byte can be counted
for any vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The tokens of one way to cut texts.

  Attributes:
    name: 'bytes', or what it was made by.
    pieces: the bytes of each token; none for the end.
    end: the token that ends a text, and fills what is behind the last.
  """

  name: str
  pieces: tuple[bytes, ...]
  end: int

  def __len__(self) -> int:
    return len(self.pieces)

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """float32 [V]: the bytes of each token."""
    return np.array([len(piece) for piece in self.pieces], np.float32)

  @functools.cached_property
  def digest(self) -> str:
    """Twelve hex digits that tell this vocabulary from others."""
    rows = b''.join(len(piece).to_bytes(4, 'little') + piece for piece in self.pieces)
    return hashlib.sha256(rows + str(self.end).encode()).hexdigest()[:12]

  def text(self, tokens: Iterable[int]) -> str:
    """The text of some tokens, an empty line where one text ends and the next begins."""
    return b''.join(b'\n\n' if token == self.end else self.pieces[token] for token in map(int, tokens)).decode(
      errors='replace'
    )

  def state(self) -> dict[str, Any]:
    """All of it, ready for JSON: a byte is the character of its number."""
    return {'name': self.name, 'end': self.end, 'pieces': [piece.decode('latin-1') for piece in self.pieces]}

  @classmethod
  def from_state(cls, state: Mapping[str, Any]) -> Vocabulary:
    """The inverse of `state`."""
    return cls(state['name'], tuple(piece.encode('latin-1') for piece in state['pieces']), state['end'])


# 0 ends a text; a byte b is b + 1.
BYTES = Vocabulary('bytes', (b'', *(bytes([value]) for value in range(256))), 0)


def byte_tokens(text: bytes) -> np.ndarray:
  """The tokens of a text in BYTES, with its end, int32 [bytes + 1]."""
  return np.append(np.frombuffer(text, np.uint8).astype(np.int32) + 1, np.int32(BYTES.end))


def check_tokenizer(name: str) -> str:
  """The rule of `data.pack_tokenizer`."""
  return '' if name in ('bytes', 'bpe') or name.endswith('.json') else "must be 'bytes', 'bpe' or a tokenizer.json"
