"""Predicts with an exported model: python predict.py INPUT... (files, folders, patterns, or - for lines of stdin).

Needs TensorFlow and NumPy, and the files beside it. Prints a JSON object per example; one that cannot be read is a line
on stderr, and the exit code is then 2.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import reading  # beside this file in an export
import tensorflow as tf

HERE = pathlib.Path(__file__).resolve().parent


def main(sources: list[str]) -> int:
  if not sources:
    print(__doc__, file=sys.stderr)
    return 2
  told = json.loads((HERE / 'signature.json').read_text())
  try:
    files = reading.expand(sources)
  except reading.BadInput as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  run = tf.saved_model.load(str(HERE / 'saved_model')).signatures['serving_default']
  wrong = 0
  for file in files:
    for name, value in reading.examples(file, told['given']):
      if isinstance(value, reading.BadInput):
        print(f'error: {value}', file=sys.stderr)
        wrong += 1
        continue
      found = run(**{key: tf.constant(part)[tf.newaxis] for key, part in _tensors(value, told).items()})
      said = {key: _readable(tensor[0].numpy(), told['outputs'][key]) for key, tensor in found.items()}
      print(json.dumps({'input': name, **said}), flush=True)
  return 2 if wrong else 0


def _tensors(value: Any, told: dict[str, Any]) -> dict[str, Any]:
  """A raw feature by the names of the signature."""
  if told['tokens'] is not None:
    if not told['tokens']['ids']:
      raise SystemExit('error: the texts of this model are cut by byte-pair encoding: call the signature with tokens')
    ids = np.array(told['tokens']['ids'], np.int32)[np.frombuffer(value, np.uint8).astype(np.int32) + 1]
    if (length := told['tokens']['length']) is not None:
      ids = np.pad(ids[:length], (0, max(0, length - len(ids))))
    return {'tokens': ids, 'numbers': np.int64(0)}
  names = told['inputs']  # name in the signature -> path of the raw feature
  whole = value if isinstance(value, dict) else {told['given']['name']: value}
  return {key: whole[path] for key, path in names.items()}


def _readable(value: np.ndarray, told: dict[str, Any]) -> Any:
  if 'classes' in told:
    best = np.argsort(-value, kind='stable')[:5].tolist()
    return {told['classes'][i]: round(float(value[i]), 6) for i in best}
  if 'pieces' in told:
    ids = value.tolist()
    ends = [place for place, i in enumerate(ids) if i in told['ends']]
    pieces = [told['pieces'][i].encode(told['encoding']) for i in (ids[: ends[0]] if ends else ids)]
    return told['joint'].encode().join(pieces).decode(errors='replace')
  return value.tolist()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
