"""What this machine computes on, by name: what a measurement of speed holds for, and what units it has."""

from __future__ import annotations

import os
import platform
from typing import Any

from trainer.runtime.cluster import Cluster

_CPUINFO = '/proc/cpuinfo'
# A virtual machine's CPU often has no telling name, so that its family, and its units for matrices and vectors, count.
_LABELS = ('vendor_id', 'model name', 'cpu family', 'model', 'CPU implementer', 'CPU part')
_UNITS = ('avx2', 'avx512f', 'avx512_bf16', 'avx512_fp16', 'amx_bf16', 'amx_fp16', 'sve', 'bf16', 'i8mm')
_BFLOAT16_UNITS = {'avx512_bf16', 'amx_bf16', 'bf16'}


def identity(cluster: Cluster) -> dict[str, Any]:
  """Kind, names and number of the devices of one process, and what else decides how fast they are; JSON-able."""
  found: dict[str, Any] = {'kind': cluster.device_kind, 'per_worker': cluster.local_devices}
  if cluster.device_kind == 'gpu':
    details = gpu_details(cluster)
    names = [str(detail.get('device_name', 'GPU')) for detail in details]
    return {
      **found,
      'names': names,
      'capabilities': [list(detail.get('compute_capability') or ()) for detail in details],
    }
  if cluster.device_kind == 'tpu':
    return {**found, 'names': [os.environ.get('TPU_ACCELERATOR_TYPE', 'TPU')]}
  return {**found, 'names': [processor()], 'units': cpu_units(), 'cores': usable_cores()}


def gpu_details(cluster: Cluster) -> list[dict[str, Any]]:
  """What the driver tells of each GPU of this process."""
  import tensorflow as tf

  listed = tf.config.list_physical_devices('GPU')
  return [tf.config.experimental.get_device_details(listed[index]) for index in cluster.gpus]


def usable_cores() -> int:
  """Cores that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def processor() -> str:
  """Maker, name, family and model of the CPU, as far as the system tells."""
  facts = _first_processor()
  return ', '.join(facts[label] for label in _LABELS if label in facts) or platform.processor() or platform.machine()


def cpu_units() -> list[str]:
  """The units for vectors and matrices that the CPU says it has; [] where the system does not tell."""
  facts = _first_processor()
  flags = set((facts.get('flags') or facts.get('Features') or '').split())
  return [unit for unit in _UNITS if unit in flags]


def has_bfloat16(units: list[str]) -> bool:
  """Whether a CPU with these units multiplies bfloat16 numbers itself."""
  return bool(_BFLOAT16_UNITS & set(units))


def _first_processor() -> dict[str, str]:
  try:
    with open(_CPUINFO) as file:
      text = file.read().partition('\n\n')[0]
  except OSError:
    return {}
  pairs = (line.partition(':') for line in text.splitlines())
  return {name.strip(): value.strip() for name, _, value in pairs}
