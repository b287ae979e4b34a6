"""What the data room's tests share: a config, a task, sharded copies of a small set, and batches as hosts see them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.data import datasets
from trainer.data.pipeline import Pipeline
from trainer.data.source import open_dataset


class ImageTask:
  """Images in [0, 1] and their labels."""

  draws = 0
  crops = ''

  def example(self, features: dict[str, Any]) -> dict[str, Any]:
    return {'inputs': {'image': tf.cast(features['image'], tf.float32) / 16.0}, 'targets': features['label']}

  def augment(self, batch: dict[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    raise AssertionError('a task without draws is not augmented')


class AugmentedTask(ImageTask):
  """Adds a function of the random numbers, and shows them."""

  draws = 3

  def augment(self, batch: dict[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    noise = tf.sin(40.0 * tf.reduce_sum(draws, axis=1))[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return {**batch, 'inputs': {'image': batch['inputs']['image'] + noise}, 'draws': draws}


class PositionTask(AugmentedTask):
  """As a vectorised op may: the last bits of a result depend on where in the tensor the example stands."""

  def augment(self, batch: dict[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    position = tf.cast(tf.range(tf.shape(draws)[0]), tf.float32) * 1e-7
    return {**super().augment(batch, draws), 'last_bits': draws[:, 0] + position}


def config(data_dir: str | pathlib.Path, *, batch: int = 8, eval_batch: int = 0, seed: int = 3, **data: Any):
  """The fields that the data room reads."""
  fields = {
    'dataset': 'uci_digits',
    'mixture': (),
    'data_dir': str(data_dir),
    'train_split': 'train',
    'eval_split': 'test',
    'source': 'auto',
    'lanes': 0,
    'chunk_records': 64,
    'window_records': 256,
    'memory_budget_bytes': 2**31,
    'pack_tokens': 0,
    'pack_tokenizer': 'bytes',
    'pack_vocabulary': 8192,
  }
  assert data.keys() <= fields.keys(), data
  return ml_collections.ConfigDict(
    {
      'seed': seed,
      'data': {**fields, **data},
      'train': {'global_batch_size': batch},
      'eval': {'global_batch_size': eval_batch},
    }
  )


def shard(data_dir: str | pathlib.Path, shards: int, name: str = 'uci_digits') -> None:
  """Prepares one of our own sets with several files per split."""
  builder = datasets.builder_class(name)(data_dir=str(data_dir))
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))


def data_files(data_dir: str | pathlib.Path, split: str = 'train') -> list[pathlib.Path]:
  return sorted(pathlib.Path(data_dir).glob(f'*/*/*-{split}.tfrecord*'))


def pipeline(settings: Any, *, replicas: int = 1, workers: int = 1, task: Any = None) -> Pipeline:
  return Pipeline(settings, open_dataset(settings), task or ImageTask(), replicas=replicas, workers=workers)


class Hosts:
  """Stands for a strategy of several hosts: gives the dataset of each host."""

  def __init__(self, hosts: int, replicas: int):
    self.contexts = [tf.distribute.InputContext(hosts, host, replicas) for host in range(hosts)]

  def distribute_datasets_from_function(
    self, build: Callable[[tf.distribute.InputContext], tf.data.Dataset]
  ) -> list[tf.data.Dataset]:
    return [build(context) for context in self.contexts]


def global_batches(datasets_of_hosts: list[tf.data.Dataset], replicas: int) -> Iterator[dict[str, Any]]:
  """Global batches in replica order, from the datasets of all hosts; checks that all end together."""
  hosts = len(datasets_of_hosts)
  iterators = [iter(dataset.as_numpy_iterator()) for dataset in datasets_of_hosts]
  while True:
    parts: list[Any] = []
    for iterator in iterators:
      parts += [part for _ in range(replicas // hosts) if (part := next(iterator, None)) is not None]
    if not parts:
      return
    assert len(parts) == replicas, 'the hosts do not have the same number of batches'
    yield tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts)


def train_batches(
  settings: Any, start: int, count: int, *, replicas: int = 1, hosts: int = 1, task: Any = None
) -> list[dict[str, Any]]:
  """Global batches `start` to `start + count` of a run on a topology."""
  made = pipeline(settings, replicas=replicas, workers=hosts, task=task)
  shares = made.train(Hosts(hosts, replicas), start)
  # No more than asked for: an endless dataset has threads at work behind each open iterator.
  return list(global_batches([share.take(count * (replicas // hosts)) for share in shares], replicas))


def train_ids(settings: Any, start: int, count: int, **topology: Any) -> np.ndarray:
  """int64 [count, batch]: the examples of global batches `start` to `start + count`."""
  return np.stack([batch['index'] for batch in train_batches(settings, start, count, **topology)])
