"""Runs an exported SavedModel on examples, in a process that has nothing of this package.

  python -I reload.py SAVED_MODEL EXAMPLES OUTPUTS

Both files are TFRecords of serialized tensors: of each example its inputs in the order of their names, of its outputs
likewise. Examples of the same shapes that follow each other are run together.
"""

from __future__ import annotations

import itertools
import sys

import tensorflow as tf

_TOGETHER = 64


def main(saved_model: str, examples: str, outputs: str) -> None:
  run = tf.saved_model.load(saved_model).signatures['serving_default']
  specs = run.structured_input_signature[1]
  names = sorted(specs)
  records = list(tf.data.TFRecordDataset(examples).as_numpy_iterator())
  tensors = [tf.io.parse_tensor(each, specs[names[i % len(names)]].dtype) for i, each in enumerate(records)]
  rows = [tensors[first : first + len(names)] for first in range(0, len(tensors), len(names))]
  with tf.io.TFRecordWriter(outputs) as writer:
    for _, alike in itertools.groupby(rows, key=lambda row: [tuple(part.shape) for part in row]):
      while batch := list(itertools.islice(alike, _TOGETHER)):
        found = run(**{name: tf.stack(parts) for name, parts in zip(names, zip(*batch, strict=True), strict=True)})
        for place, name in itertools.product(range(len(batch)), sorted(found)):
          writer.write(tf.io.serialize_tensor(found[name][place]).numpy())


if __name__ == '__main__':
  main(*sys.argv[1:])
