"""A trained model as files that are used without this package: a SavedModel that takes raw features, and its weights.

saved_model/       signature serving_default: raw features [B, ...] -> predictions [B, ...], preprocessing inside
model.tflite       the same for one example, where TensorFlow Lite's own operations do
model.keras        the network alone, from prepared inputs to raw outputs; a family of ours needs this package to load
model.safetensors  its weights by path
signature.json     what goes in and what comes out, for predict.py and reading.py beside it
examples/          some inputs as files, to try it on
README.md          the model card
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.serve import given, writing
from trainer.serve.function import Served

SIGNATURE, SAVED_MODEL, LITE = 'signature.json', 'saved_model', 'model.tflite'
# Of outputs that are computed in float32, and in 16 bits, where a batch of another size rounds otherwise.
TOLERANCES = {'float32': 1e-5, 'mixed_bfloat16': 3e-2, 'mixed_float16': 5e-3}
VERSION = 1
EXAMPLES = 'examples'
_HERE = pathlib.Path(__file__).resolve().parent


def write(folder: str, served: Served, session: Any, formats: tuple[str, ...]) -> dict[str, str]:
  """Writes all but the card. Returns what was left out, and why.

  Raises:
    ConfigError: the folder cannot be written to.
  """
  left_out: dict[str, str] = {}
  function = served.signature()
  try:
    tf.saved_model.save(served, os.path.join(folder, SAVED_MODEL), signatures={'serving_default': function})
    for source, name in (('reading.py', 'reading.py'), ('standalone.py', 'predict.py')):
      shutil.copy(_HERE / source, os.path.join(folder, name))
    with open(os.path.join(folder, SIGNATURE), 'w') as file:
      json.dump(_signature(served, session, function), file, indent=1)
    writers: dict[str, Callable[[], str]] = {
      'keras': lambda: _keras(folder, session.model),
      'safetensors': lambda: _safetensors(folder, session.model),
      'tflite': lambda: _tflite(folder, served),
    }
    for name in formats:
      if why := writers[name]():
        left_out[name] = why
  except OSError as error:
    raise ConfigError(f'{folder} cannot be written: {error.strerror}: make room or set the permissions') from error
  return left_out


def sample_inputs(folder: str, session: Any, count: int) -> None:
  """Writes the first raw examples of the evaluation split as files that predict.py reads; none of packed texts."""
  told = given.describe(session.task, session.dataset.features)
  if not count or told['name'] == 'tokens':
    return
  rows = session.dataset.examples(session.dataset.evaluation).take(count).as_numpy_iterator()
  flat = [given.flat(session.task, row[told['name']]) for row in rows]
  values = flat if told['kind'] == 'table' else [each[told['name']] for each in flat]
  texts = told['kind'] == 'text'
  writing.write(os.path.join(folder, EXAMPLES), told, [np.asarray(each).item() for each in values] if texts else values)


def examples(session: Any, served: Served, count: int) -> Iterator[dict[str, Any]]:
  """The first raw examples of the evaluation split, by the names of the signature."""
  rows = session.dataset.examples(session.dataset.evaluation).take(count)
  for number, row in enumerate(rows.as_numpy_iterator()):
    if served.of_ids:
      yield {'tokens': np.asarray(session.task.asked(row), np.int32), 'numbers': np.int64(number)}
    else:
      flat = given.flat(session.task, row[session.task.given])
      yield {served.argument[path]: value for path, value in flat.items()}


def outputs_elsewhere(
  saved_model: str, rows: Iterator[dict[str, np.ndarray]], names: list[str]
) -> list[dict[str, Any]]:
  """What the SavedModel says in a fresh process without this package, for each example: serialized tensors by name.

  Args:
    saved_model: its folder.
    rows: examples by the names of the signature.
    names: of the outputs.

  Raises:
    RuntimeError: it could not be loaded, or failed.
  """
  with tempfile.TemporaryDirectory() as scratch:
    given_path, said_path = os.path.join(scratch, 'examples'), os.path.join(scratch, 'outputs')
    with tf.io.TFRecordWriter(given_path) as writer:
      for row in rows:
        for name in sorted(row):
          writer.write(tf.io.serialize_tensor(row[name]).numpy())
    done = subprocess.run(
      [
        sys.executable,
        '-I',
        _HERE / 'reload.py',
        os.path.abspath(saved_model),
        given_path,
        said_path,
      ],
      cwd=scratch,
      env={**os.environ, 'CUDA_VISIBLE_DEVICES': '-1'},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      raise RuntimeError(f'the SavedModel does not run by itself: {done.stderr.strip().splitlines()[-1:]}')
    records = list(tf.data.TFRecordDataset(said_path).as_numpy_iterator())
  names = sorted(names)
  return [
    dict(zip(names, records[first : first + len(names)], strict=True)) for first in range(0, len(records), len(names))
  ]


def largest_difference(found: np.ndarray, wanted: np.ndarray) -> float:
  """Of floats the largest difference, as a share of the largest value or of 1; of others the share that is not equal.

  Not as a share of each value: the side of a box is a difference of numbers as large as the picture.
  """
  if found.shape != wanted.shape or found.dtype != wanted.dtype:
    return float('inf')
  if not np.issubdtype(wanted.dtype, np.floating):
    return float(np.mean(found != wanted)) if wanted.size else 0.0
  same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
  with np.errstate(invalid='ignore'):
    largest = np.max(np.abs(wanted), initial=1.0, where=np.isfinite(wanted))
    apart = np.abs(found.astype(np.float64) - wanted) / largest
  return float(np.max(np.where(same, 0.0, np.nan_to_num(apart, nan=np.inf, posinf=np.inf)), initial=0.0))


def _signature(served: Served, session: Any, function: Any) -> dict[str, Any]:
  task = session.task
  outputs = {
    name: {'shape': list(spec.shape), 'dtype': spec.dtype.name, **task.wording().get(name, {})}
    for name, spec in function.structured_outputs.items()
  }
  tokens = None
  if served.of_ids:
    # Of one byte each; their ids tell how a text is asked.
    single = session.config.data.pack_tokenizer == 'bytes'
    ids = [task.ids_of(np.array([token], np.int32)) for token in range(len(task.vocabulary))] if single else []
    tokens = {'ids': [int(row[0]) for row in ids], 'length': len(ids[0]) if ids and len(ids[0]) > 1 else None}
  return {
    'version': VERSION,
    'task': session.config.task.name,
    'given': given.describe(task, session.dataset.features),
    'inputs': {'tokens': 'tokens'} if served.of_ids else {name: path for path, name in served.argument.items()},
    'tokens': tokens,
    'outputs': outputs,
  }


def _keras(folder: str, model: keras.Model) -> str:
  path = os.path.join(folder, 'model.keras')
  try:
    model.save(path)
    loaded = keras.models.load_model(path)
  except (TypeError, ValueError, NotImplementedError) as error:
    pathlib.Path(path).unlink(missing_ok=True)
    return f'Keras cannot write or read this network: {" ".join(str(error).split())[:200]}'
  if any(not np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True)):
    raise RuntimeError('the .keras file has other weights than the model')
  return ''


def _safetensors(folder: str, model: keras.Model) -> str:
  try:
    from safetensors.numpy import save_file
  except ImportError:
    return 'the package safetensors is not installed: run `pip install safetensors`'
  weights = {v.path: np.ascontiguousarray(v.numpy()) for v in model.weights}
  save_file(weights, os.path.join(folder, 'model.safetensors'), metadata={'format': 'keras'})
  return ''


def _tflite(folder: str, served: Served) -> str:
  """The signature for one example, made of TensorFlow Lite's own operations."""
  if served.of_ids or any(spec.dtype == tf.string for spec in served.specs.values()):
    return 'TensorFlow Lite has no operations of its own for texts'
  try:
    # Of what is read back: of the function itself the converter forgets the weights.
    loaded = tf.saved_model.load(os.path.join(folder, SAVED_MODEL))
    signature = loaded.signatures['serving_default']
    specs = signature.structured_input_signature[1]
    wanted = {name: tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name) for name, spec in specs.items()}
    function = tf.function(lambda **values: signature(**values)).get_concrete_function(**wanted)
    flat = tf.lite.TFLiteConverter.from_concrete_functions([function], loaded).convert()
    _lite(flat).allocate_tensors()
  except Exception as error:  # noqa: BLE001  (its errors have no common class)
    why = next((line.strip() for line in str(error).splitlines() if 'op' in line.lower()), str(error))
    return f'TensorFlow Lite cannot hold this model: {" ".join(why.split())[:200]}'
  pathlib.Path(folder, LITE).write_bytes(flat)
  return ''


def _lite(flat: bytes) -> Any:
  with warnings.catch_warnings():
    # It names its successor, another package, which is not needed to look at a file once.
    warnings.simplefilter('ignore')
    return tf.lite.Interpreter(model_content=flat)


def lite_outputs(path: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
  """What the TensorFlow Lite file says of each example."""
  run = _lite(pathlib.Path(path).read_bytes()).get_signature_runner()
  for row in rows:
    yield {name: value[0] for name, value in run(**{name: part[np.newaxis] for name, part in row.items()}).items()}
