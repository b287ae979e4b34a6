"""Texts as one row of tokens, cut into records of one length: a TFDS set made once out of another.

The texts of a split follow each other in their order, each with an end behind it, and record k holds the tokens from
k * stride on, one more than the model sees, since each but the first is learnt from those before it. So with no overlap
each token is learnt once an epoch. The set lies beside the others in the data directory and is read like them; so the
order of its examples is that of any set (order.py).

The texts are first cut into tokens, by several processes (pieces.py), then these into files of records, by several
threads (shards.py). Who is killed goes on with the pieces and the files that are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data import pieces, records, shards
from trainer.data.tokenizers import Tokenizer
from trainer.errors import ConfigError
from trainer.fields import nearest
from trainer.runtime.devices import usable_cores
from trainer.tokens import Vocabulary

# Begins the name of the folders with tokens and files of records, beside the set while it is made.
_PIECES = 'pieces-'


class TokenRow(tfds.features.Tensor):
  """A row of tokens, int32 [n], which knows its vocabulary as a ClassLabel knows its names."""

  def __init__(self, length: int, vocabulary: Vocabulary):
    super().__init__(shape=(length,), dtype=np.int32)
    self.vocabulary = vocabulary

  def save_metadata(self, data_dir: Any, feature_name: str | None = None) -> None:
    with tf.io.gfile.GFile(_beside(data_dir, feature_name), 'w') as file:
      json.dump(self.vocabulary.state(), file)

  def load_metadata(self, data_dir: Any, feature_name: str | None = None) -> None:
    with tf.io.gfile.GFile(_beside(data_dir, feature_name)) as file:
      self.vocabulary = Vocabulary.from_state(json.load(file))


def _beside(data_dir: Any, feature_name: str | None) -> str:
  return f'{data_dir}/{feature_name}.vocabulary.json'


class Packed(tfds.core.dataset_builder.FileReaderBuilder):
  """Packed tokens of another set's texts.

  Features: `tokens` int32 (length + 1,), with more ends after that of the last text; `count` int32, how many of them
  stand behind another one, which are those to learn.
  Splits: those of the other set. Training splits overlap where a stride is given; of `test` and `validation`, and of
  any split that is not called train, each token is in one record.
  """

  VERSION = tfds.core.Version('1.2.0')
  RELEASE_NOTES = {'1.1.0': 'With the vocabulary beside the records.', '1.2.0': 'Files of another size.'}

  def __init__(
    self,
    source: tfds.core.DatasetBuilder,
    feature: str,
    tokenizer: Tokenizer,
    length: int,
    stride: int,
    data_dir: str,
    *,
    processes: int = 0,
    say: Callable[[str], None] = print,
  ):
    """Names the set by what it is made of.

    Args:
      source: the other set, prepared if this one is not.
      feature: its text.
      tokenizer: cuts the texts; where it learns, it learns from the set's split `train`, or its first.
      length: tokens that the model sees.
      stride: tokens from the beginning of one training record to that of the next; 0: length.
      data_dir: TFDS data directory.
      processes: that cut texts, and then threads that write records, at the same time; 0: as many as there are cores
        for this one. The records are the same.
      say: takes lines of progress.
    """
    self._processes, self._say = processes or usable_cores(), say
    self._source, self._feature, self._tokenizer = source, feature, tokenizer
    self._length, self._stride = length, stride or length
    kind = f'{source.builder_config.name}-' if source.builder_config else ''
    name = f'{source.name}-{kind}{source.version}-{feature}-{tokenizer.name}-{length}-{self._stride}'
    super().__init__(data_dir=data_dir, config=tfds.core.BuilderConfig(name=_safe(name), version=self.VERSION))
    # While it is prepared, TFDS has another directory for it.
    self._beside = os.path.dirname(str(self.data_dir).rstrip('/'))

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'Texts of {self._source.name} ({self._feature}), packed into {self._length} tokens.',
      features=tfds.features.FeaturesDict(
        {
          'tokens': TokenRow(self._length + 1, self._tokenizer.vocabulary),
          'count': tfds.features.Scalar(np.int32),
        }
      ),
      disable_shuffling=True,
    )

  def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
    del dl_manager, download_config
    splits = self._source.info.splits
    self._tokenizer.learn(self._texts('train' if 'train' in splits else next(iter(splits))))
    self.info.features['tokens'].vocabulary = self._tokenizer.vocabulary
    # All are written before the first is where TFDS has begun anew when we come again.
    with contextlib.ExitStack() as stack:
      written = {name: self._written(name, stack) for name in splits}
      self.info.set_splits(tfds.core.SplitDict([self._moved(name, files) for name, files in written.items()]))

  def _texts(self, split: str) -> Iterator[bytes]:
    read = tfds.ReadConfig(try_autocache=False, skip_prefetch=True)
    texts = self._source.as_dataset(split=split, shuffle_files=False, read_config=read)
    return (example[self._feature].numpy() for example in texts)

  def _text(self, serialized: tf.Tensor) -> tf.Tensor:
    return self._source.info.features.deserialize_example(serialized)[self._feature]

  def _written(self, split: str, stack: contextlib.ExitStack) -> list[shards.Shard]:
    """The files of a split, in a folder that is there as long as the stack is."""
    instructions = self._source.info.splits[split].file_instructions
    files = [records.FileRange(str(i.filename), i.skip, i.take, i.examples_in_shard) for i in instructions]
    made = pieces.Pieces(files, self._text, self._tokenizer)
    folder = stack.enter_context(self._folder(split, pieces.fingerprint(files, self._feature, self._tokenizer)))

    def say(line: str) -> None:
      self._say(f'packing {self._source.name} ({split}): {line}')

    made.prepare(folder, self._processes, say)
    stride = self._stride if split == 'train' else self._length
    cut = shards.Cut(self._length, stride, self._tokenizer.vocabulary.end)
    written = shards.write(made.row(folder), cut, folder, self._processes, say)
    if not written:
      raise ConfigError(
        f'data.pack_tokens: the texts of {self._source.name} ({split}) have no two tokens: take another set'
      )
    return written

  def _moved(self, split: str, files: list[shards.Shard]) -> tfds.core.SplitInfo:
    """A split, with its files where TFDS has them."""
    names = tfds.core.ShardedFileTemplate(
      data_dir=self.data_path, dataset_name=self.name, split=split, filetype_suffix='tfrecord'
    )
    for number, file in enumerate(files):
      path = str(names.sharded_filepath(shard_index=number, num_shards=len(files)))
      if '://' in path:
        tf.io.gfile.copy(file.path, path)
      else:
        os.replace(file.path, path)
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=[file.records for file in files],
      num_bytes=sum(file.bytes for file in files),
      filename_template=names,
    )

  @contextlib.contextmanager
  def _folder(self, split: str, fingerprint: str) -> Iterator[str]:
    """Where the pieces of a split lie until the set is there: beside it, but in a place of our own if it is remote."""
    if '://' in self._beside:
      with tempfile.TemporaryDirectory() as folder:
        yield folder
      return
    yield os.path.join(self._beside, f'{_PIECES}{split}-{fingerprint}')

  def download_and_prepare(self, **kwargs: Any) -> None:
    # We hold the lock (builders.py): what TFDS had begun here belongs to nobody any more.
    self._remove('incomplete.*')
    super().download_and_prepare(**kwargs)
    # Also pieces that nobody will go on with, since what they were made of is no more.
    self._remove(f'{_PIECES}*')

  def _remove(self, pattern: str) -> None:
    for folder in pathlib.Path(self._beside).glob(pattern):
      shutil.rmtree(folder)


def text_feature(name: str, features: Any) -> str:
  """The feature that is packed: the only text, or the one that is named.

  Raises:
    ConfigError: there is no such text, or several.
  """
  texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
  if name:
    if name not in texts:
      raise ConfigError(f'data.pack_feature={name!r} is not a text of the set{nearest(name, texts)} Texts: {texts}')
    return name
  if len(texts) != 1:
    raise ConfigError(
      f'data.pack_tokens needs one text, and the set has {texts or "none"}: name one with data.pack_feature'
    )
  return texts[0]


def _safe(name: str) -> str:
  """A name for a folder; a long one is cut, and told apart by its hash."""
  kept = ''.join(c if c.isalnum() or c in '._-' else '_' for c in name)
  return kept if len(kept) <= 100 else f'{kept[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
