"""How far sequences are from their references, in edits: insertions, deletions and replacements (Levenshtein, 1966).

Dimensions: N sequences, T tokens of a hypothesis, L tokens of a reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tensorflow as tf

# What `errors` gives, and which is better, as in Task.prediction_modes.
MODES: Mapping[str, str] = MappingProxyType({'token_error': 'min', 'sequence_error': 'min'})


def errors(hypotheses: np.ndarray, references: np.ndarray, padding: int = 0) -> dict[str, float]:
  """Errors over all sequences together, not their mean, on the host.

  Args:
    hypotheses: int [N, T].
    references: int [N, L].
    padding: the value that is no token, wherever it stands.

  Returns:
    'token_error': edits from the hypotheses to the references per token of the references, which may be above 1;
    'sequence_error': the share of sequences with at least one edit. NaN where there is nothing to count.
  """
  edits_N = tf.edit_distance(_sparse(hypotheses, padding), _sparse(references, padding), normalize=False).numpy()
  tokens = np.count_nonzero(references != padding)
  return {
    'token_error': float(edits_N.sum(dtype=np.float64) / tokens) if tokens else float('nan'),
    'sequence_error': float(np.mean(edits_N > 0)) if len(edits_N) else float('nan'),
  }


def word_error(hypotheses: Sequence[str], references: Sequence[str]) -> float:
  """Edits per word of the references, where a token is a word between spaces."""
  numbers: dict[str, int] = {}
  ids = [
    [[numbers.setdefault(word, len(numbers) + 1) for word in text.split()] for text in texts]
    for texts in (hypotheses, references)
  ]
  return errors(_padded(ids[0]), _padded(ids[1]))['token_error']


def _sparse(tokens: np.ndarray, padding: int) -> tf.SparseTensor:
  places = np.argwhere(tokens != padding)
  return tf.SparseTensor(places, tokens[tokens != padding].astype(np.int64), tokens.shape)


def _padded(rows: list[list[int]]) -> np.ndarray:
  """int64 [N, longest row, at least 1], filled up with 0."""
  padded = np.zeros([len(rows), max([1, *map(len, rows)])], np.int64)
  for target, row in zip(padded, rows, strict=True):
    target[: len(row)] = row
  return padded
