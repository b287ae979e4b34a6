"""What a task is: from a dataset's raw examples to what a model learns, and to the numbers that say how well.

A task knows nothing of strategies, and writes no variable: its methods are pure functions of tensors, so they run in
tf.data, inside XLA, and in any replica alike.

Dimensions: B batch (of one replica or of all), M state of the metrics, N examples of a split.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.report.gallery import Part
from trainer.tasks.metrics import MetricSet

# Gives the raw decoded examples of the training split, once and in a fixed order. None where there are none to see:
# synthetic input.
Examples = Callable[[], tf.data.Dataset] | None
# From a batch of inputs [B, ...] to the raw outputs [B, ..., units] of the model as it is evaluated.
Call = Callable[[Any], tf.Tensor]


class Task(abc.ABC):
  """One task on one dataset.

  Attributes:
    input_spec: tf.TensorSpec, or a nest of them, of one example's 'inputs'.
    units: outputs of the model, per example or per place of it.
    activation: what the task itself applies to the outputs, 'softmax' or 'sigmoid'; '' if they are the values wanted.
    draws: uniform numbers that `augment` takes per example; 0 where there is no augmentation.
    crops: the raw feature, an image in a file's bytes, out of which `cropped` cuts a part; '' where there is no such.
    metrics: the metrics that are sums over examples, in training and in evaluation.
    prediction_modes: metrics that are not such sums, and are computed from the collected predictions of an evaluation;
      each with 'max' or 'min', whichever is better, or '' where neither is.
    given: the raw feature that a prediction is made from; '' where there is not one, so that predictions are made of
      examples of the dataset alone.
    steps_given: where `given` is a series, the steps from its beginning that a prediction is made from; 0: it is none.
    rate: where `given` is a recording, its samples per second; 0: it is none.
    references: what of `readable` is the right answer and not the model's.
  """

  input_spec: Any
  units: int
  activation: str = ''
  draws: int = 0
  crops: str = ''
  metrics: MetricSet
  prediction_modes: Mapping[str, str] = MappingProxyType({})
  given: str = ''
  steps_given: int = 0
  rate: int = 0
  references: tuple[str, ...] = ()

  @property
  def metric_names(self) -> tuple[str, ...]:
    """What an evaluation reports beside the loss: the sums in the order of the config, then what needs predictions."""
    return *self.metrics.names, *self.prediction_modes

  @property
  def best(self) -> tuple[str, str]:
    """(name, 'max' or 'min') of what says which checkpoint is best, unless the config does: the first metric that has a
    direction, else the loss."""
    directed = {**{n: m for n, m in self.prediction_modes.items() if m}, **self.metrics.modes}
    return next(iter(directed.items()), ('loss', 'min'))

  def mode(self, name: str) -> str:
    """'max' or 'min', whichever is better for a reported metric or 'loss'; '' where neither is, as for a count."""
    return 'min' if name == 'loss' else {**self.metrics.modes, **self.prediction_modes}.get(name, '')

  @abc.abstractmethod
  def example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    """One raw example -> {'inputs', 'targets'} of static shapes, without batch dimension; the same each time."""

  def augment(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """A batch of examples, changed at random.

    Args:
      batch: 'inputs' and 'targets', [B, ...], and whatever else, which stays.
      draws: float32 [B, self.draws], uniform in [0, 1). Example b depends on row b alone, and a row
        of 0.5 leaves it as it is. A task may also mix the examples 2k and 2k + 1 with each other: they are in one part
        of the batch on every topology whose parts are even, and of one global batch.
    """
    del draws
    return dict(batch)

  def cropped(self, features: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """As `example`, of a random part of an image, which so is all that is decoded.

    Args:
      features: the raw example, with `crops` as the bytes of its file.
      draws: float32 [self.draws], those that `augment_cropped` will have for this example.
    """
    raise NotImplementedError

  def augment_cropped(self, batch: Mapping[str, Any], draws: tf.Tensor) -> dict[str, Any]:
    """What `augment` does beside, to a batch of `cropped` examples."""
    raise NotImplementedError

  @abc.abstractmethod
  def losses(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """The loss of each example, float32 [B], neither weighted nor reduced.

    Args:
      outputs: raw outputs of the model, float [B, ..., units].
      batch: 'targets' of the same examples.
    """

  def weights(self, batch: Mapping[str, Any]) -> tf.Tensor:
    """What the loss of each example counts, float32 [B]; 0 for padding. The loss that is reported and whose gradient is
    taken is the sum of weight times loss over the sum of weights, over all replicas.

    A task whose examples are of different length multiplies by it, and gives losses that are means over an example.

    Args:
      batch: 'weight' (float32 [B]) and whatever else it has.
    """
    return tf.cast(batch['weight'], tf.float32)

  def metric_values(self, outputs: tf.Tensor, batch: Mapping[str, Any]) -> tf.Tensor:
    """What a batch adds to the metrics, float32 [M]; sum it over replicas and batches, in float64.

    Args:
      outputs: raw outputs of the model, float [B, ..., units].
      batch: 'targets' and 'weight' (float32 [B]) of the same examples.
    """
    return self.metrics.values(outputs, batch)

  def metric_results(self, totals: np.ndarray) -> dict[str, float]:
    """The metrics by name, from the summed `metric_values`, float64 [M]."""
    return self.metrics.results(totals)

  def predictions(self, call: Call, outputs: tf.Tensor, batch: Mapping[str, Any]) -> Any:
    """What the task makes of each example in the end: a class, a text, boxes.

    Args:
      call: the model as it is evaluated, from inputs to outputs; for what is made step by step.
      outputs: raw outputs of the model for the batch, float [B, ..., units].
      batch: 'inputs' and 'targets' of the same examples.

    Returns:
      A nest of tensors [B, ...] of static shapes, with all that `prediction_results` and `readable` need.
    """
    del call, batch
    return outputs

  def prediction_results(self, predictions: Any) -> dict[str, float]:
    """The metrics of `prediction_modes`, on the host.

    Args:
      predictions: the nest that `predictions` gives, as np.ndarray [N, ...]: each example of the split once, in order.
    """
    del predictions
    return {}

  def readable(self, prediction: Any) -> dict[str, Any]:
    """One example's prediction as a person reads it, ready for JSON.

    Args:
      prediction: the nest that `predictions` gives, as np.ndarray without the dimension of the batch.
    """
    return {'outputs': np.asarray(prediction).tolist()}

  def wording(self) -> dict[str, dict[str, Any]]:
    """What numbers of `predictions` stand for, ready for JSON, for whoever reads them without this package.

    Returns:
      By name {'classes': [name of each place of the last dimension]}, or {'pieces': [text of each id], 'encoding': of
      the texts as bytes, 'joint': what is between two, 'ends': ids that end a text}.
    """
    return {}

  def look(self, example: Mapping[str, Any]) -> list[Part]:
    """What the model is given of one example, and the right answer, for people to look at.

    Args:
      example: 'inputs', and 'targets' where they are known: np.ndarray as `example` or `augment` gives them, without
        the dimension of the batch.
    """
    return [Part(name, 'text', str(example[name])) for name in ('inputs', 'targets') if name in example]

  def hear(self, features: Mapping[str, Any]) -> list[Part]:
    """What can be had of the raw example alone: its sound."""
    del features
    return []

  def draw(self, example: Mapping[str, Any], prediction: Any) -> list[Part]:
    """One example's prediction, for people to look at.

    Args:
      example: as for `look`.
      prediction: as for `readable`.
    """
    del example
    said = {name: value for name, value in self.readable(prediction).items() if name not in self.references}
    return [Part(name, 'text', value if isinstance(value, str) else str(value)) for name, value in said.items()]

  def mistake(self, prediction: Any) -> tuple[str, str] | None:
    """(right answer, answer given) by name, where a prediction is one of a few; for a matrix of confusions."""
    del prediction
    return None

  @abc.abstractmethod
  def state(self) -> dict[str, Any]:
    """What was learnt from the training split beside the weights, ready for JSON; `create` takes it back."""
