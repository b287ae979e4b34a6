"""Our own TFDS builders: small real sets that need no download, since their data files lie in this package, or
in another one that pip installs (carriers.py).

`BUILDERS` is the table of names; `builder_class` imports one, which also makes it known to `tfds.builder`. The
builders are prepared at first use (trainer/data/builders.py), like any TFDS set, into the TFDS data directory.
files/NOTICE tells where each data file comes from and under which licence.
"""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import numpy as np

# TFDS name -> (module, class); none that TFDS has itself, which would be another set under the same name
BUILDERS: dict[str, tuple[str, str]] = {
  'amyloid': ('trainer.data.datasets.sequence_function', 'Amyloid'),
  'breast_cancer': ('trainer.data.datasets.breast_cancer', 'BreastCancer'),
  'cmudict': ('trainer.data.datasets.cmudict', 'Cmudict'),
  'diabetes': ('trainer.data.datasets.diabetes', 'Diabetes'),
  'diamond_prices': ('trainer.data.datasets.diamond_prices', 'DiamondPrices'),
  'earth_orientation': ('trainer.data.datasets.earth_orientation', 'EarthOrientation'),
  'land_cover': ('trainer.data.datasets.land_cover', 'LandCover'),
  'language_id': ('trainer.data.datasets.language_id', 'LanguageId'),
  'python_docs': ('trainer.data.datasets.python_docs', 'PythonDocs'),
  'splice_sites': ('trainer.data.datasets.sequence_function', 'SpliceSites'),
  'spoken_digits': ('trainer.data.datasets.spoken_digits', 'SpokenDigits'),
  'uci_digits': ('trainer.data.datasets.uci_digits', 'UciDigits'),
}

_FILES = pathlib.Path(__file__).parent / 'files'


def builder_class(name: str) -> Any:
  """The builder class of one of our own sets.

  Args:
    name: a key of BUILDERS.
  """
  module, cls = BUILDERS[name]
  return getattr(importlib.import_module(module), cls)


def feature_names(name: str) -> tuple[str, ...]:
  """What the numbers of a set's vector are called, in order; () where it is not ours, or they have no names.

  Args:
    name: of any set.
  """
  return getattr(importlib.import_module(BUILDERS[name][0]), 'FEATURE_NAMES', ()) if name in BUILDERS else ()


def table(filename: str, *, delimiter: str | None = ',', skip_rows: int = 0) -> np.ndarray:
  """A table of numbers from files/, gzip-compressed or plain, as float64 [rows, columns]."""
  path = _FILES / filename
  return np.loadtxt(path, delimiter=delimiter, skiprows=skip_rows, ndmin=2)
