"""Which methods are run on which example, and whether what they say depends on the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.explain import sanity
from trainer.explain.attribution import Attribution, correlation
from trainer.explain.methods import METHODS, Case
from trainer.explain.network import Network
from trainer.fields import Field, above, at_least, nearest, one_of
from trainer.report.gallery import Part

PERMUTATION = 'permutation_importance'
NAMES = (*METHODS, PERMUTATION)
# Examples whose explanations are held against those of weights drawn anew.
CHECKED = 8
_NUCLEOTIDES, _AMINO_ACIDS = 'ACGTU', 'ACDEFGHIKLMNPQRSTVWY'
# A stop, a gap, and letters for what is not known.
_BESIDE = '*-BJOUXZ'


def _check_methods(text: str) -> str:
  for name in filter(None, text.replace(' ', '').split(',')):
    if name not in (*NAMES, 'auto'):
      return f'has {name!r}, which is no method{nearest(name, NAMES)} Known: auto, {", ".join(NAMES)}'
  return '' if text.strip(' ,') else "names no method: 'auto' takes what fits"


def _check_alphabet(text: str) -> str:
  good = all(32 < ord(letter) < 127 for letter in text) and len(set(text)) == len(text) != 1
  return '' if good else 'must be two different characters of ASCII or more, or empty'


FIELDS: dict[str, Field] = {
  'examples': Field(8, 'first examples of data.eval_split that are explained', at_least(1)),
  'methods': Field('auto', "methods by name, 'grad_cam,occlusion'; auto: those that fit the inputs", _check_methods),
  'target': Field('predicted', 'class or token that is explained', one_of('predicted', 'true')),
  'output': Field(-1, 'number of the output that is explained; -1: by target, or the first value', at_least(-1)),
  'check': Field(True, 'hold explanations against those of weights drawn anew'),
  'batch_size': Field(32, 'inputs that are computed together', at_least(1)),
  'baseline': Field(
    'auto', 'what stands for nothing; auto: black for images, padding for ids, else zero',
    one_of('auto', 'black', 'zero', 'mean', 'padding'),
  ),
  'steps': Field(64, 'integrated gradients: points of the path at first; doubled until they are enough', at_least(2)),
  'most_steps': Field(1024, 'integrated gradients: points of the path at most', at_least(2)),
  'samples': Field(64, 'SmoothGrad: noisy copies', at_least(2)),
  'noise': Field(0.15, 'SmoothGrad: deviation of the noise, as a share of the range of an input', above(0)),
  'layer': Field('', 'Grad-CAM: name of the layer; empty: the last convolution with its activation'),
  'window': Field(0, 'occlusion: places of a side of what is covered; 0: an eighth of the shorter side', at_least(0)),
  'stride': Field(0, 'occlusion: places from window to window; 0: half a window', at_least(0)),
  'alphabet': Field(
    '', 'mutagenesis: the symbols; empty: nucleotides or amino acids, if the split has no others', _check_alphabet
  ),
  'repeats': Field(10, 'permutation importance: shuffles of each feature', at_least(1)),
}  # fmt: skip


def chosen(fields: Any, network: Network, case: Case) -> list[str]:
  """The methods that are run on each example.

  Args:
    fields: the config's section.
    network: the model.
    case: any example.

  Raises:
    ConfigError: a method that is asked for by name does not fit the model or its inputs.
  """
  found: list[str] = []
  for name in _asked(fields):
    if name == 'auto':
      kind = case.view.kind
      found += [each for each, m in METHODS.items() if kind in m.by_itself and not m.refusal(network, case)]
    elif name in METHODS:
      if refusal := METHODS[name].refusal(network, case):
        raise ConfigError(f'explain.methods: {name} {refusal}')
      found.append(name)
  return list(dict.fromkeys(found))


def permutes(fields: Any, kind: str) -> bool:
  """Whether the features of a table are shuffled.

  Raises:
    ConfigError: that is asked for by name, and the inputs are no table.
  """
  asked = _asked(fields)
  if PERMUTATION in asked and kind != 'table':
    raise ConfigError(f'explain.methods: {PERMUTATION} is for tables, and these inputs are {kind}')
  return PERMUTATION in asked or ('auto' in asked and kind == 'table')


def _asked(fields: Any) -> list[str]:
  return [name for name in fields.methods.replace(' ', '').split(',') if name]


@dataclasses.dataclass
class Sanity:
  """Rank correlations of explanations with those of weights drawn anew, for each method and example."""

  last: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
  all: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)

  def add(self, name: str, true: Attribution, last: Attribution, everything: Attribution) -> None:
    """Adds an example: what a method says of it at the true weights, a new last layer, and all new."""
    self.last.setdefault(name, []).append(correlation(true.values, last.values))
    self.all.setdefault(name, []).append(correlation(true.values, everything.values))

  def results(self) -> dict[str, dict[str, Any]]:
    """method -> 'last_layer' and 'all_layers', the mean size of the rank correlations or None, and the 'verdict'."""
    found = {}
    for name, each in self.all.items():
      all_layers = sanity.strength(each)
      found[name] = {
        'last_layer': sanity.strength(self.last[name]),
        'all_layers': all_layers,
        'verdict': sanity.verdict(all_layers),
      }
    return found


def explained(
  names: Sequence[str], network: Network, case: Case, others: tuple[Network, Network] | None, found: Sanity
) -> tuple[dict[str, Any], list[Part]]:
  """One example by each method: what the methods say of themselves, and what people look at.

  Args:
    names: of METHODS.
    network: the model.
    case: the example.
    others: the model with a new last layer, and all new; None: nothing is held against that.
    found: takes what comes of it.
  """
  checks, parts = {}, case.view.inputs(case.inputs[0])
  for name in names:
    method = METHODS[name]
    attribution = method.run(network, case)
    checks[name] = attribution.check
    parts += method.parts(name, case, attribution)
    if others is not None:
      rough = dataclasses.replace(case, refined=False)
      found.add(name, attribution, method.run(others[0], rough), method.run(others[1], rough))
  return checks, parts


def alphabet(fields: Any, task_name: str, ids: Iterable[np.ndarray]) -> str:
  """The symbols of sequences, '' where the inputs are none.

  Args:
    fields: the config's section.
    task_name: of the run.
    ids: inputs of a text task (trainer/tasks/text_classification.py), looked at until one is no such symbol.
  """
  if task_name not in ('text_classification', 'text_regression'):
    return ''
  if fields.alphabet:
    return fields.alphabet
  letters: set[str] = set()
  for each in ids:
    letters |= {chr(i - 1) for i in np.unique(each).tolist() if i}
    if letters - set(_AMINO_ACIDS + _BESIDE):
      return ''
  if letters <= {*_NUCLEOTIDES, 'N'}:
    return 'ACGU' if 'U' in letters else 'ACGT'
  return _AMINO_ACIDS + ''.join(letter for letter in _BESIDE if letter in letters)
