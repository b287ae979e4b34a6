"""Mode benchmark: how fast a run would be here, by windows of steps between syncs; keeps nothing but benchmark.json."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import socket
import sys
import time
from typing import Any

import psutil

import trainer
from trainer import config as config_lib
from trainer.checkpoint import disk
from trainer.data.pipeline import DATA_ERRORS
from trainer.errors import RunAgain
from trainer.measure import peaks, summary, throttling
from trainer.measure import stages as stages_lib
from trainer.measure.run import Measurement
from trainer.modes import benchmark_search
from trainer.plan import making
from trainer.report import run_record, words
from trainer.runtime import agreement, cluster
from trainer.train import session as session_lib
from trainer.train.workdir import BENCHMARK, Workdir

# Of benchmark.json; its fields are described in benchmark.schema.json beside this file.
VERSION = 4


def run(command: Any) -> None:
  """Measures, writes benchmark.json, and prints a table of it; trains on a state that is thrown away.

  With --search it does what benchmark_search.py says instead.

  Args:
    command: what the command line says (trainer/main.py).

  Raises:
    ConfigError: a mistake of the user's.
    RunAgain: the process was told to stop, and nothing is written; or what was measured is not valid, and the file says
      why.
  """
  if command.search:
    benchmark_search.run(command)
    return
  config, where = command.config, cluster.discover(command.config)
  directory = Workdir(command.workdir, config.storage)
  command.closing.callback(directory.close)
  directory.scratch()
  if where.is_chief:
    disk.make_writable(directory.path)
  session = session_lib.build(config, where, on_strategy=command.stop.reinstall)

  def between() -> None:
    if command.stop.requested:
      raise RunAgain(f'{command.stop.reason}: the measurement is not complete, and nothing of it is kept')

  try:
    found = _measured(Measurement(session, between), command, directory.path)
  except DATA_ERRORS as error:
    raise session.pipeline.corrupt(error) from error
  if not where.is_chief:
    return
  directory.write(BENCHMARK, json.dumps(found, indent=2) + '\n')
  print('Benchmark' if found['valid'] else 'Benchmark, NOT VALID')
  for name, text in [*_table(found), ('all of it', directory.shown(BENCHMARK))]:
    print(f'  {name:<14}  {text}')
  if not found['valid']:
    raise RunAgain(f'what was measured is not valid: {"; ".join(found["why_not_valid"])}')


def _measured(measurement: Measurement, command: Any, workdir: str) -> dict[str, Any]:
  session, config, where = measurement.session, command.config, measurement.session.cluster
  started = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  first = measurement.first_steps()
  first['from_process_start_seconds'] = time.monotonic() - command.phases.began
  command.stop.at_once = False  # from here on there may be something to clear away
  warm_up = measurement.warm_up()
  if where.is_chief:
    settings = config.benchmark
    print(f'Measuring: {settings.windows} windows of {settings.window_seconds:g} s of each input', flush=True)
  inputs, others, slowed = measurement.inputs()
  step_seconds = inputs[measurement.own]['step_seconds']['median']
  single_steps = measurement.single_steps()
  stages = measurement.stages()
  collective = measurement.collective(step_seconds)
  save = measurement.save(os.path.join(workdir, 'benchmark-checkpoint'), step_seconds)
  memory = measurement.memory()  # before the model is built a second time, to count operations
  config_text = config_lib.to_json(config)
  why_not = [f'the speed with {kind} input had not settled' for kind, up in warm_up.items() if not up['settled']]
  # Workers on one machine are each other's others.
  if where.num_workers == 1 and others > config.benchmark.largest_foreign_load:
    why_not.append(f'other programs took {others:.0%} of the cores (benchmark.largest_foreign_load)')
  if complaint := throttling.complaint(slowed):
    why_not.append(complaint)
  if not agreement.all_true(session.strategy, where, not complaint) and not complaint:
    why_not.append("another worker's machine was slowed down")
  return {
    'version': VERSION,
    'valid': not why_not,
    'why_not_valid': why_not,
    'started': started,
    'versions': run_record.versions(),
    'git': run_record.git_state(os.path.dirname(os.path.abspath(trainer.__file__))),
    'flags': sys.argv[1:],
    'config': json.loads(config_text),
    'config_sha256': hashlib.sha256(config_text.encode()).hexdigest(),
    'machine': {
      'host': socket.gethostname(),
      'platform': platform.platform(),
      'cores': psutil.cpu_count(),
      'load_of_others': others,
      'throttling': slowed,
    },
    'topology': {
      'strategy': where.strategy,
      'device': where.device_kind,
      'workers': where.num_workers,
      'replicas': where.replicas,
    },
    'precision': dataclasses.asdict(session.precision),
    'batch': {
      'global': config.train.global_batch_size,
      'per_replica': config.train.global_batch_size // where.replicas,
      'micro_batches': config.train.micro_batches,
      'tokens_per_example': config.data.pack_tokens or None,
    },
    'first_step': first,
    'warm_up': warm_up,
    'input': {
      'source': session.pipeline.source,
      'real': inputs.get('real'),
      'repeated': inputs['repeated'],
      'stages': stages,
      'slowest_stage': stages_lib.slowest(stages),
    },
    'input_share': summary.input_share(inputs['real'], inputs['repeated']) if 'real' in inputs else None,
    'single_steps': single_steps,
    'collective': collective,
    'save': save,
    'memory': memory,
    'compute': _compute(session, config, step_seconds),
  }


def _compute(session: session_lib.Session, config: Any, step_seconds: float) -> dict[str, Any]:
  """Operations of a step against what the device can do at most."""
  where = session.cluster
  dtype = session.precision.policy.removeprefix('mixed_')
  found = peaks.peak(where, dtype)
  counted = making.products(config, where.replicas)
  # The peak of a CPU is that of all its cores, which its logical devices share.
  sharing = where.local_devices if where.device_kind == 'cpu' else 1

  def share(flops: float | None) -> float | None:
    return flops * sharing / step_seconds / found['flops'] if flops and found['flops'] else None

  mfu, hfu = share(counted.model.flops), share(counted.program)
  for name, reached in (('MFU', mfu), ('HFU', hfu)):
    if reached and reached > 1:
      raise RuntimeError(
        f'{name}: {reached:.0%} of the peak of {found["device"]} cannot be: the count or the peak is wrong'
      )
  return {
    'model_flops_per_step_and_replica': counted.model.flops,
    'model_flops_not_counted': list(counted.model.not_counted),
    'flops_per_step_and_replica': counted.program,
    'why_not_counted': counted.why_not,
    'dtype': dtype,
    'peak': found,
    'mfu': mfu,
    'hfu': hfu,
  }


def _table(found: dict[str, Any]) -> list[tuple[str, str]]:
  topology, batch, compute = found['topology'], found['batch'], found['compute']
  rows = [
    (
      'run',
      f'{topology["replicas"]} x {topology["device"]} ({topology["strategy"]}), batches of {batch["global"]}',
    ),
    ('precision', f'{found["precision"]["policy"]}: {found["precision"]["policy_reason"]}'),
    ('XLA', f'{"on" if found["precision"]["xla"] else "off"}: {found["precision"]["xla_reason"]}'),
    (
      'first step',
      f'{words.duration(found["first_step"]["from_process_start_seconds"])} after the start of the process; '
      f'tracing and compiling took {words.duration(found["first_step"]["compile_seconds"])}',
    ),
  ]
  for kind in ('real', 'repeated'):
    if each := found['input'][kind]:
      rows.append((f'{kind} input', _speed(each, batch['tokens_per_example'])))
  if found['input_share'] is not None:
    rows.append(('', f'{found["input_share"]:.1%} of a step is input that is not ready (repeated against real)'))
  if stages := found['input']['stages']:
    own = ', '.join(f'{stage["name"]} {words.duration(stage["own_seconds"])}' for stage in stages)
    rate = batch['global'] / stages[-1]['batch_seconds']
    rows.append(
      ('its stages', f'{own} of a batch; slowest: {found["input"]["slowest_stage"]}; alone, {words.rate(rate)}')
    )
  single = found['single_steps']
  percentiles = ', '.join(f'{name} {words.duration(single[name])}' for name in ('p50', 'p90', 'p99'))
  rows.append(('one by one', f'{percentiles} of {single["steps"]} steps, each with a return to the host'))
  if each := found['collective']:
    rows.append(
      (
        'all-reduce',
        f'{words.duration(each["seconds"])} for {words.size(each["bytes"])} by itself, '
        f'{each["share_of_step"]:.1%} of a step if nothing overlaps',
      )
    )
  save = found['save']
  rows += [
    (
      'a save',
      f'{words.size(save["bytes"])} block training for {words.duration(save["blocked_seconds"])} and take '
      f'{words.duration(save["seconds"])}; steps meanwhile took {1 + save["slower"]:.2f} times as long',
    ),
    (
      'memory',
      f'host {words.size(found["memory"]["host_bytes"])}, device {words.size(found["memory"]["device_bytes"])} at most',
    ),
    (
      'compute',
      f'{words.count(compute["model_flops_per_step_and_replica"])}FLOP per step and replica by formula (model FLOPs), '
      f'{words.count(compute["flops_per_step_and_replica"])}FLOP in the program',
    ),
    *(('', f'not among the model FLOPs: {text}') for text in compute['model_flops_not_counted']),
    *([('', compute['why_not_counted'])] if compute['why_not_counted'] else []),
    (
      '',
      f'MFU {_percent(compute["mfu"])}, HFU {_percent(compute["hfu"])} of '
      f'{words.count(compute["peak"]["flops"])}FLOP/s ({compute["peak"]["device"]}, {compute["dtype"]}; '
      f'{compute["peak"]["source"]})',
    ),
    ('others', f'{found["machine"]["load_of_others"]:.1%} of the cores were taken by other programs'),
    ('slowed down', throttling.words(found['machine']['throttling'])),
  ]
  return rows


def _percent(share: float | None) -> str:
  return words.NOT_MEASURED if share is None else f'{share:.1%}'


def _speed(each: dict[str, Any], tokens: int | None) -> str:
  step, rate = each['step_seconds'], each['examples_per_second']
  parts = [words.rate(rate), *([f'{words.count(rate * tokens)} tokens/s'] if tokens else [])]
  spread = f' ± {words.duration(step["standard_error"])}' if step['standard_error'] is not None else ''
  parts.append(f'{words.duration(step["mean"])}{spread} per step (median {words.duration(step["median"])})')
  if each['waited_share'] is not None:
    parts.append(f'{each["waited_share"]:.1%} waiting for input')
  return ', '.join(parts)
