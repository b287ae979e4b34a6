"""Tasks on features that are made up, with as many examples as a test wants."""

from __future__ import annotations

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer import tasks

F = tfds.features


def images(classes: int = 4, shape=(8, 8, 1), dtype=np.uint8) -> F.FeaturesDict:
  return F.FeaturesDict({'image': F.Image(shape=shape, dtype=dtype), 'label': F.ClassLabel(num_classes=classes)})


def vectors(width: int = 3, targets: tuple[int, ...] = ()) -> F.FeaturesDict:
  return F.FeaturesDict(
    {'features': F.Tensor(shape=(width,), dtype=np.float32), 'target': F.Tensor(shape=targets, dtype=np.float32)}
  )


def config(name: str, **changes) -> ml_collections.ConfigDict:
  values = {field: declared.default for field, declared in tasks.fields(name).items()}
  return ml_collections.ConfigDict({'task': {'name': name, **values, **changes}})


def task(name: str, features=None, rows: dict[str, np.ndarray] | None = None, saved=None, **changes) -> tasks.Task:
  """A task; `rows` are its training split, feature by feature."""
  features = features or (images() if name == 'classification' else vectors())
  examples = (lambda: tf.data.Dataset.from_tensor_slices(rows)) if rows is not None else None
  return tasks.create(config(name, **changes), features, examples, saved)


def batch(task_: tasks.Task, name: str, size: int = 16, classes: int = 4, seed: int = 0):
  """Outputs and a batch for a task: every class, some weights of 0 at the end, one of a half."""
  random = np.random.default_rng(seed)
  outputs = random.normal(size=(size, task_.units)).astype(np.float32)
  if name == 'classification':
    targets = (np.arange(size) % classes).astype(np.int32)
    random.shuffle(targets)
  else:
    targets = (random.random((size, task_.units)) * 3 + 0.5).astype(np.float32)
  weight = np.ones(size, np.float32)
  weight[-3:], weight[2] = 0.0, 0.5
  return tf.constant(outputs), {'targets': tf.constant(targets), 'weight': tf.constant(weight)}
