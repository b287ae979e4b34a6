"""The zoo: model families by name. A family is one file of plain Keras 3 and knows nothing of training.

A family's module has `FIELDS`, its part of the config's `model` section, and

  `build(fields, input_spec, units) -> keras.Model`

which maps a batch of inputs [B, ...] to raw outputs [B, units] (logits, or values) in float32, whatever the precision
policy. Every layer has an explicit name, so that a variable's path does not depend on what the process built before;
the initialisers take their seeds from `keras.utils.set_random_seed`, so that the same seed gives every process the same
weights.

`model.name='package.module:function'` takes the place of a family: a function of the user's (trainer/models/own.py).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import keras
import ml_collections

from trainer import imports
from trainer.fields import Field, look_up, named
from trainer.models import own

FAMILIES: dict[str, ModuleType] = {
  name: importlib.import_module(f'{__name__}.{name}')
  for name in (
    'applications',
    'bert',
    'cnn',
    'conformer',
    'detector',
    'gpt',
    'keras_hub',
    'keyword_cnn',
    'linear',
    'mlp',
    'ngrams',
    'resnet',
    'rnn',
    'seq2seq',
    'seq2seq_lstm',
    'sequence',
    'sequence_transformer',
    'unet',
    'vit',
  )
}


def check_name(name: str) -> str:
  """The rule of `model.name`."""
  return own.check_name(name) if imports.is_path(name) else named('a model family', FAMILIES)(name)


def fields(name: str) -> dict[str, Field]:
  """The fields of a family, beside `model.name`.

  Raises:
    ConfigError: there is no such family; the message names the nearest.
  """
  return own.FIELDS if imports.is_path(name) else look_up('model', name, FAMILIES).FIELDS


def build(config: ml_collections.ConfigDict, input_spec: Any, units: int, activation: str = '') -> keras.Model:
  """The model of the config's `model` section. Call it in the strategy's scope, after `keras.utils.set_random_seed`.

  Args:
    config: the whole config, checked.
    input_spec: tf.TensorSpec of one example's inputs, without the batch dimension; or a nest of them.
    units: number of outputs.
    activation: what the task applies to the outputs itself, and so must not be in the model.

  Returns:
    A built model, inputs [B, ...] -> float32 [B, units].

  Raises:
    ConfigError: the family does not take such inputs, or the user's own model does not fit.
  """
  if imports.is_path(config.model.name):
    return own.build(config.model, input_spec, units, activation)
  model = look_up('model', config.model.name, FAMILIES).build(config.model, input_spec, units)
  paths = [variable.path for variable in model.variables]
  assert len(set(paths)) == len(paths), f'variables of {config.model.name!r} share a path: {sorted(paths)}'
  return model
