"""Linear regression, and logistic regression where the task's loss is a cross-entropy: one dense layer."""

from __future__ import annotations

from typing import Any

import keras

from trainer.fields import Field
from trainer.models import parts

FIELDS: dict[str, Field] = {**parts.REGULARIZER_FIELDS}


def build(fields: Any, input_spec: Any, units: int) -> keras.Model:
  """Flattened inputs times a kernel, plus a bias.

  Weights start at zero: the problem is convex for the losses that such a model is used with, so there is no symmetry to
  break, and the first loss is that of a constant prediction.

  Raises:
    ConfigError: the inputs are not one tensor of numbers per example.
  """
  x = inputs = parts.inputs('linear', input_spec)
  x = keras.layers.Flatten(name='flatten')(x)
  outputs = parts.head(units, kernel_initializer='zeros', kernel_regularizer=parts.regularizer(fields))(x)
  return keras.Model(inputs, outputs, name='linear')
