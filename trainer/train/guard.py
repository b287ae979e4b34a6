"""What becomes of a step whose loss or gradient is not finite, or whose loss is a spike.

The step itself tells such steps in its row, and leaves them out where the config says 'skip' (step.py). Here the rows
are judged on the host, alike on all processes, since a row is the same on all: steps are counted, the run is ended, or
rolled back to its last checkpoint. Each such step is described in WORKDIR/bad_steps.jsonl: the replicas it came from,
the gradients, the examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from trainer import durable
from trainer.errors import DivergedError
from trainer.train.step import Rows

BAD_STEPS = 'bad_steps.jsonl'
_NAMED = 3  # gradients and examples named in a message; all are in the file
_DESCRIBED = 100  # steps described in the file


class Guard:
  """Judges the rows of one run."""

  def __init__(self, session: Any, path: str):
    """Args:
    session: the parts of the run.
    path: of bad_steps.jsonl.
    """
    self._session, self._path = session, path
    train = session.config.train
    self._policies = {'not finite': train.on_nonfinite, 'spike': train.on_spike}
    self._most_skipped, self._most_rollbacks = train.max_skipped_steps, train.max_rollbacks

  @property
  def rolls_back(self) -> bool:
    """Whether the run may have to go back to a checkpoint, and so needs one from its start on."""
    spikes = self._session.config.train.spike_deviations > 0
    return self._policies['not finite'] == 'rollback' or (spikes and self._policies['spike'] == 'rollback')

  def judge(self, rows: Rows, first: int) -> tuple[np.ndarray, int | None]:
    """Counts the bad steps of a block in the progress.

    Args:
      rows: of the block.
      first: number of its first step, from 1.

    Returns:
      (bool [S], which steps were applied; the number of the step for which to roll back, or None).

    Raises:
      DivergedError: the config says to end the run, or too many steps were skipped or rolled back.
    """
    finite, spike = rows.fact('finite') > 0, rows.fact('spike') > 0
    good = finite & ~spike
    if good.all():
      return good, None
    progress, applied = self._session.state.progress, good.copy()
    for place in np.flatnonzero(~good):
      step = first + int(place)
      if not finite[place] and rows.fact('loss_scale')[place] > 1:
        progress.overflowed_steps += 1  # a loss scale that was too large is halved; that is how it is found
        continue
      what = 'spike' if finite[place] else 'not finite'
      policy = self._policies[what]
      bad = self._describe(rows, int(place), step, what, policy)
      if policy == 'raise':
        raise DivergedError(f'{bad}. {_advice(what)}')
      if policy == 'rollback':
        if progress.rollbacks >= self._most_rollbacks:
          raise DivergedError(f'{bad}, after {progress.rollbacks} rollbacks (train.max_rollbacks). {_advice(what)}')
        logging.warning('%s; rolling back to the last checkpoint (train.on_%s)', bad, _field(what))
        return applied, step
      progress.skipped_steps += 1
      if progress.skipped_steps > self._most_skipped:
        raise DivergedError(f'{bad}, and {self._most_skipped} steps were skipped (train.max_skipped_steps) already')
      logging.warning('%s; skipped (train.on_%s)', bad, _field(what))
    return applied, None

  def _describe(self, rows: Rows, place: int, step: int, what: str, policy: str) -> str:
    """One bad step in a line; the chief writes all that is known of it to the file."""
    session = self._session
    weight = rows.sum('weight')[place]
    loss = float(rows.sum('loss')[place] / weight) if weight else 0.0
    replicas = [int(r) for r in np.flatnonzero(rows.faults[place] > 0)]
    if not rows.faults.shape[1] and what == 'not finite':
      replicas = [0]
    names = [variable.path for variable in session.state.trainable]
    gradients = [name for name, square in zip(names, rows.squares[place], strict=True) if not np.isfinite(square)]
    line = (
      f'step {step}: the loss ({loss:g}) is a spike'
      if what == 'spike'
      else (f'step {step}: the loss ({loss:g}) or its gradient is not finite')
    )
    if replicas and rows.faults.shape[1]:
      line += f', on replica {_some(replicas)}'
    if gradients:
      line += f'; gradients of {_some(gradients)}' if len(gradients) < len(names) else '; all gradients'
    if not session.cluster.is_chief:
      return line
    entries = read(self._path)
    if len(entries) >= _DESCRIBED:
      return line
    batch = step - 1 + session.state.progress.skipped_batches
    parts = session.pipeline.examples_of(batch)
    examples = {str(r): [int(i) for i in parts[r][0]] for r in (replicas or range(len(parts)))}
    broken = sorted(int(i) for index, bad in parts for i in index[bad])
    if broken:
      line += f'; examples with inputs that are not finite: {_some(broken)}'
    else:
      line += f'; examples {_some([i for ids in examples.values() for i in ids])}'
    entry = {
      'step': step, 'what': what, 'policy': policy, 'loss': loss if np.isfinite(loss) else str(loss), 'batch': batch,
      'replicas': replicas, 'gradients': gradients, 'examples': examples, 'examples_not_finite': broken,
    }  # fmt: skip
    # A run that is killed meets the same step again.
    self._write([*(other for other in entries if (other['step'], other['batch']) != (step, batch)), entry])
    return f'{line} (all in {self._path})'

  def _write(self, entries: Iterable[dict[str, Any]]) -> None:
    try:
      durable.replace(self._path, b''.join(json.dumps(entry).encode() + b'\n' for entry in entries))
    except OSError as error:
      logging.warning('bad steps cannot be written to %s: %s', self._path, error.strerror)


def read(path: str) -> list[dict[str, Any]]:
  """The steps described in a file; [] if there is none."""
  try:
    with open(path, 'rb') as file:
      return [json.loads(line) for line in file]
  except FileNotFoundError:
    return []


def _field(what: str) -> str:
  return 'spike' if what == 'spike' else 'nonfinite'


def _advice(what: str) -> str:
  other = f"or skip such steps with train.on_{_field(what)}='skip', or go back before them with 'rollback'"
  return f'Lower optimizer.learning_rate, set optimizer.clip_norm, {other}'


def _some(names: list[Any]) -> str:
  more = len(names) - _NAMED
  return ', '.join(map(str, names[:_NAMED])) + (f' and {more} more' if more > 0 else '')
