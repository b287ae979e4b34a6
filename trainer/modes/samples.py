"""Mode samples: what one checkpoint makes of the evaluation split, for people to look at.

The first examples, and those with the largest loss; where a prediction is one of a few classes, the matrix of
confusions of the whole split. scripts/report puts them on its page.
"""

from __future__ import annotations

import collections
import heapq
import json
from typing import Any

from trainer.data.pipeline import DATA_ERRORS
from trainer.modes.eval import restored
from trainer.report.gallery import SAMPLES, Gallery
from trainer.train.evaluate import Predicted


def run(command: Any) -> None:
  """Writes WORKDIR/samples/STEP, and prints {"step", "samples", "examples"}.

  Args:
    command: what the command line says (trainer/main.py), as for mode eval.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config; or the folder cannot be written
      to.
  """
  session, step, directory = restored(command)
  fields, task, name = session.config.samples, session.task, f'{SAMPLES}/{step}'
  first: list[Predicted] = []
  worst: list[tuple[float, int, Predicted]] = []  # a heap, the least of them on top
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  examples = 0
  try:
    for each in session.evaluator().predict(examples=True):
      examples += 1
      if len(first) < fields.first:
        first.append(each)
      heapq.heappush(worst, (each.loss, -each.index, each))
      if len(worst) > fields.worst:
        heapq.heappop(worst)
      if (mistake := task.mistake(each.prediction)) is not None:
        counts[mistake] += 1
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  if not session.cluster.is_chief:
    return
  title = f'{session.dataset.name}, split {session.dataset.evaluation.name}'
  gallery = Gallery(directory.file(name), SAMPLES, title, step=step)
  gallery.facts = {'examples': examples}
  gallery.confusion = _confusion(counts, task.wording().get('probabilities', {}).get('classes', []))
  groups = {'first': first, 'largest loss': [each for *_, each in sorted(worst, reverse=True)]}
  for group, found in groups.items():
    for each in found:
      parts = [*task.look(each.example), *task.draw(each.example, each.prediction)]
      gallery.add(f'{each.index}: loss {each.loss:.4g}', parts, group=group)
  gallery.close()
  print(json.dumps({'step': step, 'samples': directory.publish(name), 'examples': examples}))


def _confusion(counts: collections.Counter[tuple[str, str]], names: list[str]) -> dict[str, Any] | None:
  """Examples of each true class (rows) by the class that was predicted (columns); None where there are no classes."""
  if not counts:
    return None
  return {'names': names, 'counts': [[counts[true, said] for said in names] for true in names]}
