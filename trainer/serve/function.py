"""A trained model as a function of raw features: what predictions on files are made by, and what is exported.

Dimensions: B examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.serve import given
from trainer.tasks.packed_tokens import PackedTokens


class Served(tf.Module):
  """The model of a session. From now on it holds the weights that an evaluation is of, and is not to be trained.

  Attributes:
    specs: name -> tf.TensorSpec of one raw example (trainer/serve/given.py).
    argument: the same names -> those of a signature's arguments, where only letters, digits and underscores may be.
    of_ids: whether it is asked with the ids of texts, int32 [B, P], and not with what is in `specs`.
  """

  def __init__(self, session: Any):
    """Raises:
    ConfigError: the task names no feature that it predicts from.
    """
    super().__init__(name='served')
    self._task, self._features = session.task, session.dataset.features
    self.of_ids = isinstance(session.task, PackedTokens)
    given.describe(self._task, self._features)  # raises where there is nothing
    with session.state.averaged():
      evaluated = [np.asarray(variable.value) for variable in session.state.evaluated]
    for variable, value in zip(session.model.trainable_variables, evaluated, strict=True):
      variable.assign(value)
    self.model = session.model
    self.specs = given.specs(self._task, self._features)
    self.argument = {path: re.sub(r'\W', '_', path) for path in self.specs}
    self._targets = session.pipeline.batch_spec['targets']
    self._prepared = tf.function(self._prepare, reduce_retracing=True, autograph=False)
    self._predicted = tf.function(self.predicted, reduce_retracing=True, autograph=False)
    self._on_ids = tf.function(
      lambda ids, numbers: self._task.on_ids(self._call, ids, numbers), reduce_retracing=True, autograph=False
    )

  def prepare(self, value: Any) -> Any:
    """The inputs of one raw example, out of what `reading.examples` gives."""
    flat = given.flat(self._task, value)
    return self._prepared({name: tf.constant(flat[name], spec.dtype) for name, spec in self.specs.items()})

  def predict(self, inputs: Sequence[Any]) -> list[Any]:
    """Predictions of prepared examples, as `task.readable` takes them: nests of np.ndarray, one per example."""
    batch = tf.nest.map_structure(lambda *parts: tf.stack(parts), *inputs)
    return _rows(self._predicted(batch), len(inputs))

  def predict_ids(self, ids: Sequence[np.ndarray], numbers: Sequence[int]) -> list[Any]:
    """Predictions of texts of one length, int32 [P] each (`task.ids_of`); see `predict`."""
    return _rows(self._on_ids(tf.constant(np.stack(ids), tf.int32), tf.constant(numbers, tf.int64)), len(ids))

  def signature(self) -> Any:
    """The concrete function of raw examples, named by `argument`, to those outputs that the model itself makes.

    If it is `of_ids` the arguments are 'tokens' int32 [B, P] and 'numbers' int64 [B], which draws depend on.
    """
    if self.of_ids:
      arguments = [tf.TensorSpec([None, None], tf.int32, 'tokens'), tf.TensorSpec([None], tf.int64, 'numbers')]

      def run_ids(tokens: tf.Tensor, numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self._task.on_ids(self._call, tokens, numbers)
        return {name: found[name] for name in self._task.own_outputs}

      return tf.function(run_ids, arguments, autograph=False).get_concrete_function()
    wanted = [tf.TensorSpec([None, *s.shape], s.dtype, self.argument[path]) for path, s in self.specs.items()]
    prepared = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape, each.dtype), self._task.input_spec)
    told = self._own_outputs()

    def run(*values: tf.Tensor) -> dict[str, tf.Tensor]:
      raw = dict(zip(self.specs, values, strict=True))
      found = self.predicted(tf.map_fn(self._prepare, raw, fn_output_signature=prepared))
      return {name: found[name] for name in told}

    return tf.function(run, wanted, autograph=False).get_concrete_function()

  def _own_outputs(self) -> list[str]:
    """The names of those predictions that are not made of the right answer."""
    unknown = tf.nest.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype), self._targets)
    inputs = tf.nest.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), self._task.input_spec)
    function = tf.function(self.predicted, autograph=False).get_concrete_function(inputs, unknown)
    first = len(tf.nest.flatten(inputs))
    answers = {id(tensor) for tensor in function.inputs[first : first + len(tf.nest.flatten(unknown))]}
    return [name for name, tensor in function.structured_outputs.items() if not _made_of(tensor, answers)]

  def predicted(self, inputs: Any, targets: Any = None) -> Any:
    """Prepared inputs [B, ...] -> predictions by name; the right answers are 0 where they are not given."""
    count = tf.shape(tf.nest.flatten(inputs)[0])[0]
    if targets is None:
      targets = tf.nest.map_structure(lambda spec: tf.zeros([count, *spec.shape[1:]], spec.dtype), self._targets)
    batch = {'inputs': inputs, 'targets': targets, 'index': tf.range(count, dtype=tf.int64)}
    found = self._task.predictions(self._call, self._call(inputs), batch)
    return found if isinstance(found, dict) else {'predictions': found}

  def _prepare(self, values: Mapping[str, tf.Tensor]) -> Any:
    return self._task.example(given.example(self._task, self._features, values))['inputs']

  def _call(self, inputs: Any) -> Any:
    return self.model(inputs, training=False)


def _made_of(tensor: Any, sources: set[int]) -> bool:
  """Whether one of the tensors of these ids is needed to compute a tensor of a graph."""
  seen, waiting = set(), [tensor]
  while waiting:
    each = waiting.pop()
    if id(each) in sources:
      return True
    if id(each) not in seen:
      seen.add(id(each))
      waiting += each.op.inputs
  return False


def _rows(predictions: Mapping[str, tf.Tensor], count: int) -> list[Any]:
  whole = {name: value.numpy() for name, value in predictions.items()}
  if list(whole) == ['predictions']:
    return [whole['predictions'][row] for row in range(count)]
  return [{name: value[row] for name, value in whole.items()} for row in range(count)]
