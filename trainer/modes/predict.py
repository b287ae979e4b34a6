"""Mode predict: what one checkpoint makes of examples, one JSON object per example on stdout.

Of files and lines with --input, else of the evaluation split.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from trainer.data import tokenizers
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.modes.eval import restored
from trainer.report.gallery import PREDICTIONS, Gallery
from trainer.serve import given, reading
from trainer.serve.function import Served
from trainer.train.workdir import Workdir


def run(command: Any) -> None:
  """Prints {"input" or "index", ...} for each example, in order.

  What else an object has is the task's: a text that goes on, a class, boxes. For the first ten examples of the split
  give `--config.data.eval_split='test[:10]'`. With --input one device predicts, in batches of the evaluation's size; an
  example that cannot be read is a line on stderr, and the others are predicted all the same. With --pictures what is
  predicted is drawn into WORKDIR/predictions/STEP.

  Args:
    command: what the command line says (trainer/main.py), as for mode eval.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config; or an input cannot be read.
  """
  if command.inputs:
    _of_files(command)
    return
  session, step, directory = restored(command)
  drawn = _Drawn(command, session, step, directory)
  try:
    for each in session.evaluator().predict(examples=drawn.wanted):
      if session.cluster.is_chief:
        print(json.dumps({'index': each.index, **session.task.readable(each.prediction)}), flush=True)
        drawn.add(str(each.index), each.example, each.prediction)
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  drawn.close()


def _of_files(command: Any) -> None:
  try:
    files = reading.expand(list(command.inputs))
  except reading.BadInput as error:
    raise ConfigError(f'--input={error}') from error
  session, step, directory = restored(command, alone=True, reads_data=False)
  served, drawn = Served(session), _Drawn(command, session, step, directory)
  told = given.describe(session.task, session.dataset.features)
  size = session.config.eval.global_batch_size or session.config.train.global_batch_size
  wrong = 0
  found = itertools.chain.from_iterable(reading.examples(name, told) for name in files)
  for name, example, prediction in _predicted(session, served, found, size):
    if isinstance(prediction, reading.BadInput):
      print(f'error: {prediction}', file=sys.stderr, flush=True)
      wrong += 1
      continue
    said = session.task.readable(prediction)
    said = {key: value for key, value in said.items() if key not in session.task.references}
    print(json.dumps({'input': name, **said}), flush=True)
    drawn.add(name, example, prediction)
  drawn.close()
  if wrong:
    raise ConfigError(f'{wrong} of the inputs could not be read; the others were predicted')


def _predicted(
  session: Any, served: Served, found: Iterable[tuple[str, Any]], size: int
) -> Iterator[tuple[str, Any, Any]]:
  """(name, what the model was given, prediction) of each input in order; for a bad one the prediction is a BadInput."""
  tokenizer, speed = None, _Speed()
  if served.of_ids:
    tokenizer = tokenizers.of(session.task.vocabulary, session.config.data.pack_tokenizer)
  first = 0
  found = iter(found)
  while batch := list(itertools.islice(found, size)):
    good = [(place, value) for place, (_, value) in enumerate(batch) if not isinstance(value, reading.BadInput)]
    answers: dict[int, tuple[Any, Any]] = {}
    if tokenizer is not None:
      asked = {place: session.task.ids_of(next(tokenizer.rows([value]))[:-1]) for place, value in good}
      for length in {len(ids) for ids in asked.values()}:
        alike = {place: ids for place, ids in asked.items() if len(ids) == length}
        told = served.predict_ids(list(alike.values()), [first + place for place in alike])
        speed.add(told)
        answers |= {place: ({'inputs': asked[place]}, said) for place, said in zip(alike, told, strict=True)}
    elif good:
      inputs = [served.prepare(value) for _, value in good]
      # Filled up with the last, so that the function is made for one size alone.
      said = served.predict(inputs + inputs[-1:] * (size - len(inputs)))
      answers = {
        place: ({'inputs': _numpy(each)}, answer) for (place, _), each, answer in zip(good, inputs, said, strict=False)
      }
    for place, (name, value) in enumerate(batch):
      yield name, *answers.get(place, (None, value))
    first += len(batch)
  speed.say()


class _Drawn:
  """The gallery of what is predicted, where it is asked for.

  Attributes:
    wanted: whether it is.
  """

  def __init__(self, command: Any, session: Any, step: int, directory: Workdir):
    self.wanted, self._task, self._directory = command.pictures, session.task, directory
    self._name = f'{PREDICTIONS}/{step}'
    self._gallery = None
    if self.wanted and session.cluster.is_chief:
      self._gallery = Gallery(directory.file(self._name), PREDICTIONS, 'Predictions', step=step)

  def add(self, title: str, example: Any, prediction: Any) -> None:
    if self._gallery is not None:
      self._gallery.add(title, [*self._task.look(example), *self._task.draw(example, prediction)])

  def close(self) -> None:
    if self._gallery is not None:
      self._gallery.close()
      print(f'pictures: {self._directory.publish(self._name)}', file=sys.stderr)


def _numpy(nest: Any) -> Any:
  return tf.nest.map_structure(lambda tensor: tensor.numpy(), nest)


class _Speed:
  """How fast texts are written; the first batch is left out, since it compiles."""

  def __init__(self) -> None:
    self._tokens, self._begun, self._last = 0, 0.0, 0.0

  def add(self, predictions: list[Any]) -> None:
    self._last = time.monotonic()
    if self._begun:
      self._tokens += sum(each['written'].size for each in predictions if 'written' in each)
    else:
      self._begun = self._last

  def say(self) -> None:
    if self._tokens:
      rate = self._tokens / (self._last - self._begun)
      print(f'{self._tokens} tokens written, {rate:.1f} a second; without the first batch', file=sys.stderr)
