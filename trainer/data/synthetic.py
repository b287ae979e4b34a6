"""Made-up examples for a dataset of which only the features are known: for benchmarks, and for trying out a config.

Knows TFDS features. The values are made from the raw features and go through the task as real ones do, so labels stay
in the range of their classes, boxes are boxes and text is text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.errors import ConfigError

# Different examples that are made; larger batches repeat them.
EXAMPLES = 64
# The size of a dimension that the features leave open.
_OPEN_SIZE = 64
_OPEN_IMAGE_SIZE = 256
# That of a recording: long enough to say _TEXT, at the rate of speech if the features do not tell their own.
_OPEN_SECONDS, _SAMPLE_RATE = 4, 16_000
_TEXT = 'The quick brown fox jumps over the lazy dog. '


def examples(features: tfds.features.FeaturesDict, task: Any, seed: int) -> dict[str, Any]:
  """Prepared examples, the same for the same seed.

  Args:
    features: what the dataset's examples have.
    task: has `example`.
    seed: seed of the run.

  Returns:
    What `task.example` gives, as tensors [64, ...].

  Raises:
    ConfigError: there is a feature of a kind that cannot be made up.
  """
  rng = np.random.default_rng(seed)
  raw = [_value('', features, rng) for _ in range(EXAMPLES)]
  stacked = tf.nest.map_structure(lambda *values: np.stack(values), *raw)
  prepared = tf.data.Dataset.from_tensor_slices(stacked).map(task.example, deterministic=True, num_parallel_calls=1)
  return prepared.batch(EXAMPLES).get_single_element()


def _value(name: str, feature: Any, rng: np.random.Generator) -> Any:
  """One made-up value of a feature; a nest for a nest."""
  if isinstance(feature, tfds.features.FeaturesDict):
    return {key: _value(key, part, rng) for key, part in feature.items()}
  if isinstance(feature, tfds.features.Sequence):
    length = feature._length or _OPEN_SIZE  # TFDS has no public name for it
    values = [_value(name, feature.feature, rng) for _ in range(length)]
    return tf.nest.map_structure(lambda *parts: np.stack(parts), *values)
  if isinstance(feature, tfds.features.ClassLabel):
    return rng.integers(feature.num_classes or 1, dtype=np.int64)
  if isinstance(feature, tfds.features.BBoxFeature):
    low, high = np.sort(rng.random((2, 2), np.float32), axis=0)
    return np.concatenate([low, high])
  return _array(name, feature, rng)


def _array(name: str, feature: Any, rng: np.random.Generator) -> np.ndarray:
  info = feature.get_tensor_info()
  dtype = tf.as_dtype(info.np_dtype)
  open_size = _open_size(feature)
  shape = [open_size if size is None else size for size in info.shape]
  if dtype == tf.string:
    texts = [(_TEXT + _TEXT)[begin:][:length] for begin, length in rng.integers(1, len(_TEXT), (math.prod(shape), 2))]
    return np.array([text.encode() for text in texts]).reshape(shape)
  if dtype == tf.bool:
    return rng.integers(2, size=shape).astype(bool)
  if dtype.is_integer:
    # Wide integers are counts, ids and samples, not bits: keep them small enough for any sum.
    return rng.integers(min(256, dtype.max + 1), size=shape).astype(dtype.as_numpy_dtype)
  if dtype.is_floating:
    return rng.random(shape, np.float32).astype(dtype.as_numpy_dtype)
  raise ConfigError(f"data.source='synthetic' cannot make up the feature {name!r} of dtype {dtype.name}")


def _open_size(feature: Any) -> int:
  if isinstance(feature, tfds.features.Image | tfds.features.Video):
    return _OPEN_IMAGE_SIZE
  if isinstance(feature, tfds.features.Audio):
    return _OPEN_SECONDS * (feature.sample_rate or _SAMPLE_RATE)
  return _OPEN_SIZE
