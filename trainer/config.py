"""Every field of the config: its default, unit and meaning; and the rules that the values obey.

A config file (configs/*.py) is a Python file with `get_config(variant='')` that calls `base` and changes what differs.
The fields of a model family or a task stand in its own file (trainer/models/*.py, trainer/tasks/*.py, `FIELDS`) and are
composed here, so that each field is declared once. `check` runs every rule that needs no device and no data, before
TensorFlow touches either; the rules that need them stand where the facts are known (`check_topology` here, the data's
in trainer/data/source.py).
"""

from __future__ import annotations

import fractions
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import ml_collections

from trainer import models, tasks, tokens
from trainer.checkpoint import warm_start
from trainer.errors import ConfigError
from trainer.explain import explaining
from trainer.fields import Field, above, at_least, each, fraction, nearest, one_of, shares
from trainer.optim import optimizers, rounding, schedules, sharding
from trainer.storage import bucket

_CREDENTIALS = re.compile(r'://[^/\s]*@')

# Field(default, meaning, rule, fixed=True where a change on resume would break the run)
SECTIONS: dict[str, dict[str, Field]] = {
  '': {
    'seed': Field(0, 'seed of weights, data order, augmentation and dropout', at_least(0), fixed=True),
    'deterministic': Field(True, 'same run, same bytes; slower on a GPU, and an error where an op cannot be'),
  },
  'cluster': {
    'strategy': Field(
      'auto', 'how replicas are laid out', one_of('auto', 'one', 'mirrored', 'multi_worker', 'tpu')
    ),
    'cpu_devices': Field(1, 'split the CPU of this process into so many logical devices', at_least(1)),
    'tpu': Field('', "name or address of the TPU; 'local' for the one in this machine; empty: none"),
  },
  'precision': {
    'policy': Field(
      'auto',
      'dtype of the computation; variables stay float32; auto: as measured by --mode=benchmark --search, or as usual',
      one_of('auto', 'float32', 'mixed_bfloat16', 'mixed_float16'),
      fixed=True,
    ),
    'xla': Field('auto', 'compile forward, backward and update with XLA; auto: likewise', one_of('auto', 'on', 'off')),
  },
  'data': {
    'dataset': Field('', "TFDS name with optional config and version: 'name', 'name/config', 'name:1.0.0'", fixed=True),
    'mixture': Field((), "other sets and their shares of each batch, (('NAME', 0.25), ...); the rest is of data.dataset", shares, fixed=True),
    'data_dir': Field('', 'TFDS data directory; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets'),
    'train_split': Field('train', "TFDS split to train on; slices as in 'train[:90%]'", fixed=True),
    'eval_split': Field('test', 'TFDS split to evaluate on, whole and once'),
    'source': Field(
      'auto', 'where records come from', one_of('auto', 'memory', 'lanes', 'synthetic'), fixed=True
    ),
    'lanes': Field(0, 'virtual readers of a split, a divisor of the batch; 0: the largest up to 64', at_least(0), fixed=True),
    'chunk_records': Field(64, 'records read in one piece by a lane', at_least(1), fixed=True),
    'window_records': Field(256, 'records that a lane shuffles among each other', at_least(1), fixed=True),
    'pack_tokens': Field(0, 'texts are joined and cut into so many tokens that a model sees at once; 0: they stay', at_least(0), fixed=True),
    'pack_stride': Field(0, 'tokens from the beginning of one training example to the next; 0: pack_tokens, no overlap', at_least(0), fixed=True),
    'pack_feature': Field('', 'text that is packed; empty: the only one', fixed=True),
    'pack_tokenizer': Field('bytes', "what a token is: 'bytes'; 'bpe', learnt from the set's texts; or the path of a tokenizer.json", tokens.check_tokenizer, fixed=True),
    'pack_vocabulary': Field(8192, 'tokens of a vocabulary that is learnt', at_least(len(tokens.BYTES)), fixed=True),
    'memory_budget_bytes': Field(2 * 1024**3, 'largest prepared split that is kept in memory', at_least(0)),
  },
  'optimizer': {
    'name': Field('adamw', 'a Keras optimizer', optimizers.check_name, fixed=True),
    'learning_rate': Field(1e-3, 'peak learning rate', above(0)),
    'schedule': Field('cosine', 'course of the learning rate after the warm-up', one_of(*schedules.NAMES)),
    'warmup_steps': Field(0, 'steps of linear rise from 0 to the peak', at_least(0)),
    'decay_steps': Field(0, 'steps after the warm-up over which the schedule runs; 0: all that are left', at_least(0)),
    'end_factor': Field(0.0, 'learning rate at the end of the schedule, as a share of the peak', at_least(0)),
    'decay_rate': Field(0.1, 'factor per drop (piecewise) or per decay_steps (exponential, inverse_time)', above(0)),
    'boundaries': Field((), 'steps at which the piecewise schedule drops by decay_rate; a tuple of int'),
    'power': Field(1.0, 'exponent of the polynomial schedule; 1 is linear', above(0)),
    'weight_decay': Field(0.0, 'decoupled weight decay per step, times the learning rate', at_least(0)),
    'decay_all': Field(False, 'weight decay on biases and normalisation too'),
    'clip_norm': Field(0.0, 'largest global L2 norm of the gradient; 0: no clipping', at_least(0)),
    'ema_decay': Field(0.0, 'decay per step of the averaged weights, which are evaluated; 0: none', fraction, fixed=True),
    'moment_dtype': Field('float32', "dtype in which the optimizer's moments are kept; in bfloat16 they are rounded up or down at random", one_of(*rounding.DTYPES), fixed=True),
    'ema_dtype': Field('float32', 'the same of the averaged weights', one_of(*rounding.DTYPES), fixed=True),
    'shard_state': Field(False, 'each replica keeps 1/N of the moments, of the averaged weights and of the float32 weights, instead of all'),
    'options': Field(
      '', "further arguments of the Keras optimizer as JSON, e.g. '{\"momentum\": 0.9}'", optimizers.check_options
    ),
  },
  'train': {
    'steps': Field(1000, 'optimizer steps of the whole run', at_least(1)),
    'global_batch_size': Field(64, 'examples per step over all replicas', at_least(1), fixed=True),
    'micro_batches': Field(1, 'pieces of a replica batch whose gradients are added up before the step', at_least(1)),
    'steps_per_loop': Field(0, 'steps run without returning to Python; 0: as many as take half a second', at_least(0)),
    'pause_at_step': Field(0, 'stop after this step, saved, with exit code 75; without it, or with a later one, the same run goes on; 0: none', at_least(0)),
    'log_every_steps': Field(100, 'steps averaged in one row of metrics', at_least(1)),
    'on_nonfinite': Field('raise', 'what a loss or gradient that is not finite does: end the run; skip the step; or restore the last checkpoint and skip the data since', one_of('raise', 'skip', 'rollback')),
    'spike_deviations': Field(0.0, 'a loss so many standard deviations above its running mean is a spike; 0: no guard', at_least(0), fixed=True),
    'on_spike': Field('raise', 'what a spike does, as on_nonfinite', one_of('raise', 'skip', 'rollback')),
    'max_skipped_steps': Field(100, 'steps that may be skipped in the whole run (not for a loss scale) before it ends', at_least(0)),
    'max_rollbacks': Field(3, 'times that the run may roll back before it ends', at_least(0)),
  },
  'eval': {
    'every_steps': Field(0, 'steps between evaluations; 0: at the end only', at_least(0)),
    'global_batch_size': Field(0, 'examples per evaluation step over all replicas; 0: as in training', at_least(0)),
    'pictures': Field(0, 'examples whose predictions TensorBoard shows after each evaluation, from the beginning of the split', at_least(0)),
    'statistics': Field(False, 'TensorBoard shows after each evaluation the norms of gradients and weights, and mean, deviation and zeros of the outputs, of each block of the model'),
    'best_metric': Field('auto', "what names the best checkpoint; 'auto': the task's own; empty: none", fixed=True),
    'best_mode': Field('auto', 'whether the largest or the smallest is best', one_of('auto', 'max', 'min'), fixed=True),
  },
  'checkpoint': {
    'every_steps': Field(0, 'steps between checkpoints; 0: by every_seconds and at the end only', at_least(0)),
    'every_seconds': Field(600.0, 'seconds between checkpoints; 0: by every_steps only', at_least(0)),
    'keep': Field(3, 'newest checkpoints that are kept', at_least(1)),
    'keep_best': Field(1, 'best checkpoints that are kept beside them', at_least(0)),
  },
  'init_from': warm_start.FIELDS,
  'profile': {
    'at_step': Field(0, 'trace this step and those of its block, for TensorBoard; 0: none', at_least(0)),
    'steps': Field(10, 'steps that a trace covers at least; it ends with a block', at_least(1)),
    'slow_factor': Field(0.0, 'trace when the steps of a block took more than so many times the median; 0: never', at_least(0)),
    'slow_every_seconds': Field(600.0, 'least time between two such traces', at_least(0)),
    'slow_most': Field(5, 'most such traces of one attempt', at_least(1)),
  },
  'benchmark': {
    'windows': Field(20, 'windows measured with each kind of input', at_least(2)),
    'window_seconds': Field(1.0, 'about how long a window takes; at least a step', above(0)),
    'warmup_windows': Field(40, 'most windows of a warm-up, each a quarter as long', at_least(1)),
    'single_steps': Field(100, 'steps that are timed one by one, for percentiles', at_least(1)),
    'largest_foreign_load': Field(0.1, 'share of the cores that other programs may take; with more the numbers are not valid', above(0)),
  },
  'diagnose': {
    'steps': Field(200, 'steps of modes lr_test and overfit', at_least(20)),
    'lowest_rate': Field(1e-6, 'learning rate at which lr_test begins', above(0)),
    'highest_rate': Field(10.0, 'learning rate at which it ends, if the loss has not diverged before', above(0)),
  },
  'samples': {
    'first': Field(12, 'examples, from the beginning, that modes samples and inspect show', at_least(0)),
    'worst': Field(12, 'examples with the largest loss that mode samples shows', at_least(0)),
  },
  'export': {
    'formats': Field(('keras', 'safetensors', 'tflite'), 'what mode export writes beside the SavedModel', each(one_of('keras', 'safetensors', 'tflite'))),
    'examples': Field(5, 'examples of data.eval_split that go with an export as files, to try it on', at_least(0)),
    'check_examples': Field(1000, 'examples of data.eval_split that export and checkpoint are compared on', at_least(1)),
  },
  'explain': explaining.FIELDS,
  'storage': bucket.FIELDS,
  'faults': {
    'grace_seconds': Field(30.0, 'seconds from a notice (SIGTERM, preemption) until this machine is taken away', above(0)),
    'max_runtime_seconds': Field(0.0, 'seconds after which this attempt is to have ended, with all saved; 0: no limit', at_least(0)),
    'metadata_host': Field('auto', "host[:port] of the cloud's metadata server; 'auto': GCE_METADATA_HOST, or Google's own unless NO_GCE_CHECK=true; empty: none"),
    'heartbeat_timeout_seconds': Field(10.0, 'silence after which a worker counts as lost', at_least(1)),
    'start_timeout_seconds': Field(600.0, 'longest wait of the workers for each other, and for the data, before the first step', above(0)),
    'restore_timeout_seconds': Field(1800.0, 'longest time that restoring a checkpoint may take', above(0)),
    'compile_timeout_seconds': Field(3600.0, 'longest time that the first block of steps may take', above(0)),
    'step_timeout_seconds': Field(300.0, 'a block of steps may take this long, if not longer by step_timeout_factor', above(0)),
    'step_timeout_factor': Field(20.0, 'a block of steps may take this many times the 99th percentile of a step so far, per step', at_least(2)),
    'eval_timeout_seconds': Field(7200.0, 'longest time that an evaluation may take', above(0)),
    'save_timeout_seconds': Field(1800.0, 'longest time that training may wait for a save', above(0)),
    'barrier_timeout_seconds': Field(1800.0, 'longest wait of the workers for each other at the end', above(0)),
  },
}  # fmt: skip


def base(*, task: str, model: str) -> ml_collections.ConfigDict:
  """A locked config with every field at its default, for a task and a model family by name.

  Raises:
    ConfigError: there is no such task or family; the message names the nearest.
  """
  config = ml_collections.ConfigDict()
  for section, table in SECTIONS.items():
    part = {name: field.default for name, field in table.items()}
    config.update(part if not section else {section: part})
  config.task = {'name': task, **{n: f.default for n, f in tasks.fields(task).items()}}
  config.model = {'name': model, **{n: f.default for n, f in models.fields(model).items()}}
  return config.lock()


def smoke(config: ml_collections.ConfigDict) -> None:
  """Makes a config's variant `smoke`: a few steps on synthetic input, with rows, evaluations and a save among them.

  Batches are small, and the evaluation is of one and a half of them. A config whose model takes long to compile makes
  it smaller itself.
  """
  config.data.source = 'synthetic'
  config.data.eval_split = f'{config.data.eval_split.partition("[")[0]}[:12]'
  config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 2)
  config.train.steps = 6
  config.train.global_batch_size = config.eval.global_batch_size = 8
  config.train.log_every_steps = 2
  config.eval.every_steps = 3


def declared(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str, Field]]:
  """(section, name, field) of every field that this config may have, given its task and model family."""
  for section, table in SECTIONS.items():
    for name, field in table.items():
      yield section, name, field
  yield 'task', 'name', Field('', 'what is learnt', tasks.check_name, fixed=True)
  yield from (('task', name, field) for name, field in tasks.fields(config.task.name).items())
  yield 'model', 'name', Field('', 'the model family', models.check_name, fixed=True)
  yield from (('model', name, field) for name, field in models.fields(config.model.name).items())


def check(config: ml_collections.ConfigDict) -> None:
  """Checks every rule that needs neither a device nor the data.

  Raises:
    ConfigError: a field is unknown or missing, a value breaks its rule, or two values do not fit together.
  """
  for part in ('task', 'model'):
    if part not in config or 'name' not in config[part]:
      raise ConfigError(f'the config has no {part}.name: build it with trainer.config.base(task=..., model=...)')
  known = {_path(section, name): field for section, name, field in declared(config)}
  present = flatten(config)
  for path in present:
    if path not in known:
      raise ConfigError(f'unknown config field {path!r}{nearest(path, known)}')
  for path, field in known.items():
    if path not in present:
      raise ConfigError(f'config field {path!r} is missing: build the config with trainer.config.base')
    value = present[path]
    if not _fits(value, field.default):
      raise ConfigError(f'{path}={value!r} is of type {type(value).__name__}, must be {type(field.default).__name__}')
    # Not even the error may repeat it: it is written to config.json, run.json and logs otherwise.
    if isinstance(value, str) and _CREDENTIALS.search(value):
      raise ConfigError(f'{path} is an address with a user or a password in it: give credentials by the environment')
    complaint = field.rule(value) if field.rule else ''
    if complaint:
      raise ConfigError(f'{path}={value!r} {complaint}')
  _check_across(config)


def _check_across(config: ml_collections.ConfigDict) -> None:
  """The rules between fields; each says which field to change."""
  data, optimizer, train, batch = config.data, config.optimizer, config.train, config.train.global_batch_size
  if not data.dataset:
    raise ConfigError('data.dataset is empty: name a TFDS dataset')
  if batch % train.micro_batches:
    raise ConfigError(f'train.global_batch_size={batch} is not divisible by train.micro_batches={train.micro_batches}')
  if data.lanes > batch:
    raise ConfigError(f'data.lanes={data.lanes} is more than train.global_batch_size={batch}: lower data.lanes')
  rows = mixture_rows(config)
  for share in rows:
    if data.lanes and share % data.lanes:
      what = f'{share} examples of a set in a batch are' if len(rows) > 1 else f'train.global_batch_size={batch} is'
      raise ConfigError(f'{what} not divisible by data.lanes={data.lanes}')
  if optimizer.warmup_steps > train.steps:
    raise ConfigError(f'optimizer.warmup_steps={optimizer.warmup_steps} is more than train.steps={train.steps}')
  if data.pack_stride > data.pack_tokens:
    raise ConfigError(
      f'data.pack_stride={data.pack_stride} is more than data.pack_tokens={data.pack_tokens}: what lies between would '
      'never be learnt'
    )
  schedules.check(optimizer)
  optimizers.arguments(optimizer)
  if optimizer.shard_state:
    sharding.check(optimizer.name)
  if data.source != 'synthetic' and not data.eval_split:
    raise ConfigError('data.eval_split is empty: name a split to evaluate on')


def check_topology(config: ml_collections.ConfigDict, replicas: int, workers: int) -> None:
  """Checks the rules between the config and the number of replicas and worker processes.

  Raises:
    ConfigError: a batch cannot be shared out evenly; the message names the fields.
  """
  batch = config.train.global_batch_size
  pieces = replicas * config.train.micro_batches
  if batch % pieces:
    raise ConfigError(
      f'train.global_batch_size={batch} is not divisible by {replicas} replicas x {config.train.micro_batches} '
      f'micro-batches: make it a multiple of {pieces}'
    )
  rows = mixture_rows(config)
  if len(rows) > 1 and math.gcd(*rows) % replicas:
    raise ConfigError(
      f'data.mixture: a batch has {", ".join(map(str, rows))} examples of its sets, which {replicas} replicas cannot '
      f'share: choose weights and train.global_batch_size so that each number is a multiple of {replicas}'
    )
  if eval_batch_size(config) % replicas:
    raise ConfigError(f'eval.global_batch_size={eval_batch_size(config)} is not divisible by {replicas} replicas')


def mixture_rows(config: ml_collections.ConfigDict) -> list[int]:
  """How many examples of a global batch are of `data.dataset`, and of each other set of the mixture.

  Raises:
    ConfigError: a weight gives no whole number of examples, or nothing is left for `data.dataset`.
  """
  batch, rows = config.train.global_batch_size, []
  for name, weight in config.data.mixture:
    exact = fractions.Fraction(str(weight)) * batch
    whole = round(exact)
    # A weight may be a fraction that decimals only come near to.
    if whole < 1 or abs(exact - whole) > fractions.Fraction(1, 1000):
      near = sorted({max(1, math.floor(exact)), math.floor(exact) + 1})
      raise ConfigError(
        f'data.mixture: {weight:g} of train.global_batch_size={batch} is no whole number of examples of {name!r}: take '
        f'{" or ".join(f"{each / batch:.6g}" for each in near)}, or another batch'
      )
    rows.append(whole)
  if sum(rows) >= batch:
    raise ConfigError(
      f'data.mixture leaves nothing of a batch of {batch} for data.dataset: the sum of its weights must be below 1'
    )
  return [batch - sum(rows), *rows]


def lanes(config: ml_collections.ConfigDict, batch: int) -> int:
  """Number of lanes of a streamed split of which a batch has so many examples: any topology reads the same batches."""
  return config.data.lanes or max(count for count in range(1, min(64, batch) + 1) if batch % count == 0)


def alone(config: ml_collections.ConfigDict, *, made_up: bool) -> ml_collections.ConfigDict:
  """A copy for one device of this process, whatever the config says; locked.

  Args:
    config: checked.
    made_up: whether examples are made up, so that the data need not be there.
  """
  copy = config.copy_and_resolve_references()
  with copy.unlocked():
    copy.cluster.update({'strategy': 'one', 'cpu_devices': 1, 'tpu': ''})
    if made_up:
      copy.data.source = 'synthetic'
  return copy.lock()


def eval_batch_size(config: ml_collections.ConfigDict) -> int:
  """Examples per evaluation step over all replicas."""
  return config.eval.global_batch_size or config.train.global_batch_size


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
  """The config as {'train.steps': 1000, ...}; tuples stay whole."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    path = _path(prefix, name)
    if isinstance(value, ml_collections.ConfigDict | dict):
      flat.update(flatten(value, path))
    else:
      flat[path] = value
  return flat


def to_json(config: ml_collections.ConfigDict) -> str:
  """The effective config as indented JSON, fields in the order of their declaration."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=False) + '\n'


def changes(config: ml_collections.ConfigDict, before: dict[str, Any]) -> list[tuple[str, Any, Any, bool]]:
  """What differs from the config of an earlier attempt.

  Args:
    config: the config of this attempt, checked.
    before: the parsed config.json of the earlier attempt.

  Returns:
    (path, earlier value, value now, whether the change would break the run) for each field that differs. A field that
    only one of the two knows (another version of this program) has None on the other side and breaks nothing.
  """
  fixed = {_path(section, name) for section, name, field in declared(config) if field.fixed}
  old = {path: _plain(value) for path, value in flatten(before).items()}
  new = {path: _plain(value) for path, value in flatten(config).items()}
  return [
    (path, old.get(path), new.get(path), path in fixed and path in old)
    for path in sorted(old.keys() | new.keys())
    if old.get(path) != new.get(path)
  ]


def _path(section: str, name: str) -> str:
  return f'{section}.{name}' if section else name


def _plain(value: Any) -> Any:
  """A value as JSON gives it back, so that a tuple equals the list that it became."""
  return json.loads(json.dumps(value))


def _fits(value: Any, default: Any) -> bool:
  """Whether a value has the type of the field's default; an int is good where a float is asked for."""
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, float):
    return isinstance(value, int | float)
  if isinstance(default, tuple):
    return isinstance(value, tuple | list)
  return isinstance(value, type(default))
