"""What a device can do at most, by its maker or, of a CPU, by a product of matrices in the same run."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import tensorflow as tf

from trainer.plan.chips import GPU_PEAKS, TPUS
from trainer.runtime.cluster import Cluster

# What TPU hosts call their slices, where that is not the kind of chip.
_SLICES = {'v5litepod': 'v5e'}

_SIDE, _TIMES = 2048, 7


def peak(where: Cluster, dtype: str) -> dict[str, Any]:
  """Operations per second of one device in a dtype.

  Args:
    where: what the run is on.
    dtype: in which the model computes.

  Returns:
    'device', its name; 'flops', None for a device or dtype that is not known; 'source', in words. Of a CPU it is what
    the whole machine reaches with all cores, whatever the logical devices that it is split into.
  """
  if where.device_kind == 'cpu':
    return {
      'device': 'CPU',
      'flops': _measured(dtype),
      'source': f'measured in this run: the median of {_TIMES} products of {_SIDE} x {_SIDE} matrices of {dtype}',
    }
  if where.device_kind == 'tpu':
    slice_name = os.environ.get('TPU_ACCELERATOR_TYPE', '')
    kind = slice_name.partition('-')[0]
    chip = TPUS.get(_SLICES.get(kind, kind))
    known = chip.peak_flops if chip and dtype == 'bfloat16' else None
    return {'device': slice_name or 'TPU', 'flops': known, 'source': "the maker's figure" if known else 'not known'}
  device = tf.config.list_physical_devices('GPU')[where.gpus[0]]
  name = tf.config.experimental.get_device_details(device).get('device_name', 'GPU')
  known = gpu_peak(name, dtype)
  return {'device': name, 'flops': known, 'source': "the maker's figure" if known else 'not known'}


def gpu_peak(name: str, dtype: str) -> float | None:
  """That of a GPU by the name which its driver gives it; None if it is not in the table."""
  words = name.replace('-', ' ').split()
  for part, by_dtype in GPU_PEAKS.items():
    if all(word in words for word in part.split()):
      return by_dtype.get(dtype)
  return None


def _measured(dtype: str) -> float:
  """Operations per second of a product of matrices."""
  with tf.device('CPU:0'):
    matrix = tf.cast(tf.random.stateless_uniform([_SIDE, _SIDE], [1, 2]), dtype)
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0], autograph=False, jit_compile=False)
    product().numpy()
    seconds = []
    for _ in range(_TIMES):
      started = time.monotonic()
      product().numpy()
      seconds.append(time.monotonic() - started)
  return 2 * _SIDE**3 / statistics.median(seconds)
