"""TFDS builders by name: finding them, preparing our own without network, and saying at once what is missing.

A set of TFDS that is not prepared is never downloaded here: a run must not hang on a network, nor change because of it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from trainer.data import datasets, packing, tokenizers
from trainer.errors import ConfigError
from trainer.fields import nearest

# 'name', 'name/config', 'name:1.0.0', 'name/config:1.0.0'; 'huggingface:name' and its like are read over the network.
_NAME = re.compile(r'[a-zA-Z]\w*(/[\w.,=\-]+)?(:\d[\w.*\-]*)?')


def data_dir(config: ml_collections.ConfigDict) -> str:
  """The TFDS data directory: data.data_dir, or the environment's TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  chosen = config.data.data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return os.path.expanduser(chosen)


def open_builder(name: str, directory: str, *, needs_data: bool) -> tfds.core.DatasetBuilder:
  """The builder of a dataset, with its data ready to be read if `needs_data`.

  Args:
    name: data.dataset.
    directory: TFDS data directory, local or on any file system that TensorFlow knows.
    needs_data: whether the records are wanted, or only what the builder's code knows: features, and maybe split sizes.

  Raises:
    ConfigError: there is no such dataset, version or config; it is not prepared, or not as TFRecord; its files
      cannot be used; or one of our own sets cannot be written to `directory`.
  """
  if not _NAME.fullmatch(name):
    raise ConfigError(f"data.dataset={name!r} is no TFDS name: must look like 'name', 'name/config' or 'name:1.0.0'")
  base = re.split('[/:]', name)[0]
  if base in datasets.BUILDERS:
    datasets.builder_class(base)  # its import registers it
  builder = _builder(name, base, directory)
  if not needs_data:
    return builder
  if not _is_prepared(builder):
    if base not in datasets.BUILDERS:
      raise ConfigError(
        f'dataset {name!r} is not prepared in {directory}: run `tfds build {name} --data_dir={directory}` on a machine '
        'with network, or set data.data_dir to where it is'
      )
    _prepare(builder, directory)
    builder = _builder(name, base, directory)
  file_format = builder.info.file_format
  if file_format != tfds.core.FileFormat.TFRECORD:
    raise ConfigError(
      f'dataset {name!r} in {directory} is prepared as {getattr(file_format, "value", file_format)}, only tfrecord can '
      f'be read: prepare it with `tfds build {name} --file_format=tfrecord`'
    )
  return builder


def packed(builder: tfds.core.DatasetBuilder, data: Any, directory: str) -> tfds.core.DatasetBuilder:
  """The set of packed tokens (packing.py) of a set's texts, with its data ready to be read unless they are synthetic.

  Args:
    builder: the set with the texts.
    data: the config's section `data`.
    directory: TFDS data directory.

  Raises:
    ConfigError: the set has no such text, the tokenizer is none, or the packed set cannot be written.
  """
  feature = packing.text_feature(data.pack_feature, builder.info.features)
  tokenizer = tokenizers.create(data.pack_tokenizer, data.pack_vocabulary)

  # What is silent is TFDS: this is said where output goes now.
  say = functools.partial(print, file=sys.stdout, flush=True)

  def make() -> tfds.core.DatasetBuilder:
    with _quiet():
      return packing.Packed(builder, feature, tokenizer, data.pack_tokens, data.pack_stride, directory, say=say)

  made = make()
  if data.source == 'synthetic' or _is_prepared(made):
    return made
  _prepare(made, directory)
  return make()


def _builder(name: str, base: str, directory: str) -> tfds.core.DatasetBuilder:
  try:
    with _quiet():
      return tfds.builder(name, data_dir=directory)
  except tfds.core.DatasetNotFoundError as error:
    known = {*datasets.BUILDERS, *tfds.list_builders(with_community_datasets=False), *_folders(directory)}
    raise ConfigError(
      f'unknown dataset data.dataset={name!r}{nearest(base, known)} (neither TFDS nor {directory} has it)'
    ) from error
  # What a builder raises for a wrong version or config, or for broken info files, is its own; none of it is dropped.
  except Exception as error:
    raise ConfigError(f'data.dataset={name!r} in {directory} cannot be used: {_one_line(error)}') from error


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
  with _quiet():
    return builder.is_prepared()


def _prepare(builder: tfds.core.DatasetBuilder, directory: str) -> None:
  """Writes one of our own sets into the data directory; of several processes at once, one writes, the others wait."""
  try:
    with _locked(directory, builder.name), _quiet():
      if not builder.is_prepared():
        builder.download_and_prepare(file_format=tfds.core.FileFormat.TFRECORD)
  except (OSError, tf.errors.OpError) as error:
    raise ConfigError(
      f'dataset {builder.name!r} cannot be written to {directory} ({_one_line(error)}): set data.data_dir or '
      'TFDS_DATA_DIR to a directory that can be written'
    ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS from printing progress and warnings about sets that are not there, which we report ourselves."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _locked(directory: str, name: str) -> Iterator[None]:
  """Holds a lock that other processes with the same data directory see; the operating system frees it if we die."""
  if '://' in directory or os.name != 'posix':
    yield
    return
  import fcntl

  path = pathlib.Path(directory)
  path.mkdir(parents=True, exist_ok=True)
  with open(path / f'.{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _folders(directory: str) -> list[str]:
  """The names of the sets that lie in a data directory; none if there is no such directory."""
  if not tf.io.gfile.isdir(directory):
    return []
  return [entry.rstrip('/') for entry in tf.io.gfile.listdir(directory) if re.fullmatch(r'[a-z]\w*/?', entry)]


def _one_line(error: BaseException) -> str:
  # TFDS puts the arguments of the builder in front of what is wrong.
  text = str(error).rpartition('": ')[2]
  return ' '.join(text.split()) or type(error).__name__
