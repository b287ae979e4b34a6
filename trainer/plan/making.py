"""The plan of a run, as numbers: built on one CPU and made-up examples, lowered, and compiled for what it is for."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import math
import os
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from trainer import apart
from trainer import config as config_lib
from trainer.data.pipeline import Pipeline
from trainer.errors import ConfigError
from trainer.plan import chips, compiler, flops, hlo, scaling
from trainer.plan.lowering import Lowered
from trainer.report import words
from trainer.runtime import cluster, precision
from trainer.train import session as session_lib
from trainer.train.step import TrainStep, has_synchronized_statistics

# Of plan.json.
VERSION = 2
# What a step is taken to reach of a chip's peak (hardware FLOPs utilisation, so with what is computed twice), and a
# checkpoint of a disk; both are guesses, and are named so.
ASSUMED_HFU = 0.4
ASSUMED_BYTES_PER_SECOND = 400e6


def make(config: ml_collections.ConfigDict, target_name: str = '') -> dict[str, Any]:
  """The plan, ready for JSON; sizes in bytes, times in seconds, None for what is not known.

  Args:
    config: checked.
    target_name: as `chips.target` takes it; empty: what this machine has.

  Raises:
    ConfigError: the target is unknown, or its compiler is not installed; the config cannot run there.
  """
  if target_name:
    target = chips.target(target_name)
    compiler.check(target)
    replicas, kind = target.chips, target.chip.device
  else:
    target, where = None, cluster.discover(config)
    replicas, kind = where.replicas, where.device_kind
  config_lib.check_topology(config, replicas, 1)
  session, batch_spec = _built(config, kind, replicas)
  step = session.train_step(replicas)
  by_formula = flops.of_step(step, batch_spec)
  lowered = _lowered(step, batch_spec, kind)
  program = hlo.Program(lowered.text())
  in_program = program.flops()
  plan = {
    'version': VERSION,
    'config': json.loads(config_lib.to_json(config)),
    'device': kind,
    'precision': session.precision.policy,
    'replicas': replicas,
    'examples_per_replica': config.train.global_batch_size // replicas,
    'parameters': _parameters(session.model),
    'bytes_per_replica': _bytes(session, batch_spec),
    'model_flops_per_step_and_replica': by_formula.flops,
    'model_flops_not_counted': list(by_formula.not_counted),
    'flops_per_step_and_replica': in_program,
    'loops_counted_once': sorted(program.counted_once),
    'flops_of_model_flops': in_program / by_formula.flops if by_formula.flops else None,
    'checkpoint': _checkpoint(config, session.state),
    'data': _data(config, session.dataset.train),
  }
  serialized = lowered.serialized() if target else b''
  # The compiler needs much memory itself, so the weights go first.
  session.state.release()
  del session, step, lowered, program
  _free()
  plan['target'] = _compiled(serialized, target, plan['flops_per_step_and_replica']) if target else None
  return {**plan, 'estimate': _estimate(config, plan, target), 'warnings': _warnings(config, plan)}


class Killed(ConfigError):
  """The process that was to make a plan was killed, most likely by a kernel that had no memory left."""


def make_apart(config: ml_collections.ConfigDict, target_name: str) -> dict[str, Any]:
  """As `make`, in a process of its own, which may need all the memory that there is.

  Raises:
    Killed: it needed more.
    ConfigError: as `make`; or the compiler has crashed.
  """
  try:
    # oneDNN's allocator would keep for itself what the weights have taken.
    return apart.call(make, config, target_name, environment={'TF_ENABLE_ONEDNN_OPTS': '0'})
  except apart.EndedEarly as error:
    if error.killed:
      memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
      raise Killed(
        f'--target={target_name!r}: the process that compiles for it was killed; if it was for want of memory (this '
        f'machine has {memory / 2**30:.1f} GiB), take a larger machine, a smaller model or a smaller batch'
      ) from error
    raise ConfigError(f'--target={target_name!r}: its compiler has crashed: {error}') from error


def _free() -> None:
  """Gives memory that nothing holds any more back to the machine; by itself the C library keeps gigabytes of it."""
  keras.backend.clear_session()
  gc.collect()
  if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
    trim(0)


@dataclasses.dataclass(frozen=True)
class Products:
  """Floating-point operations of a replica's products in a step.

  Attributes:
    model: by formula (trainer/plan/flops.py).
    program: in the program that XLA is given, loops as often as they run; None if there is none.
    why_not: why there is none, or not all; '' if there is nothing to say.
  """

  model: flops.Count
  program: float | None
  why_not: str


def products(config: ml_collections.ConfigDict, replicas: int) -> Products:
  """Counts them; builds the model once more, on the CPU.

  What XLA cannot compile has a count by formula alone.
  """
  session, batch_spec = _built(config, 'cpu', replicas)
  step = session.train_step(replicas)
  by_formula = flops.of_step(step, batch_spec)
  try:
    program = hlo.Program(_lowered(step, batch_spec, 'cpu').text())
  except ConfigError as error:
    return Products(by_formula, None, str(error))
  in_program = program.flops()
  return Products(by_formula, in_program, _counted_once(sorted(program.counted_once)) if program.counted_once else '')


def _counted_once(loops: list[str]) -> str:
  return f'of the products in the program, those of loops of unknown length count once: {", ".join(loops)}'


def _lowered(step: TrainStep, batch_spec: Any, device: str) -> Lowered:
  if step.replicas > 1 and has_synchronized_statistics(step.model):
    raise ConfigError("a plan cannot be made with batch statistics that are synchronized: set model.norm='group'")
  return Lowered(step, batch_spec, device)


def _built(config: ml_collections.ConfigDict, kind: str, replicas: int) -> tuple[session_lib.Session, Any]:
  """The run on one CPU device and made-up examples, with its own precision, and the spec of a replica's batch."""
  planned = config_lib.alone(config, made_up=True)
  with planned.unlocked():
    if kind == 'tpu':
      precision.choose(config, cluster.Cluster('tpu', 'a plan', 'tpu', 1))  # refuses what a TPU cannot do
    if kind != 'cpu' and config.precision.policy == 'auto':
      planned.precision.policy = 'mixed_bfloat16'  # which all of the chips take that are in the table
    planned.precision.xla = 'on'
  where = cluster.Cluster('one', 'a plan', 'cpu', 1)
  with tf.device('CPU:0'):
    session = session_lib.build(planned, where, replicas=replicas, kept={})
  pipeline = Pipeline(session.config, session.dataset, session.task, replicas=replicas, workers=1)
  return session, pipeline.batch_spec


def _parameters(model: Any) -> dict[str, Any]:
  """How many there are, and in which block: the first part of a variable's path behind the model's name."""
  blocks: dict[str, int] = {}
  for variable in model.weights:
    parts = variable.path.split('/')
    name = parts[1] if len(parts) > 2 else parts[0]
    blocks[name] = blocks.get(name, 0) + math.prod(variable.shape)
  trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
  return {'all': sum(blocks.values()), 'trainable': trainable, 'by_block': blocks}


def _bytes(session: session_lib.Session, batch_spec: Any) -> dict[str, int]:
  """What a replica holds from step to step; the gradients are there for a part of each."""
  found = session.state.held_bytes()
  found['gradients'] = sum(4 * math.prod(v.shape) for v in session.state.trainable)
  found['batch'] = sum(math.prod(s.shape) * s.dtype.size for s in tf.nest.flatten(batch_spec))
  return found


def _checkpoint(config: ml_collections.ConfigDict, state: Any) -> dict[str, Any]:
  size = sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in state.expected().values())
  return {
    'bytes': size,
    'assumed_bytes_per_second': ASSUMED_BYTES_PER_SECOND,
    'save_seconds': size / ASSUMED_BYTES_PER_SECOND,
    'every_steps': config.checkpoint.every_steps,
    'every_seconds': config.checkpoint.every_seconds,
    'grace_seconds': config.faults.grace_seconds,
  }


def _data(config: ml_collections.ConfigDict, split: Any) -> dict[str, Any]:
  examples = split.num_examples if split.is_counted else None
  batch = config_lib.mixture_rows(config)[0]  # of data.dataset
  return {
    'examples': examples,
    'steps': config.train.steps,
    'steps_per_epoch': examples / batch if examples else None,
    'epochs': config.train.steps * batch / examples if examples else None,
  }


def _compiled(serialized: bytes, target: chips.Target, in_program: float) -> dict[str, Any]:
  """The step as the target's compiler makes it, per chip; `in_program` are the operations of its products."""
  about = {'name': target.name, 'chips': target.chips, 'memory_bytes': target.chip.memory_bytes}
  try:
    found = compiler.compiled(serialized, target)
  except compiler.DoesNotFit as error:
    short = {} if error.short_bytes is None else {'short_bytes': error.short_bytes}
    return {**about, 'fits': False, **short, 'compiler': str(error)}
  return {
    **about,
    'fits': found.total_bytes <= target.chip.memory_bytes,
    'short_bytes': max(0, found.total_bytes - target.chip.memory_bytes),
    'argument_bytes': found.argument_bytes,
    'output_bytes': found.output_bytes,
    'temporary_bytes': found.temporary_bytes,
    'code_bytes': found.code_bytes,
    'total_bytes': found.total_bytes,
    'flops_loops_once': found.flops,
    'accessed_bytes_loops_once': found.accessed_bytes,
    'collectives': hlo.Program(found.text).collectives(),
    'flops_per_byte': in_program / found.accessed_bytes if found.accessed_bytes else None,
    'bound': _bound(in_program, found.accessed_bytes, target.chip),
  }


def _bound(in_program: float, accessed_bytes: float | None, chip: chips.Chip) -> str | None:
  """What a step waits for, if all goes at the peak."""
  if accessed_bytes is None:
    return None
  return 'compute' if in_program / chip.peak_flops > accessed_bytes / chip.bandwidth else 'memory'


def _estimate(config: ml_collections.ConfigDict, plan: dict[str, Any], target: chips.Target | None) -> dict[str, Any]:
  """Time, from stated peaks and a share of them that is assumed. Nothing of it is measured."""
  if not target or 'argument_bytes' not in plan['target']:
    return {'step_seconds': None, 'days': None}
  by_compute = plan['flops_per_step_and_replica'] / target.chip.peak_flops / ASSUMED_HFU
  by_memory = (plan['target']['accessed_bytes_loops_once'] or 0.0) / target.chip.bandwidth
  seconds = max(by_compute, by_memory)
  size = sum(found['bytes'] for found in plan['target']['collectives'].values())
  fabric = scaling.Fabric(target.chip.link, target.chip.linked, target.chip.network)
  return {
    'assumed_hfu': ASSUMED_HFU,
    'peak_flops': target.chip.peak_flops,
    'bandwidth': target.chip.bandwidth,
    'collective_seconds': _collective_seconds(size, target.chips, fabric),
    'step_seconds': seconds,
    'days': seconds * config.train.steps / 86400,
  }


def _collective_seconds(size: float, chips_together: int, fabric: scaling.Fabric) -> float | None:
  """All collectives as one all-reduce; None where the chips are more than stated links and network join."""
  try:
    return scaling.all_reduce_seconds(size, chips_together, fabric)
  except ValueError:
    return None


def _warnings(config: ml_collections.ConfigDict, plan: dict[str, Any]) -> list[str]:
  found = []
  checkpoint, target = plan['checkpoint'], plan['target']
  if checkpoint['save_seconds'] > checkpoint['grace_seconds']:
    found.append(
      f'a save of {words.size(checkpoint["bytes"])} takes {words.duration(checkpoint["save_seconds"])} at an assumed '
      f'{words.size(ASSUMED_BYTES_PER_SECOND)}/s, more than faults.grace_seconds={checkpoint["grace_seconds"]:g}: a '
      'notice may come too late to save'
    )
  if target and not target['fits']:
    short = f', short by {target["short_bytes"] / 2**30:.2f} GiB' if 'short_bytes' in target else ''
    found.append(f'does not fit{short}. {_advice(config)}')
  if left_out := plan['model_flops_not_counted']:
    found.append(f'not among the model FLOPs: {"; ".join(left_out)}')
  if once := plan['loops_counted_once']:
    found.append(_counted_once(once))
  if plan['data']['examples'] is None:
    found.append('the number of examples is not known where the set is not prepared, so epochs are not')
  return found


def _advice(config: ml_collections.ConfigDict) -> str:
  """What would help, of what the config has and has not done yet."""
  model, able = config.model, []
  if model.get('attention') == 'plain' and not model.get('dropout'):
    able.append('model.attention=blockwise')
  if model.get('head_chunks') == 1:
    able.append('model.head_chunks=8')
  if model.get('remat') == 'none':
    able.append('model.remat=blocks')
  able.append(f'train.micro_batches={2 * config.train.micro_batches}')
  return f'What would help: {", ".join(able)}, or a smaller train.global_batch_size'
