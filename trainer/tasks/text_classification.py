"""One of several classes for a text, which the model sees as bytes in UTF-8.

Dimensions: B batch, T bytes, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from trainer.fields import Field, at_least
from trainer.report.gallery import Part
from trainer.tasks import augment, classification, mixup, randaugment
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Examples

# 0 fills up a text that is short; a byte b is b + 1.
VOCABULARY = 257

INPUT_FIELDS: dict[str, Field] = {
  'input': Field('auto', 'feature that the model sees; auto: the only text', fixed=True),
  'bytes': Field(64, 'bytes of a text that the model sees, from its beginning', at_least(1), fixed=True),
}
_OF_NUMBERS = (*inputs_lib.FIELDS, *augment.FIELDS, *randaugment.FIELDS, *mixup.FIELDS)
FIELDS: dict[str, Field] = {
  **INPUT_FIELDS,
  **{name: field for name, field in classification.FIELDS.items() if name not in _OF_NUMBERS},
}


class Bytes:
  """The first T bytes of a text as numbers, int32 [T]: 0 behind its end, else 1 + the byte.

  Attributes:
    spec: tf.TensorSpec of one example's inputs.
  """

  def __init__(self, fields: Any, features: Mapping[str, Any]):
    """Raises:
    ConfigError: there is no such text, or several.
    """
    fitting = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
    self.name = inputs_lib.pick('task.input', fields.input, fitting, features, 'a text')
    self.spec = tf.TensorSpec((fields.bytes,), tf.int32)

  def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
    length = self.spec.shape[0]
    # Zeros fill the text up; what a text may hold of them itself is one more than that, like any byte.
    seen = tf.cast(tf.io.decode_raw(tf.strings.substr(features[self.name], 0, length), tf.uint8), tf.int32) + 1
    return tf.ensure_shape(tf.pad(seen, [[0, length - tf.shape(seen)[0]]]), self.spec.shape)

  def look(self, inputs: np.ndarray) -> list[Part]:
    """The text that is seen."""
    seen = bytes(int(value) - 1 for value in inputs if value)
    return [Part(self.name, 'text', seen.decode(errors='replace'))]

  def state(self) -> dict[str, Any]:
    return {'feature': self.name, 'bytes': self.spec.shape[0]}


class TextClassification(classification.Classification):
  """Classification of texts; labels, losses and metrics are those of images and vectors."""

  def _make_inputs(
    self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None
  ) -> Any:
    return Bytes(fields, features)

  def _count_draws(self, fields: Any) -> tuple[int, int, int]:
    return 0, 0, 0


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> TextClassification:
  """See `trainer.tasks.create`."""
  return TextClassification(config, features, examples, saved)
