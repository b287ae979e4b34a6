"""Tasks on recordings that are made up."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.tasks import made_up
from tests.tasks.made_up import F
from trainer import tasks

RATE = 1000
SPEECH = F.FeaturesDict(
  {'audio': F.Audio(dtype=np.int16, sample_rate=RATE), 'label': F.ClassLabel(num_classes=3), 'text': F.Text()}
)
# 16 frames of 32 samples, one every 16; 8 bands.
FIELDS = {'seconds': 0.272, 'frame_ms': 32.0, 'hop_ms': 16.0, 'mel_bins': 8}


def audio(samples: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(-5000, 5000, samples).astype(np.int16)


def row(samples: int, text: str = 'ab', seed: int = 0) -> dict[str, tf.Tensor]:
  return {'audio': tf.constant(audio(samples, seed)), 'label': tf.constant(1, tf.int64), 'text': tf.constant(text)}


def task(
  name: str, rows: list[dict[str, tf.Tensor]] | None = None, saved=None, features=SPEECH, **changes
) -> tasks.Task:
  """A task; `rows` are its training split."""

  def examples() -> tf.data.Dataset:
    signature = {
      'audio': tf.TensorSpec([None], tf.int16),
      'label': tf.TensorSpec([], tf.int64),
      'text': tf.TensorSpec([], tf.string),
    }
    return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=signature)

  return tasks.create(
    made_up.config(name, **{**FIELDS, **changes}), features, None if rows is None else examples, saved
  )


def batch(task_: tasks.Task, rows: list[dict[str, tf.Tensor]]) -> dict:
  """What `task.example` makes of the rows, stacked, each of weight 1."""
  prepared = [task_.example(each) for each in rows]
  stacked = tf.nest.map_structure(lambda *parts: tf.stack(parts), *prepared)
  return {**stacked, 'weight': tf.ones([len(rows)])}


def features_of(feature: tfds.features.FeatureConnector) -> F.FeaturesDict:
  return F.FeaturesDict({'audio': feature, 'label': F.ClassLabel(num_classes=3), 'text': F.Text()})
