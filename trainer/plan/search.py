"""The largest batch that fits, by asking the compiler: half as large again and again, or twice as large."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ml_collections

from trainer.errors import ConfigError
from trainer.plan import chips, making

Tried = Callable[[dict[str, Any]], None]


def largest(
  config: ml_collections.ConfigDict, target_name: str, tried: Tried = lambda attempt: None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """The plan of the largest batch that fits, of those that are a power of two times the micro-batches, per chip.

  Where the model can compute its blocks twice and does not, that is searched too: what fits then is among the attempts.

  Args:
    config: checked; its batch is where the search begins.
    target_name: as `chips.target` takes it.
    tried: called with each attempt as it is made.

  Returns:
    (the plan; per attempt 'examples_per_chip', 'remat' (None for a model that has no such field), 'fits' (None where
    this machine had too little memory to find out), 'needed_bytes' of a chip, None where the compiler gave up, and the
    'seconds' that it took).

  Raises:
    ConfigError: as `making.make_apart`; or not even the smallest batch fits.
  """
  if not target_name:
    raise ConfigError('--search is for a --target: add one, e.g. --target=v5e:1')
  target = chips.target(target_name)
  attempts: list[dict[str, Any]] = []
  remat = config.model.get('remat')
  found: dict[str | None, dict[str, Any]] = {}
  killed: list[making.Killed] = []
  first = max(1, config.train.global_batch_size // target.chips)
  for kind in (remat, 'blocks') if remat == 'none' else (remat,):

    def fits(examples: int, kind: str | None = kind) -> bool:
      started = time.monotonic()
      attempt: dict[str, Any] = {'examples_per_chip': examples, 'remat': kind, 'fits': None, 'needed_bytes': None}
      try:
        plan = making.make_apart(with_batch(config, examples * target.chips, kind), target_name)
        attempt |= {'fits': plan['target']['fits'], 'needed_bytes': plan['target'].get('total_bytes')}
      except making.Killed as error:
        killed.append(error)
      attempt['seconds'] = time.monotonic() - started
      attempts.append(attempt)
      tried(attempt)
      if attempt['fits']:
        found[kind] = plan
      return bool(attempt['fits'])

    # What is computed twice fits where it is kept, so the second search begins where the first has ended.
    first = max(first, _search(fits, config.train.micro_batches, first))
  if remat not in found:
    if killed:
      raise killed[-1]
    more = f'; with model.remat=blocks {found["blocks"]["examples_per_replica"]} do' if 'blocks' in found else ''
    raise ConfigError(
      f'--search: not even {config.train.micro_batches} per chip fits into {target_name}{more}: take a smaller '
      'model, shorter inputs, or what makes it hold less (optimizer.shard_state, model.remat, ...)'
    )
  plan = found[remat]
  plan['warnings'] += [f'larger batches were not compiled: {error}' for error in killed[:1]]
  return plan, attempts


def _search(fits: Callable[[int], bool], least: int, first: int) -> int:
  """The largest size for which `fits` is true, of least times a power of two; 0 if there is none.

  Args:
    fits: true up to some size, and false from there on.
    least: the smallest size.
    first: where to begin, or just below.
  """
  size = least
  while size * 2 <= first:
    size *= 2
  if fits(size):
    while fits(size * 2):
      size *= 2
    return size
  while size > least:
    size //= 2
    if fits(size):
      return size
  return 0


def with_batch(config: ml_collections.ConfigDict, batch: int, remat: str | None = None) -> ml_collections.ConfigDict:
  """The config with another global batch, and if given another `model.remat`; good for a plan alone."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.train.global_batch_size = changed.eval.global_batch_size = batch
    # The plan reads nothing, and lanes and shares of a mixture must go into the batch.
    changed.data.lanes, changed.data.mixture = 0, ()
    if remat is not None:
      changed.model.remat = remat
  return changed
