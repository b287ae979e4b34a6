"""What sequences do, as TFDS builders: RNA at splice sites, and mutants of a protein that forms plaques."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from trainer.data.datasets import carriers

_SPLITS = {'train': 'training', 'validation': 'validation', 'test': 'test'}


class _Measured(tfds.core.GeneratorBasedBuilder):
  """Sequences and what was measured of each, in the order of the source file and with its authors' splits.

  Features: `sequence`, letters; `target` float32.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar = {'1.0.0': 'As in the version of mavenn that is installed.'}
  FILE: ClassVar[str]
  WHAT: ClassVar[str]
  CITATION: ClassVar[str]

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.WHAT,
      features=tfds.features.FeaturesDict(
        {'sequence': tfds.features.Text(), 'target': tfds.features.Scalar(np.float32)}
      ),
      supervised_keys=('sequence', 'target'),
      homepage='https://mavenn.readthedocs.io/',
      license='MIT, with its carrier mavenn',
      citation=self.CITATION,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    path = carriers.file(self.name, 'mavenn', f'mavenn/examples/datasets/{self.FILE}')
    with gzip.open(path, 'rt', encoding='utf-8', newline='') as file:
      rows = list(csv.DictReader(file))
    return {split: self._generate_examples([r for r in rows if r['set'] == name]) for split, name in _SPLITS.items()}

  def _generate_examples(self, rows: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, row in enumerate(rows):
      yield key, {'sequence': row['x'], 'target': np.float32(row['y'])}


class SpliceSites(_Measured):
  """5' splice sites of nine letters of A, C, G, U, and the logarithm (base 10) of how much RNA is spliced there.

  18,469 in `train`, 5,936 in `validation`, 6,078 in `test`.
  """

  FILE = 'mpsa_data.csv.gz'
  WHAT = "5' splice sites and the logarithm of their percentage spliced in."
  CITATION = """@article{wong2018, author={Wong, M. S. and Kinney, J. B. and Krainer, A. R.}, year={2018},
    title={Quantitative Activity Profile and Context Dependence of All Human 5' Splice Sites},
    journal={Molecular Cell}, volume={71}, pages={1012--1026}}"""


class Amyloid(_Measured):
  """Mutants of amyloid beta, 42 amino acids or a stop (*), and how readily they form a nucleus of plaque.

  One or two letters differ from the natural sequence. 14,481 in `train`, 826 in `validation`, 759 in `test`.
  """

  FILE = 'amyloid_data.csv.gz'
  WHAT = 'Mutants of amyloid beta and their nucleation scores.'
  CITATION = """@article{seuma2021, author={Seuma, M. and Faure, A. and Badia, M. and Lehner, B. and Bolognesi, B.},
    year={2021}, title={The genetic landscape for amyloid beta fibril nucleation accurately discriminates familial
    Alzheimer's disease mutations}, journal={eLife}, volume={10}, pages={e63364}}"""
