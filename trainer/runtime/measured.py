"""What `--mode=benchmark --search` has measured on this machine: a file per config, devices and versions, in a cache.

The files lie in $XDG_CACHE_HOME/tf-trainer/precision (XDG_CACHE_HOME is ~/.cache unless set). The name of one is a hash
of its key, which is all that decides how fast a step is and what can be computed with; the key itself stands in it too.
One that is damaged, or has another key, is ignored with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from absl import logging

import trainer
from trainer import durable
from trainer.runtime import devices
from trainer.runtime.cluster import Cluster
from trainer.runtime.precision import POLICIES

VERSION = 1
# Of the optimizer all but the course of the learning rate; of these only whether there is any.
_OPTIMIZER = ('name', 'options', 'decay_all', 'moment_dtype', 'ema_dtype', 'shard_state')
_OPTIMIZER_SWITCHES = ('weight_decay', 'clip_norm', 'ema_decay')
_DATA = ('dataset', 'mixture', 'pack_tokens', 'pack_tokenizer', 'pack_vocabulary')
_TRAIN = ('global_batch_size', 'micro_batches', 'on_nonfinite')
# Variables that decide which kernels are taken.
_ENVIRONMENT = (
  'XLA_FLAGS',
  'TF_XLA_FLAGS',
  'TF_ENABLE_ONEDNN_OPTS',
  'ONEDNN_MAX_CPU_ISA',
  'ONEDNN_DEFAULT_FPMATH_MODE',
)


def folder() -> str:
  """Where the measurements of this user are."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return os.path.join(home, 'tf-trainer', 'precision')


def key(config: Any, cluster: Cluster) -> dict[str, Any]:
  """What a measurement holds for, as JSON gives it back.

  Args:
    config: the run's, checked; the data's shapes follow from the names in it.
    cluster: what `discover` found.
  """
  import keras
  import tensorflow as tf

  optimizer = {name: config.optimizer[name] for name in _OPTIMIZER}
  optimizer |= {name: bool(config.optimizer[name]) for name in _OPTIMIZER_SWITCHES}
  found = {
    'config': {
      'precision': {'policy': config.precision.policy, 'xla': config.precision.xla},
      'deterministic': config.deterministic,
      'model': config.model.to_dict(),
      'task': config.task.to_dict(),
      'data': {name: config.data[name] for name in _DATA},
      'optimizer': optimizer,
      'train': {name: config.train[name] for name in _TRAIN},
    },
    'devices': devices.identity(cluster),
    'strategy': cluster.strategy,
    'workers': cluster.num_workers,
    'versions': {'trainer': trainer.__version__, 'tensorflow': tf.__version__, 'keras': keras.__version__},
    'environment': {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
  }
  return json.loads(json.dumps(found))


def path(of: Mapping[str, Any]) -> str:
  """The file of a key."""
  text = json.dumps(of, sort_keys=True)
  return os.path.join(folder(), f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json')


def write(of: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
  """Keeps a choice: 'policy', 'xla', 'reason' and what else is to be known of it; returns the file's name.

  Raises:
    OSError: it cannot be written; what was there is untouched.
  """
  name = path(of)
  os.makedirs(os.path.dirname(name), exist_ok=True)
  own = f'{name}.{os.getpid()}'  # another process may write the same
  with open(own, 'w') as file:
    file.write(json.dumps({'version': VERSION, 'key': of, **choice}, indent=2) + '\n')
  durable.settle(own, name)
  return name


def find(config: Any, cluster: Cluster) -> dict[str, Any] | None:
  """What was measured for such a config on such devices; None where nothing was, or `auto` leaves nothing open."""
  if 'auto' not in (config.precision.policy, config.precision.xla) or not os.path.isdir(folder()):
    return None
  of = key(config, cluster)
  name = path(of)
  try:
    with open(name, 'rb') as file:
      found = json.load(file)
    if found['version'] != VERSION or found['key'] != of:
      raise ValueError('it is of another program, or of another config')
    if found['policy'] not in POLICIES or not isinstance(found['xla'], bool) or not isinstance(found['reason'], str):
      raise ValueError('its values make no sense')
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    logging.warning('%s is ignored (%s: %s): remove it, or measure again', name, type(error).__name__, error)
    return None
  return found
