"""Whether restored arrays are those of the model that is to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from trainer.errors import ConfigError

_NAMED = 3  # names listed per kind of difference: enough to recognise the model, and still one line


def check_compatible(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[Sequence[int], DTypeLike]]) -> None:
  """Checks that the names, shapes and dtypes are exactly the expected ones.

  Args:
    arrays: the arrays of a restored checkpoint, by name.
    expected: (shape, dtype) of each array of the model and optimizer at hand, by name.

  Raises:
    ConfigError: a name is missing or unexpected, or a shape or dtype differs; the message names the first of each kind.
  """
  missing = sorted(expected.keys() - arrays.keys())
  unexpected = sorted(arrays.keys() - expected.keys())
  different = []
  for name in sorted(expected.keys() & arrays.keys()):
    found, (shape, dtype) = arrays[name], expected[name]
    if found.shape != tuple(shape) or found.dtype != np.dtype(dtype):
      different.append(f'{name!r} ({_form(found.shape, found.dtype)}, must be {_form(shape, dtype)})')
  complaints = [
    f'{kind} {_some(names)}'
    for kind, names in (
      ('missing', [repr(name) for name in missing]),
      ('unexpected', [repr(name) for name in unexpected]),
      ('different', different),
    )
    if names
  ]
  if complaints:
    raise ConfigError(
      f'checkpoint of another model: {"; ".join(complaints)}: use the config that it was saved with, or another workdir'
    )


def _some(names: list[str]) -> str:
  more = len(names) - _NAMED
  return ', '.join(names[:_NAMED]) + (f' and {more} more' if more > 0 else '')


def _form(shape: Sequence[int], dtype: DTypeLike) -> str:
  return f'{np.dtype(dtype).name}[{",".join(str(size) for size in shape)}]'
