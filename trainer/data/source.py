"""A TFDS dataset as this program sees it: its features, two splits of records in files, and how a record is decoded.

`open_dataset` finds or prepares it and checks everything that can be checked without reading the records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data import builders, records
from trainer.errors import ConfigError
from trainer.fields import nearest

# Examples in a split of synthetic data when the size of the real one is not known.
_SYNTHETIC_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Split:
  """A part of a dataset.

  Attributes:
    name: the TFDS expression, as in 'train[:90%]'.
    num_examples: its examples, at least 1.
    files: where their records lie, in file order; no files if the data are synthetic.
    is_counted: False where `num_examples` is made up.
  """

  name: str
  num_examples: int
  files: records.RecordFiles
  is_counted: bool = True


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset with its splits for training and evaluation.

  Attributes:
    name: TFDS name, with its config if it has one.
    version: TFDS version.
    features: TFDS features: what `decode` gives, with class names and shapes.
    train: the split to train on.
    evaluation: the split to evaluate on.
    synthetic: True where there are no records to read, and `features` is all there is.
  """

  name: str
  version: str
  features: tfds.features.FeaturesDict
  train: Split
  evaluation: Split
  synthetic: bool = False

  @property
  def labels(self) -> dict[str, list[str]]:
    """The class names of every ClassLabel feature; the key of one inside another feature is 'outer/inner'."""
    return dict(_class_names('', self.features))

  def decode(self, serialized: tf.Tensor, encoded: str = '') -> dict[str, Any]:
    """One serialized example (string scalar) as its features; graph ops. The feature `encoded` stays as it is."""
    skip = {encoded: tfds.decode.SkipDecoding()} if encoded else None
    return self.features.deserialize_example(serialized, decoders=skip)

  @tf.autograph.experimental.do_not_convert
  def examples(self, split: Split) -> tf.data.Dataset:
    """The decoded examples of a split, once, in file order.

    Raises:
      ConfigError: a data file is damaged.
    """
    table = records.tensors(split.files.cut(0, split.num_examples, split.num_examples))
    read = tf.data.Dataset.range(len(table['first'])).flat_map(lambda piece: records.read(table, piece))
    return read.map(self.decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

  def fingerprint(self, split: Split) -> str:
    """What the rows of a split depend on: splits with one fingerprint have the same examples in the same rows."""
    ranges = [(file.path.rpartition('/')[2], file.skip, file.take, file.records) for file in split.files.files]
    digest = hashlib.sha256(repr(ranges).encode()).hexdigest()[:12]
    kind = 'synthetic ' if self.synthetic else ''
    return f'{kind}{self.name}:{self.version} {split.name} {split.num_examples} {digest}'


def open_dataset(config: ml_collections.ConfigDict, name: str = '') -> Dataset:
  """The dataset that the config names. One of our own is prepared first where it is not yet; nothing is downloaded.

  Args:
    config: its section `data` is read.
    name: of another dataset, to be read in the same way; empty: `data.dataset`.

  Raises:
    ConfigError: the dataset or a split is unknown, empty, not prepared or unreadable; the message says what to do.
  """
  data = config.data
  directory = builders.data_dir(config)
  synthetic = data.source == 'synthetic'
  builder = builders.open_builder(name or data.dataset, directory, needs_data=not synthetic)
  if data.pack_tokens:
    builder = builders.packed(builder, data, directory)
  split = _synthetic_split if synthetic else _split
  train = split(builder, 'data.train_split', data.train_split)
  return Dataset(
    name=f'{builder.name}/{builder.builder_config.name}' if builder.builder_config else builder.name,
    version=str(builder.version),
    features=builder.info.features,
    train=train,
    # Of a set that is only mixed in, nothing is evaluated.
    evaluation=train if name else split(builder, 'data.eval_split', data.eval_split),
    synthetic=synthetic,
  )


def _split(builder: tfds.core.DatasetBuilder, field: str, name: str) -> Split:
  splits = builder.info.splits
  for part in name.split('+'):
    base = part.split('[')[0].strip()
    if base not in splits and base != 'all':
      raise ConfigError(
        f'{field}={name!r}: {builder.name} has no split {base!r}{nearest(base, splits)} (splits: {", ".join(splits)})'
      )
  try:
    info = splits[name]
    instructions, size = info.file_instructions, info.num_examples
  except ValueError as error:
    raise ConfigError(f'{field}={name!r} cannot be read as a TFDS split: {" ".join(str(error).split())}') from error
  if not size:
    whole = ', '.join(f'{known} ({splits[known].num_examples} examples)' for known in splits)
    raise ConfigError(f'{field}={name!r} is empty: choose a larger part of {whole}')
  ranges = [
    records.FileRange(
      path=str(instruction.filename),
      skip=instruction.skip,
      take=instruction.take,
      records=instruction.examples_in_shard,
    )
    for instruction in instructions
  ]
  for path in {file.path for file in ranges}:
    records.check_readable(path)
  return Split(name, size, records.RecordFiles(ranges))


def _synthetic_split(builder: tfds.core.DatasetBuilder, field: str, name: str) -> Split:
  """A split with the size of the real one, if the builder knows it, and no files."""
  known = builder.info.splits
  size = _split_size(known, name) if known else _slice_size(name)
  return Split(name, size or _SYNTHETIC_EXAMPLES, records.RecordFiles([]), is_counted=bool(size))


def _split_size(splits: Any, name: str) -> int:
  """Examples of a split; 0 where there is no such split, which synthetic data does not need."""
  try:
    return splits[name].num_examples
  except (KeyError, ValueError):
    return 0


def _slice_size(name: str) -> int:
  """Examples of a slice in absolute numbers, as in 'test[:64]'; 0 for any other split."""
  found = re.fullmatch(r'\w+\[(\d*):(\d+)\]', name)
  return max(int(found[2]) - int(found[1] or 0), 0) if found else 0


def _class_names(prefix: str, feature: Any) -> list[tuple[str, list[str]]]:
  if isinstance(feature, tfds.features.ClassLabel):
    return [(prefix, list(feature.names))]
  if isinstance(feature, tfds.features.Sequence):
    return _class_names(prefix, feature.feature)
  if isinstance(feature, tfds.features.FeaturesDict):
    inner = [_class_names(f'{prefix}/{name}' if prefix else name, part) for name, part in feature.items()]
    return [entry for entries in inner for entry in entries]
  return []
