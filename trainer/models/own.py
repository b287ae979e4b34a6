"""A model of the user's own: any function that returns a Keras model, as a tutorial writes it.

`model.name='package.module:function'` names the function. What a tutorial leaves open, and a run that is killed and
resumed on several replicas cannot, is settled here or reported by name:

- Layers without a name are numbered by Keras in the order of their making in the whole process. The count starts anew
  for the function, so that the same function always gives the same variable paths.
- Dropout and its like without a seed draw from generators that the step sets (trainer/train/step.py). Random numbers
  from anywhere else would differ after a resume: they are refused.
- A last activation that the task's loss applies itself (softmax, sigmoid) is left out, which is what Keras' own loss
  does inside a graph: it takes the values before it, for their digits.
- The maximum pooling of images, whose gradient XLA refuses where ops are to be deterministic, becomes another one.
- `compile` is ignored, with a line that says so.

Legend: B batch.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging
from keras.src.backend.common import global_state

from trainer import imports
from trainer.errors import ConfigError
from trainer.fields import Field, nearest
from trainer.models import parts


def check_arguments(text: str) -> str:
  """The rule of a field with keyword arguments as JSON."""
  try:
    return '' if isinstance(json.loads(text or '{}'), dict) else 'must be a JSON object'
  except json.JSONDecodeError as error:
    return f'is not JSON: {error}'


FIELDS: dict[str, Field] = {
  'arguments': Field(
    '', 'keyword arguments of the function as JSON, e.g. \'{"units": 50}\'', check_arguments, fixed=True
  ),
}

# Operations that draw from a state which no checkpoint holds, and which differs on each device.
_UNSEEDED = (
  'Multinomial',
  'RandomGammaGrad',
  'RandomGamma',
  'RandomPoissonV2',
  'RandomShuffle',
  'RandomStandardNormal',
  'RandomUniform',
  'RandomUniformInt',
  'TruncatedNormal',
)
_SEEDS = (
  'take a layer of keras.layers, or give keras.random functions a seed=keras.random.SeedGenerator() that is an '
  'attribute of your layer'
)


def check_name(path: str) -> str:
  """The rule of `model.name` where it is an import path; imports the module."""
  try:
    _function(path)
  except ConfigError as error:
    return f'cannot be used: {error}'
  return ''


def build(fields: Any, input_spec: Any, units: int, activation: str = '') -> keras.Model:
  """The model that the function returns, built for the inputs and held to the task.

  The function is called with `model.arguments`. Its parameters `input_shape` and `units`, if it has them without a
  default and no argument gives them, get the shape of an example's inputs and the number of outputs that the task
  wants.

  Args:
    fields: the config's `model` section.
    input_spec: tf.TensorSpec of one example's inputs, or a nest of them.
    units: outputs that the task wants.
    activation: what the task applies to the outputs itself: 'softmax', 'sigmoid' or ''.

  Returns:
    A built model, inputs [B, ...] -> raw outputs [B, units].

  Raises:
    ConfigError: the function cannot be called so, raises, or returns no Keras model; or the model takes other inputs,
      gives other outputs, shares names between weights, or draws random numbers that a resume could not draw again.
  """
  function, path = _function(fields.name), fields.name
  arguments = _arguments(function, fields, input_spec, units)
  with numbered_anew():
    model = _call(path, function, arguments)
    _refuse_what_was_made_elsewhere(path, model)
    _built(path, model, input_spec)
  refuse_shared_names(path, model)
  _pool_by_comparison(model)
  if getattr(model, 'compiled', False):
    logging.warning(
      '%s: its compile(...) is ignored; the optimizer.*, task.* and model.* fields of the config decide', path
    )
  _without(path, model, activation)
  _check_outputs(path, model, input_spec, units)
  return model


def _function(path: str) -> Callable[..., Any]:
  found = imports.load('model.name', path)
  if isinstance(found, keras.Model):
    raise ConfigError(f'model.name={path!r} is a model already: name a function that makes it, so that it is made anew')
  if not callable(found):
    raise ConfigError(f'model.name={path!r} is a {type(found).__name__}: name a function that returns a Keras model')
  return found


def _arguments(function: Callable[..., Any], fields: Any, input_spec: Any, units: int) -> dict[str, Any]:
  given = json.loads(fields.arguments or '{}')
  parameters = inspect.signature(function).parameters
  open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
  known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
  for name in given:
    if name not in known and not open_ended:
      raise ConfigError(
        f'model.arguments has {name!r}, which {fields.name} does not take{nearest(name, known)} '
        f'Known: {", ".join(known) or "none"}'
      )
  facts = {'input_shape': tuple(input_spec.shape) if isinstance(input_spec, tf.TensorSpec) else None, 'units': units}
  wanted = [n for n in known if parameters[n].default is inspect.Parameter.empty and n not in given]
  missing = [name for name in wanted if facts.get(name) is None]
  if missing:
    raise ConfigError(f'{fields.name} needs {", ".join(missing)}: set it in model.arguments, as JSON')
  return {**{name: facts[name] for name in wanted}, **given}


@contextlib.contextmanager
def numbered_anew() -> Iterator[None]:
  """Lets Keras' automatic names start from the beginning, and go on afterwards where they were."""
  before = global_state.get_global_attribute('object_name_uids')
  global_state.set_global_attribute('object_name_uids', None)
  try:
    yield
  finally:
    global_state.set_global_attribute('object_name_uids', before)


def _call(path: str, function: Callable[..., Any], arguments: dict[str, Any]) -> keras.Model:
  try:
    model = function(**arguments)
  # Whatever the user's function raises is its own; the message says where.
  except Exception as error:
    _, *frames = traceback.extract_tb(error.__traceback__)
    where = f' in line {frames[0].lineno} of {frames[0].filename}' if frames else ''
    raise ConfigError(f'{path} raised {type(error).__name__}{where}: {_one_line(error)}') from error
  if isinstance(model, keras.Model):
    return model
  hint = ': import keras, version 3, instead' if 'keras' in type(model).__module__ else ': return the model'
  raise ConfigError(f'{path} returned a {type(model).__module__}.{type(model).__name__}, not a model of Keras 3{hint}')


def _pool_by_comparison(model: keras.Model) -> None:
  """Makes layers of Keras' own class those of parts.MaxPooling, which has the same settings and no variables."""
  for layer in model._flatten_layers(include_self=False):
    if type(layer) is keras.layers.MaxPooling2D and layer.data_format == 'channels_last':
      layer.__class__ = parts.MaxPooling
      layer.compiled_by_xla = True


def _refuse_what_was_made_elsewhere(path: str, model: keras.Model) -> None:
  strategy = tf.distribute.get_strategy()
  for variable in model.weights:
    if not strategy.extended.variable_created_in_scope(variable.value):
      raise ConfigError(
        f'{path}: the weight {variable.path} was made when the module was imported, and so is on one device only: make '
        'all layers inside the function'
      )


def _built(path: str, model: keras.Model, input_spec: Any) -> None:
  """Builds a model that has not seen its inputs, and checks that it takes them.

  A model on [n, 1] takes inputs of shape [n], and the other way round, as it does in Keras' `fit`.
  """
  inputs = tf.nest.map_structure(lambda spec: keras.Input(tuple(spec.shape), dtype=spec.dtype.name), input_spec)
  wants = [tuple(tensor.shape[1:]) for tensor in model.inputs] if getattr(model, 'inputs', None) else []
  gets = [tuple(spec.shape) for spec in tf.nest.flatten(input_spec)]
  if wants and not (len(wants) == len(gets) and all(map(_fits, wants, gets))):
    raise ConfigError(
      f'{path} takes inputs of shape {_shapes(wants)}, but an example of the data has {_shapes(gets)}: change its Input'
      f'{", set task.image_size" if len(gets[0]) == 3 else ""} or take another data.dataset or task.input'
    )
  try:
    model(inputs)
  except Exception as error:
    raise ConfigError(
      f'{path} cannot take inputs of shape {_shapes(gets)} (without the batch): {_one_line(error)}'
    ) from error


def _fits(wanted: tuple, given: tuple) -> bool:
  if len(wanted) == len(given) + 1 and wanted[-1] == 1:
    given = (*given, 1)
  elif len(given) == len(wanted) + 1 and given[-1] == 1:
    given = given[:-1]
  return len(wanted) == len(given) and all(w in (None, g) for w, g in zip(wanted, given, strict=True))


def _shapes(shapes: list[tuple]) -> str:
  return ' and '.join(map(str, shapes))


def refuse_shared_names(path: str, model: keras.Model) -> None:
  paths = [variable.path for variable in model.weights]
  shared = sorted({name for name in paths if paths.count(name) > 1})
  if shared:
    raise ConfigError(f'{path}: several weights are named {shared[0]!r}: give each layer and weight a name of its own')


def _without(path: str, model: keras.Model, activation: str) -> None:
  """Takes out a last activation that the task applies itself, since applied twice it would not learn."""
  if not activation:
    return
  last = _last_layer(model)
  name = getattr(getattr(last, 'activation', None), '__name__', '')
  if isinstance(last, keras.layers.Softmax):
    name = 'softmax'
  if name not in ('softmax', 'sigmoid'):
    return
  layer = last.name if last is not None else ''
  if name != activation or not hasattr(last, 'activation'):
    raise ConfigError(
      f'{path} ends with a {name} in layer {layer!r}, but the task applies a {activation} to the outputs itself: '
      f'leave it out{", or set task.single_logit=True" if name == "sigmoid" else ""}'
    )
  last.activation = keras.activations.linear  # type: ignore[union-attr]
  logging.warning(
    '%s: the %s of its last layer %r is left out, because the loss and the metrics apply it to the logits',
    path,
    name,
    layer,
  )


def _last_layer(model: keras.Model) -> keras.layers.Layer | None:
  """The layer that makes the only output; None where that is not known, as in a subclassed model."""
  outputs = getattr(model, 'outputs', None) or []
  if len(outputs) != 1:
    return None
  layer = outputs[0]._keras_history.operation
  return _last_layer(layer) if isinstance(layer, keras.Model) else layer


def _check_outputs(path: str, model: keras.Model, input_spec: Any, units: int) -> None:
  """Traces a training step's forward pass: the shape of its outputs, and what it depends on beside the weights."""
  trainable, others = model.trainable_variables, model.non_trainable_variables

  def forward(inputs: Any) -> Any:
    outputs, *_ = model.stateless_call(
      [tf.convert_to_tensor(v.value) for v in trainable], [tf.convert_to_tensor(v.value) for v in others], inputs,
      training=True,
    )  # fmt: skip
    return outputs

  batch = tf.nest.map_structure(lambda spec: tf.TensorSpec((2, *spec.shape), spec.dtype), input_spec)
  try:
    traced = tf.function(forward, autograph=False).get_concrete_function(batch)
  except Exception as error:
    raise ConfigError(f'{path} cannot be traced: {type(error).__name__}: {_one_line(error)}') from error
  outputs = traced.structured_outputs
  given = tuple(outputs.shape[1:]) if isinstance(outputs, tf.Tensor | tf.TensorSpec) else None
  if given != (units,):
    says = f'outputs of shape {given}' if given is not None else 'several outputs'
    single = given == (1,) and units == 2
    raise ConfigError(
      f'{path} gives {says} per example, but the task wants ({units},): '
      f'{"set task.single_logit=True, or " if single else ""}end the model with Dense({units})'
    )
  _refuse_hidden_state(path, model, traced.graph)


def _refuse_hidden_state(path: str, model: keras.Model, graph: Any) -> None:
  """Refuses what no checkpoint holds: unseeded random operations, and variables that are not in the model."""
  definition = graph.as_graph_def()
  nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
  for node in nodes:
    if node.op in _UNSEEDED:
      raise ConfigError(
        f'{path} draws random numbers by {node.op} in {node.name!r}, which a resumed run could not draw again: {_SEEDS}'
      )
  results = tf.distribute.get_strategy().experimental_local_results
  known = {id(local.handle) for variable in model.variables for local in results(variable.value)}
  for tensor, _ in graph.captures:
    if tensor.dtype == tf.resource and id(tensor) not in known:
      name = next((v.name for v in graph.variables if id(v.handle) == id(tensor)), 'without a name')
      fix = _SEEDS if 'seed' in name else 'keep it in an attribute of a layer'
      raise ConfigError(f'{path} uses the variable {name!r}, which is none of the model, and so is not saved: {fix}')


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split())[:300] or type(error).__name__
