"""What of each task is explained: the one number among a model's outputs that an example is asked about.

All that these methods know of tasks is here. Dimensions: S inputs that are computed together, T places, V vocabulary.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.explain.network import Target
from trainer.models import detector
from trainer.tasks.base import Task
from trainer.tasks.classification import Classification
from trainer.tasks.detection import Detection
from trainer.tasks.forecasting import Forecasting
from trainer.tasks.language_modeling import LanguageModeling
from trainer.tasks.masked_language_modeling import MaskedLanguageModeling
from trainer.tasks.packed_tokens import PackedTokens
from trainer.tasks.regression import Regression
from trainer.tasks.segmentation import Segmentation

# Of config.task.name; a task of one's own works where it is a subclass of one of their classes.
NAMES = (
  'audio_classification', 'classification', 'detection', 'forecasting', 'language_modeling',
  'masked_language_modeling', 'regression', 'segmentation', 'text_classification', 'text_regression',
)  # fmt: skip
_SHARES = 5  # most classes of a prediction


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is asked about one example.

  Attributes:
    prediction: what the model says, ready for JSON.
    truth: what is true, likewise; None where that is not known.
    shares: probabilities of classes or tokens by name, the largest; empty where there are none.
    what: the number that is explained, in words.
    target: from raw outputs [S, ...] to that number, float32 [S].
    place: of the T that is asked about; None where it is the whole example.
  """

  prediction: Any
  truth: Any
  what: str
  target: Target
  shares: dict[str, float] = dataclasses.field(default_factory=dict)
  place: int | None = None

  @property
  def title(self) -> str:
    """As a heading of its example."""
    return f'{self.prediction}' if self.truth is None else f'{self.prediction} (true: {self.truth})'


def check_task(name: str) -> None:
  """Raises a ConfigError where a task by this name cannot be explained."""
  if name not in NAMES and ':' not in name:
    raise ConfigError(f'--mode=explain does not work for task.name={name!r}; it does for {", ".join(NAMES)}')


def subject(config: Any, task: Task, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  """What is asked about one example.

  Args:
    config: sections `task` and `explain` are read.
    task: of the run.
    outputs: raw outputs of the example, [1, ...].
    batch: the example, [1, ...], with its targets.

  Raises:
    ConfigError: nothing is known of such a task, or `explain.output` is not one of its outputs.
  """
  for kind, about in _ABOUT:
    if isinstance(task, kind):
      return about(config, task, outputs, batch)
  raise ConfigError(
    f'--mode=explain does not know what to explain of a {type(task).__name__}: make it a subclass of one of the tasks '
    f'{", ".join(NAMES)}'
  )


def _classification(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  state = task.state()
  names = state['names'] or [str(number) for number in range(state['classes'])]
  single = task.units == 1
  logits = _f32(outputs)[0].numpy()
  logits = np.concatenate([[0.0], logits]) if single else logits
  said, true = int(np.argmax(logits)), int(batch['targets'][0])
  number = _chosen(config.explain, said, true, len(names))

  def target(outputs: Any) -> tf.Tensor:
    values = _f32(outputs)
    return values[:, number] if not single else values[:, 0] * (1.0 if number else -1.0)

  return Subject(names[said], names[true], f'logit of {names[number]!r}', target, _largest(logits, names))


def _regression(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  state, number = task.state(), _number(config.explain, task.units)
  which = f' {number}' if task.units > 1 else ''
  true = _rounded(batch['targets'][0][number])
  if config.task.loss == 'poisson':
    mean = state['mean'][number] if state['mean'][number] > 0 else 1.0
    said = _rounded(np.exp(float(_f32(outputs)[0, number])) * mean)
    return Subject(said, true, f'logarithm of output{which} over its mean', lambda each: _f32(each)[:, number])
  scale, offset = float(state['deviation'][number]), float(state['mean'][number])

  def target(outputs: Any) -> tf.Tensor:
    return _f32(outputs)[:, number] * scale + offset

  return Subject(_rounded(target(outputs)[0]), true, f'value{which} of {state["target"]!r}', target)


def _forecasting(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  number = _number(config.explain, task.units)
  channels = task.input_spec.shape[-1]
  horizon = config.task.horizons[number // channels]
  what = f'change of channel {number % channels} over {horizon} steps, as a share of how large it is'
  said, true = _rounded(_f32(outputs)[0, number]), _rounded(batch['targets'][0][number])
  return Subject(said, true, what, lambda each: _f32(each)[:, number])


def _segmentation(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  """The mean logit of a class over where it is seen: Vinogradova et al., Grad-CAM for segmentation, 2020."""
  names = task.state()['classes']
  taken, true = np.argmax(_f32(outputs)[0], axis=-1), np.asarray(batch['targets'][0])
  counts = [np.bincount(each[each >= 0].ravel(), minlength=len(names)) for each in (taken, true)]
  number = _chosen(config.explain, int(counts[0].argmax()), int(counts[1].argmax()), len(names))
  mask = (true if config.explain.target == 'true' else taken) == number
  # Of a class that is nowhere, all of the image is asked why not.
  mask = mask if mask.any() else np.ones_like(mask)
  weight = (mask / mask.sum()).astype(np.float32)
  said, right = (
    {name: round(float(count) / max(int(each.sum()), 1), 4) for name, count in zip(names, each, strict=True)}
    for each in counts
  )
  return Subject(
    said, right, f'mean logit of {names[number]!r} over its {int(mask.sum())} pixels',
    lambda each: tf.reduce_sum(_f32(each)[..., number] * weight, axis=[1, 2]),
  )  # fmt: skip


def _detection(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  """The logit of the best box' class, at the place that gives the box."""
  classes = task.units - detector.BOX_UNITS
  names = task.state()['classes']
  names = names if isinstance(names, list) else [str(number) for number in range(names)]
  values = _f32(outputs)[0]
  scores = tf.sqrt(tf.sigmoid(values[:, :classes]) * tf.sigmoid(values[:, -1:])).numpy()
  if config.explain.target == 'true':
    raise ConfigError("explain.target='true' does not fit detection, whose boxes are not the true ones: leave it out")
  if config.explain.output >= 0:
    _number(config.explain, classes)
    scores[:, [k for k in range(classes) if k != config.explain.output]] = -1.0
  place, number = divmod(int(scores.argmax()), classes)
  said = f'{names[number]} {scores[place, number]:.3f}'
  return Subject(said, None, f'logit of {names[number]!r} at the best box', lambda each: _f32(each)[:, place, number])


def _next_token(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  """The token behind the last one that is there."""
  targets = np.asarray(batch['targets'][0])
  known = np.flatnonzero(targets >= 0)
  return _token(config, task, outputs, int(known[-1]) if len(known) else len(targets) - 1, targets)


def _hidden_token(config: Any, task: Any, outputs: Any, batch: Mapping[str, Any]) -> Subject:
  """The first token that is to be said and is hidden; of a text without one the first that is to be said."""
  wanted, shown = (np.asarray(each)[0] for each in (task.wanted(batch), batch['inputs']))
  places = [*np.flatnonzero((wanted >= 0) & (shown == task.mask)), *np.flatnonzero(wanted >= 0), 0]
  return _token(config, task, outputs, int(places[0]), wanted)


def _token(config: Any, task: PackedTokens, outputs: Any, place: int, targets: np.ndarray) -> Subject:
  def logits(outputs: Any) -> tf.Tensor:
    if not isinstance(outputs, dict):
      return _f32(outputs)[:, place]
    hidden = outputs['hidden']  # [chunks, S, T / chunks, D] (trainer/models/gpt.py)
    chunk, inside = divmod(place, hidden.shape[2])
    return tf.matmul(_f32(hidden[chunk, :, inside]), _f32(outputs['table']), transpose_b=True)

  piece = pieces(task)
  values = logits(outputs)[0].numpy()
  said, true = int(values.argmax()), int(targets[place])
  number = _chosen(config.explain, said, true if true >= 0 else said, len(values))
  names = [repr(piece(token).decode(errors='replace')) for token in range(len(values))]
  return Subject(
    names[said], names[true] if true >= 0 else None, f'logit of {names[number]} at place {place + 1}',
    lambda each: logits(each)[:, number], _largest(values, names), place,
  )  # fmt: skip


# The first that fits; of a subclass before its base.
_ABOUT: tuple[tuple[type, Callable[..., Subject]], ...] = (
  (Classification, _classification),
  (Regression, _regression),
  (Forecasting, _forecasting),
  (Segmentation, _segmentation),
  (Detection, _detection),
  (LanguageModeling, _next_token),
  (MaskedLanguageModeling, _hidden_token),
)


def pieces(task: Task) -> Callable[[int], bytes]:
  """What an id of the task's inputs stands for in its text."""
  if isinstance(task, MaskedLanguageModeling):
    mask, known = task.mask, task.vocabulary.pieces
    return lambda i: b'_' if i == mask else known[i - 1] if i else b''
  if isinstance(task, PackedTokens):
    vocabulary = task.vocabulary
    return lambda i: b'\n\n' if i == vocabulary.end else vocabulary.pieces[i]
  return lambda i: bytes([i - 1]) if 1 <= i <= 256 else b''  # trainer/tasks/text_classification.py


def padding(task: Task) -> int:
  """The id that fills up the task's inputs."""
  if isinstance(task, PackedTokens) and not isinstance(task, MaskedLanguageModeling):
    return task.vocabulary.end
  return 0


def characters(parts: Sequence[bytes], weights: Sequence[float]) -> list[tuple[str, float]]:
  """Runs of bytes with a weight each as text: what makes up one character is put together, its weights added up."""
  decoder = codecs.getincrementaldecoder('utf-8')('replace')
  found: list[tuple[str, float]] = []
  waiting = 0.0
  for part, weight in zip(parts, weights, strict=True):
    waiting += float(weight)
    if text := decoder.decode(part):
      found.append((text, waiting))
      waiting = 0.0
  if rest := decoder.decode(b'', final=True):
    found.append((rest, waiting))
  return found


def _chosen(fields: Any, said: int, true: int, count: int) -> int:
  if fields.output >= 0:
    return _number(fields, count)
  return true if fields.target == 'true' else said


def _number(fields: Any, count: int) -> int:
  """`explain.output`, 0 where it is left open.

  Raises:
    ConfigError: there is no such output.
  """
  if fields.output >= count:
    raise ConfigError(f'explain.output={fields.output} is not one of the {count} outputs, which begin with 0')
  return max(fields.output, 0)


def _largest(logits: np.ndarray, names: Sequence[str]) -> dict[str, float]:
  shares = tf.nn.softmax(np.asarray(logits, np.float64)).numpy()
  return {names[i]: round(float(shares[i]), 6) for i in np.argsort(-shares, kind='stable')[:_SHARES]}


def _rounded(value: Any) -> float:
  return float(f'{float(value):.6g}')


def _f32(value: Any) -> tf.Tensor:
  return tf.cast(value, tf.float32)
