"""Texts as tokens: the bytes of UTF-8. Known to what packs texts (trainer/data) and to what learns from them (tasks).

0 ends a text; a byte b is b + 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

END = 0
VOCABULARY = 257


def ids(text_bytes: bytes) -> np.ndarray:
  """The tokens of a text and END, int32 [bytes + 1]."""
  return np.append(np.frombuffer(text_bytes, np.uint8).astype(np.int32) + 1, np.int32(END))


def text(tokens: Iterable[int]) -> str:
  """The text of some tokens, an empty line where one text ends and the next begins."""
  return b''.join(b'\n\n' if token == END else bytes([token - 1]) for token in map(int, tokens)).decode(
    errors='replace'
  )
