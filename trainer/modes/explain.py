"""Mode explain: why a checkpoint says what it says of the first examples of the evaluation split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import models
from trainer.data import datasets
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import ConfigError
from trainer.explain import explaining, sanity, subjects, views
from trainer.explain.methods import Case
from trainer.explain.network import Network
from trainer.explain.permutation_importance import permutation_importance
from trainer.models import parts
from trainer.modes.eval import restored
from trainer.report.gallery import EXPLANATIONS, Gallery, Part
from trainer.runtime import cluster
from trainer.tasks import inputs as inputs_lib
from trainer.train.session import Session
from trainer.train.state import as_computed

_TOGETHER = 4096  # rows of a table that are computed together


def run(command: Any) -> None:
  """Explains `explain.examples` examples, prints a JSON object for each, and writes WORKDIR/explanations/STEP.

  Everything is computed by this process alone, on the device where TensorFlow puts it first, in the run's precision;
  of a TPU on its host. Examples of the split are made as mode eval makes them.

  Args:
    command: what the command line says (trainer/main.py), as for mode eval.

  Raises:
    ConfigError: there is no such checkpoint; the task, the model or its inputs do not fit a method; or the process is
      one of several.
  """
  config = command.config
  subjects.check_task(config.task.name)
  if (where := cluster.discover(config)).num_workers > 1:
    raise ConfigError(
      f'--mode=explain is for one process, and this is one of {where.num_workers} workers: start it alone, without '
      'TF_CONFIG or Slurm'
    )
  session, step, directory = restored(command)
  name = f'{EXPLANATIONS}/{step}'
  folder = directory.file(name)
  try:
    if where.device_kind == 'tpu':
      with tf.device('CPU:0'):
        _explain(session, step, folder)
    else:
      _explain(session, step, folder)
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  print(f'pictures  {directory.publish(name)}')


def _explain(session: Session, step: int, folder: str) -> None:
  config, fields = session.config, session.config.explain
  parts.compiled(session.model, False)  # nothing here is, whatever the run does
  network = _network(session)
  rows = _first(session, fields.examples)
  groups = _columns(session)
  view = views.view(session.task, config, groups)
  symbols = explaining.alphabet(fields, config.task.name, (batch['inputs'] for batch in _batches(session)))
  cases = [_case(session, network, view, symbols, number, row) for number, row in enumerate(rows)]
  names = explaining.chosen(fields, network, cases[0])
  permutes = explaining.permutes(fields, view.kind)
  if not names and not permutes:
    raise ConfigError(
      f'explain.methods={fields.methods!r}: none fits inputs that are {view.kind} and model.name={config.model.name!r}'
    )
  if config.data.source == 'synthetic':
    logging.warning("data.source='synthetic': the examples are made up, and what is said of them means nothing")
  gallery = Gallery(folder, EXPLANATIONS, f'Why: {config.task.name}, {config.model.name}', step=step)
  others = _drawn_anew(session, network, cases[0]) if fields.check and names else None
  found, incomplete = explaining.Sanity(), 0
  gallery.facts |= {'precision': session.precision.policy, 'methods': ', '.join(names)}
  for number, case in enumerate(cases) if names else ():
    checks, shown = explaining.explained(names, network, case, others if number < explaining.CHECKED else None, found)
    _report(gallery, case, checks, shown)
    incomplete += not checks.get('integrated_gradients', {}).get('complete', True)
  if incomplete:
    line = f'not complete for {incomplete} of {len(cases)} examples: raise explain.most_steps, or take another baseline'
    print(f'integrated_gradients {line}')
    gallery.facts['integrated_gradients'] = line
  if permutes:
    _permute(session, network, groups, gallery)
  _conclude(found, min(len(cases), explaining.CHECKED), gallery)
  gallery.close()


def _report(gallery: Gallery, case: Case, checks: Mapping[str, Any], shown: list[Part]) -> None:
  """Prints an example, and puts it into the gallery."""
  subject = case.subject
  row = {'index': case.number, 'prediction': subject.prediction}
  row |= {} if subject.truth is None else {'true': subject.truth}
  row |= {'share': next(iter(subject.shares.values()))} if subject.shares else {}
  checks = {name: {key: _short(value) for key, value in check.items()} for name, check in checks.items()}
  print(json.dumps({**row, 'explained': subject.what, **checks}), flush=True)
  said = [Part('shares', 'shares', subject.shares)] if subject.shares else []
  numbers = {
    f'{name.replace("_", " ")}: {key.replace("_", " ")}': value if type(value) in (int, float) else str(value)
    for name, check in checks.items()
    for key, value in check.items()
  }
  gallery.add(
    f'{case.number}: {subject.title}',
    [shown[0], *said, *shown[1:], Part(f'checks; explained: {subject.what}', 'numbers', numbers)],
  )


def _conclude(found: explaining.Sanity, checked: int, gallery: Gallery) -> None:
  """Says which methods depend on the weights."""
  for name, result in found.results().items():
    both = ', '.join(
      f'{"not defined" if result[key] is None else f"{result[key]:.2f}"} with {what}'
      for key, what in (('last_layer', 'a new last layer'), ('all_layers', 'all weights drawn anew'))
    )
    line = f'{result["verdict"]}: rank correlation of size {both} (examples: {checked})'
    print(f'{name} {line}')
    gallery.facts[f'{name}, weights'] = line


def _case(session: Session, network: Network, view: views.View, symbols: str, number: int, row: Any) -> Case:
  subject = subjects.subject(session.config, session.task, network(row['inputs']), row)
  return Case(session.config, view, row['inputs'], subject, number, lambda: _mean(session), symbols)


def _permute(session: Session, network: Network, groups: Mapping[str, Any], gallery: Gallery) -> None:
  """Shuffles each feature of the whole split, and says what that costs."""
  task, fields = session.task, session.config.explain
  whole = tf.nest.map_structure(lambda *each: np.concatenate(each), *_batches(session))
  metric, mode = session.best_metric or 'loss', session.best_mode

  def measures(inputs: np.ndarray) -> dict[str, float]:
    totals = np.zeros(2 + task.metrics.size)
    for i in range(0, len(inputs), _TOGETHER):
      batch = tf.nest.map_structure(tf.convert_to_tensor, _part(whole, slice(i, i + _TOGETHER)))
      outputs = network(inputs[i : i + _TOGETHER])
      weight = task.weights(batch)
      sums = [tf.reduce_sum(task.losses(outputs, batch) * weight), tf.reduce_sum(weight)]
      totals += np.concatenate([np.stack(sums), task.metric_values(outputs, batch)]).astype(np.float64)
    return {'loss': totals[0] / totals[1], **task.metric_results(totals[2:])}

  base, changes = permutation_importance(
    measures, whole['inputs'], groups, repeats=fields.repeats, seed=session.config.seed
  )
  sign = -1.0 if mode == 'max' else 1.0
  importance = {name: (sign * each[metric][0], each[metric][1]) for name, each in changes.items()}
  order = sorted(importance, key=lambda name: -importance[name][0])
  row = {name: {'mean': _short(importance[name][0]), 'deviation': _short(importance[name][1])} for name in order}
  print(json.dumps({'permutation_importance': row, 'metric': metric, 'value': _short(base[metric]),
                    'examples': len(whole['inputs']), 'repeats': fields.repeats}), flush=True)  # fmt: skip
  for each in dict.fromkeys((metric, 'loss')):
    better = -1.0 if each == metric and mode == 'max' else 1.0
    ranked = sorted(changes, key=lambda name: -better * changes[name][each][0])
    values = {name: f'{_short(better * changes[name][each][0])} ± {_short(changes[name][each][1])}' for name in ranked}
    what = 'fall' if better < 0 else 'rise'
    title = f'{what} of {each} ({_short(base[each])}) where a feature is shuffled, mean and deviation'
    gallery.add(f'permutation importance: {each}', [Part(title, 'numbers', values)], group='whole split')
  gallery.facts |= {f'importance of {name}': _short(importance[name][0]) for name in order[:5]}


def _network(session: Session) -> Network:
  """The model as it is evaluated, with values of its own."""
  with session.state.averaged():
    parameters = [as_computed(variable).numpy() for variable in session.state.evaluated]
    buffers = [tf.convert_to_tensor(variable.value).numpy() for variable in session.model.non_trainable_variables]
  return Network(session.model, [], []).at(parameters, buffers)


def _drawn_anew(session: Session, network: Network, case: Case) -> tuple[Network, Network]:
  """The model with a new last layer, and all new."""
  config = session.config
  keras.utils.set_random_seed(config.seed + 1)
  with tf.device('CPU:0'):
    fresh = models.build(config, session.task.input_spec, session.task.units, session.task.activation)
  trained = [each.numpy() for each in network.parameters]
  first = sanity.drawn_anew(
    trained, [as_computed(variable).numpy() for variable in fresh.trainable_variables], config.seed
  )
  buffers = [tf.convert_to_tensor(variable.value).numpy() for variable in fresh.non_trainable_variables]
  last = set(sanity.last_layer(network, network.calls(case.inputs)))
  new_last = [first[i] if i in last else each for i, each in enumerate(trained)]
  return network.at(new_last, network.buffers), network.at(first, buffers)


def _batches(session: Session) -> Iterator[dict[str, Any]]:
  """The evaluation split in order, as np.ndarray, without padding."""
  dataset, _ = session.pipeline.evaluate(tf.distribute.get_strategy())
  for batch in dataset:
    batch = tf.nest.map_structure(lambda each: each.numpy(), batch)
    there = batch['index'] >= 0
    if there.any():
      yield _part(batch, there)


def _first(session: Session, count: int) -> list[dict[str, Any]]:
  """The first examples of the split, [1, ...] each."""
  found: list[dict[str, Any]] = []
  for batch in _batches(session):
    for row in range(len(batch['index'])):
      found.append(_part(batch, slice(row, row + 1)))
      if len(found) == count:
        return found
  return found


def _part(batch: Any, rows: Any) -> Any:
  """Some rows of a nest [B, ...]."""
  return tf.nest.map_structure(lambda each: each[rows], batch)


def _mean(session: Session) -> np.ndarray:
  """The mean inputs of the split, float32 [1, ...]."""
  total, count = np.zeros([1]), 0
  for batch in _batches(session):
    total, count = total + batch['inputs'].sum(axis=0, dtype=np.float64)[np.newaxis], count + len(batch['inputs'])
  return (total / count).astype(np.float32)


def _columns(session: Session) -> dict[str, list[int]]:
  """Of a table: feature -> its columns; {} of other inputs."""
  spec = session.task.input_spec
  if not isinstance(spec, tf.TensorSpec) or spec.shape.rank != 1 or not spec.dtype.is_floating:
    return {}
  name = session.task.state().get('inputs', {}).get('feature', '')
  found = inputs_lib.columns(name, session.dataset.features[name]) if name in session.dataset.features else {}
  known = datasets.feature_names(session.dataset.name)
  width = spec.shape[0]
  return found or {known[i] if len(known) == width else f'{name or "input"}[{i}]': [i] for i in range(width)}


def _short(value: Any) -> Any:
  """A number with as many digits as anybody reads; anything else as it is."""
  return float(f'{value:.5g}') if isinstance(value, float) else value
