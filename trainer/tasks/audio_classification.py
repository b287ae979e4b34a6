"""One of several classes for a recording, which the model hears as log-mel frames.

Dimensions: B batch, T frames, F mel bands, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
import tensorflow as tf

from trainer.fields import Field
from trainer.report.gallery import Part
from trainer.tasks import audio, augment, classification, mixup, randaugment, specaugment
from trainer.tasks import inputs as inputs_lib
from trainer.tasks.base import Examples

_OF_NUMBERS = (*inputs_lib.FIELDS, *augment.FIELDS, *randaugment.FIELDS, *mixup.FIELDS)
FIELDS: dict[str, Field] = {
  **audio.FIELDS,
  **specaugment.FIELDS,
  **{name: field for name, field in classification.FIELDS.items() if name not in _OF_NUMBERS},
}


class Frames(audio.LogMel):
  """Log-mel frames as the only input, float32 [T, F], 0 behind the end of a recording."""

  @property
  def spec(self) -> tf.TensorSpec:
    return tf.TensorSpec((self.frames, self.bins), tf.float32)

  def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
    return super().__call__(features)[0]


class AudioClassification(classification.Classification):
  """Classification of recordings; labels, losses and metrics are those of images and vectors."""

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """Changes the recordings; see the base class and specaugment.py."""
    if not self.draws:
      return dict(batch)
    frames_BTF = batch['inputs']
    # Not one band of a frame that is heard is exactly at its mean in practice, let alone all of them.
    heard_BT = tf.reduce_any(frames_BTF != 0, axis=2)
    length_B = tf.reduce_max(tf.where(heard_BT, tf.range(1, frames_BTF.shape[1] + 1), 1), axis=1)
    frames_BTF, _ = specaugment.frames(self._augmentation, self._inputs, frames_BTF, length_B, draws)
    return {**batch, 'inputs': frames_BTF}

  def hear(self, features: Mapping[str, Any]) -> list[Part]:
    return self._inputs.hear(features)

  def _make_inputs(
    self, fields: Any, features: Mapping[str, Any], examples: Examples, saved: Mapping[str, Any] | None
  ) -> Any:
    frames = Frames(fields, features, examples, saved)
    self.rate = frames.rate
    return frames

  def _count_draws(self, fields: Any) -> tuple[int, int, int]:
    return specaugment.draws(fields), 0, 0


def create(
  config: ml_collections.ConfigDict, features: Mapping[str, Any], examples: Examples, saved: Mapping | None
) -> AudioClassification:
  """See `trainer.tasks.create`."""
  return AudioClassification(config, features, examples, saved)
