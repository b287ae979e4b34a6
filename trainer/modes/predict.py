"""Mode predict: what one checkpoint makes of the evaluation split, one JSON object per example on stdout."""

from __future__ import annotations

import json
from typing import Any

from trainer.data.pipeline import DATA_ERRORS
from trainer.modes.eval import restored


def run(command: Any) -> None:
  """Prints {"index", ...} for each example of data.eval_split, in its order; writes nothing.

  What else an object has is the task's: a text that goes on, a class, boxes. For the first ten examples give
  `--config.data.eval_split='test[:10]'`.

  Args:
    command: what the command line says (trainer/main.py), as for mode eval.

  Raises:
    ConfigError: there is no such checkpoint, it is damaged, or it is of another config.
  """
  session, _ = restored(command)
  try:
    for prediction in session.evaluator().predict():
      if session.cluster.is_chief:
        print(json.dumps(prediction), flush=True)
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
