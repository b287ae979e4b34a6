"""In-silico mutagenesis: Zhou and Troyanskaya, Predicting Effects of Noncoding Variants (DeepSEA), 2015, methods.

Dimensions: K symbols of the alphabet, T places.
"""

from __future__ import annotations

import numpy as np

from trainer.explain.attribution import Attribution
from trainer.explain.network import Call, Target, scores


def mutagenesis(
  call: Call, inputs: np.ndarray, target: Target, *, symbols: np.ndarray, places: np.ndarray, together: int
) -> Attribution:
  """By how much the target changes with each single substitution.

  Args:
    call: from ids to outputs.
    inputs: int [1, T].
    target: from outputs to a number each.
    symbols: int [K], the ids of the alphabet.
    places: int, which of the T are changed.
    together: sequences that are computed together.

  Returns:
    [K, T], 0 for the symbol that is there. The check: how many 'substitutions', and the 'mean' change.
  """
  values = np.zeros((len(symbols), inputs.shape[1]))
  rows = [(k, t) for t in places for k in range(len(symbols)) if symbols[k] != inputs[0, t]]
  variants = np.repeat(inputs, len(rows) + 1, axis=0)
  for row, (k, t) in enumerate(rows):
    variants[row, t] = symbols[k]
  found = scores(call, target, variants, together)
  change = found[:-1] - found[-1]
  for (k, t), each in zip(rows, change, strict=True):
    values[k, t] = each
  return Attribution(values, {'substitutions': len(rows), 'mean': float(change.mean()) if rows else 0.0})


def strongest(values: np.ndarray, letters: list[str], there: list[str], most: int = 10) -> dict[str, float]:
  """The largest changes by name, as in 'G4A': from G at the fourth place to A.

  Args:
    values: [K, T] of `mutagenesis`.
    letters: the K symbols.
    there: the T symbols of the sequence, '' where there is none.
    most: how many.
  """
  order = np.argsort(-np.abs(values), axis=None, kind='stable')[:most]
  found = [divmod(int(flat), values.shape[1]) for flat in order]
  return {f'{there[t]}{t + 1}{letters[k]}': round(float(values[k, t]), 6) for k, t in found if values[k, t]}
