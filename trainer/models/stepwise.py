"""From a source sequence to a target sequence, all places at once for training, or one place at a time for decoding.

Dimensions: B batch, S places of the source, T places of the target, V vocabulary.
"""

from __future__ import annotations

import abc
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError

# The id behind the end of a sequence; no place looks at it. It also begins each target, as in T5.
PADDING = 0


class EncoderDecoder(keras.Model, abc.ABC):
  """A model of sequence to sequence that can keep what it computed for earlier places.

  What it is asked for is told by what it is given:

    {'source' [B, S], 'target' [B, T]} -> float32 logits [B, T, V]; place t sees the target up to t, which is shifted
      right, so that its first id is PADDING
    {'source' [B, S]} -> {'memory', 'cache'}, nests of tensors [B, ...]: what stays while a target is written, and what
      changes with each place
    {'memory', 'cache', 'token' int32 [B], 'place' int32 []} -> {'logits' float32 [B, V], 'cache'}; `token` is what the
      target has at `place`, and the logits are of what comes next
  """

  def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
    if 'target' in inputs:
      return self.taught(inputs['source'], inputs['target'], training)
    if 'token' in inputs:
      return self.step(inputs['memory'], inputs['cache'], inputs['token'], inputs['place'])
    return self.start(inputs['source'])

  @abc.abstractmethod
  def taught(self, source_BS: tf.Tensor, target_BT: tf.Tensor, training: bool) -> tf.Tensor:
    """Logits of all places, float32 [B, T, V]."""

  @abc.abstractmethod
  def start(self, source_BS: tf.Tensor) -> dict[str, Any]:
    """{'memory', 'cache'} before the first place."""

  @abc.abstractmethod
  def step(self, memory: Any, cache: Any, token_B: tf.Tensor, place: tf.Tensor) -> dict[str, Any]:
    """{'logits' [B, V], 'cache'} of one place."""

  def build_from_config(self, config: dict[str, Any]) -> None:
    """Makes the variables of a model that is read from a file; Keras alone would guess float inputs."""
    connect(self, {name: shape[1:] for name, shape in config['input_shape'].items()})


def lengths(family: str, input_spec: Any) -> tuple[int, int]:
  """(S, T) of the inputs that a task gives.

  Raises:
    ConfigError: they are not the ids of a source and a target of static length.
  """
  if not (isinstance(input_spec, dict) and input_spec.keys() == {'source', 'target'}):
    raise ConfigError(f"model.name={family!r} reads a source and writes a target: set task.name='seq2seq'")
  for name, spec in input_spec.items():
    if spec.shape.rank != 1 or not spec.shape.is_fully_defined() or not spec.dtype.is_integer:
      raise ConfigError(f'model.name={family!r} takes ids [length] as its {name}, not {spec.dtype.name} {spec.shape}')
  return input_spec['source'].shape[0], input_spec['target'].shape[0]


def connect(model: keras.Model, shapes: dict[str, Any]) -> None:
  """Makes the variables of a model by calling it on inputs without values."""
  model({name: keras.Input(shape=tuple(shape), dtype='int32', name=name) for name, shape in shapes.items()})
