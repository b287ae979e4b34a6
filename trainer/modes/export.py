"""Mode export: one checkpoint as files that are used without this package (trainer/serve/export.py says which)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import durable
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.modes.eval import restored
from trainer.serve import card, export
from trainer.serve.function import Served
from trainer.storage.mirror import EXPORT
from trainer.train.session import Session

# Examples that the TensorFlow Lite file is tried on, one by one.
_LITE_EXAMPLES = 100


def run(command: Any) -> None:
  """Writes WORKDIR/export/STEP, once the SavedModel says what the checkpoint says, and prints one JSON object.

  On one device; the whole evaluation split is evaluated, for the model card.

  Args:
    command: what the command line says (trainer/main.py), as for mode eval.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config; the task predicts from nothing
      that could be an input; or the folder cannot be written to.
    RuntimeError: the export says something else than the checkpoint.
  """
  session, step, directory = restored(command, alone=True)
  fields, name = session.config.export, f'{EXPORT}/{step}'
  try:
    evaluator = session.evaluator()
    results = evaluator.evaluate()
    wanted = list(itertools.islice(evaluator.predict(), fields.check_examples))
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  served = Served(session)
  folder = directory.file(name)
  partial = f'{folder}.partial'
  try:
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
  except OSError as error:
    raise ConfigError(f'{partial} cannot be written: {error.strerror}: set the permissions') from error
  left_out = export.write(partial, served, session, tuple(fields.formats))
  checks = _compared(session, served, partial, [each.prediction for each in wanted], left_out)
  export.sample_inputs(partial, session, fields.examples)
  durable.replace(os.path.join(partial, 'README.md'), card.text(session, step, results, checks).encode())
  shutil.rmtree(folder, ignore_errors=True)
  os.rename(partial, folder)
  print(json.dumps({'step': step, 'export': directory.publish(name), **checks}))


def _compared(
  session: Session, served: Served, folder: str, wanted: list[Any], left_out: dict[str, str]
) -> dict[str, Any]:
  """{'examples', 'largest_difference' by output, 'tolerance', 'left_out'} of the export against the checkpoint.

  A TensorFlow Lite file that says something else is left out.

  Raises:
    RuntimeError: a difference is larger than the tolerance.
  """
  tolerance = export.TOLERANCES[session.precision.policy]
  with open(os.path.join(folder, export.SIGNATURE)) as file:
    outputs = json.load(file)['outputs']
  known = [each if isinstance(each, Mapping) else {'predictions': each} for each in wanted]
  rows = export.examples(session, served, len(known))
  found = export.outputs_elsewhere(os.path.join(folder, export.SAVED_MODEL), rows, list(outputs))
  assert len(found) == len(known), (len(found), len(known))
  said: Iterable[dict[str, Any]] = (
    {name: np.asarray(tf.io.parse_tensor(each[name], told['dtype'])) for name, told in outputs.items()}
    for each in found
  )
  largest = {name: _largest(name, said_of, known) for name, said_of in _columns(outputs, said).items()}
  lite = os.path.join(folder, export.LITE)
  if os.path.exists(lite):
    some = known[:_LITE_EXAMPLES]
    said = export.lite_outputs(lite, export.examples(session, served, len(some)))
    lites = {name: _largest(name, said_of, some) for name, said_of in _columns(outputs, said).items()}
    if max(lites.values()) > tolerance:
      os.remove(lite)
      left_out['tflite'] = f'what TensorFlow Lite computes differs by {max(lites.values()):g}'
    else:
      largest |= {f'tflite {name}': difference for name, difference in lites.items()}
  if max(largest.values()) > tolerance:
    raise RuntimeError(f'the export differs from the checkpoint by {largest}, more than {tolerance:g}')
  return {'examples': len(known), 'largest_difference': largest, 'tolerance': tolerance, 'left_out': left_out}


def _columns(names: Iterable[str], rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
  whole = list(rows)
  return {name: [row[name] for row in whole] for name in names}


def _largest(name: str, said: list[Any], known: list[Mapping[str, Any]]) -> float:
  pairs = zip(said, known, strict=True)
  return max(export.largest_difference(value, np.asarray(each[name])) for value, each in pairs)
