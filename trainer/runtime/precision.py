"""Which dtype the model computes in, and whether XLA compiles it: a choice per device, with its reason in words.

Variables are float32 under every policy. `choose` decides and changes nothing; `apply` sets Keras' global policy.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer.errors import ConfigError
from trainer.runtime.cluster import Cluster


@dataclasses.dataclass(frozen=True)
class Precision:
  """What was chosen.

  Attributes:
    policy: 'float32', 'mixed_bfloat16' or 'mixed_float16', as Keras names them.
    xla: whether to compile with `jit_compile=True`.
    policy_reason: why this policy, for the banner.
    xla_reason: why XLA or why not, for the banner.
  """

  policy: str
  xla: bool
  policy_reason: str
  xla_reason: str


def choose(config: Any, cluster: Cluster) -> Precision:
  """The precision for this cluster's devices.

  Args:
    config: the run's config; reads `precision.policy` and `precision.xla`.
    cluster: what `discover` found. Of several GPUs the least able one decides.

  Raises:
    ConfigError: the devices cannot do what the config asks for.
  """
  capability = _capability(cluster) if cluster.device_kind == 'gpu' else (0, 0)
  policy, policy_reason = _policy(config.precision.policy, cluster.device_kind, capability)
  xla, xla_reason = _xla(config.precision.xla, cluster.device_kind)
  return Precision(policy, xla, policy_reason, xla_reason)


def apply(precision: Precision) -> None:
  """Makes the policy Keras' default for the layers that are created from now on."""
  import keras

  keras.config.set_dtype_policy(precision.policy)


def _policy(asked: str, kind: str, capability: tuple[int, int]) -> tuple[str, str]:
  """(policy, reason). `capability` is the CUDA compute capability of a GPU, (0, 0) where that is unknown."""
  if asked == 'mixed_float16' and kind == 'tpu':
    raise ConfigError(
      "precision.policy='mixed_float16', but a TPU computes in bfloat16: set 'mixed_bfloat16' or 'auto'"
    )
  version = '{}.{}'.format(*capability)
  if asked != 'auto':
    reason = f'precision.policy={asked!r} asks for it'
    if asked == 'mixed_bfloat16' and kind == 'gpu' and capability < (8, 0):
      reason += f'; this GPU (compute capability {version}) has no bfloat16 units, so it is slower than float32'
    return asked, reason
  if kind == 'tpu':
    return 'mixed_bfloat16', 'a TPU multiplies in bfloat16'
  if kind == 'cpu':
    return 'float32', 'a CPU; where it has bfloat16 units, precision.policy=mixed_bfloat16 is faster'
  if capability >= (8, 0):
    return 'mixed_bfloat16', f'a GPU of compute capability {version} has bfloat16 units, and no loss scale is needed'
  if capability >= (7, 0):
    return 'mixed_float16', f'a GPU of compute capability {version} has float16 units, but none for bfloat16'
  unknown = 'of unknown compute capability' if capability == (0, 0) else f'of compute capability {version}'
  return 'float32', f'a GPU {unknown}, without units for a shorter dtype that we know of'


def _xla(asked: str, kind: str) -> tuple[bool, str]:
  """(whether to ask for jit_compile, reason)."""
  if kind == 'tpu':
    if asked == 'off':
      raise ConfigError("precision.xla='off', but a TPU runs nothing that XLA has not compiled: set 'auto'")
    return False, 'the TPU compiles everything anyway'
  if asked != 'auto':
    return asked == 'on', f'precision.xla={asked!r} asks for it'
  if kind == 'gpu':
    return True, 'a GPU: fewer kernels and less memory traffic'
  return False, 'a CPU, where TensorFlow without XLA is faster on most models'


def _capability(cluster: Cluster) -> tuple[int, int]:
  """The least CUDA compute capability of this process' GPUs; (0, 0) where one does not tell (AMD)."""
  import tensorflow as tf

  listed = tf.config.list_physical_devices('GPU')
  details = [tf.config.experimental.get_device_details(listed[index]) for index in cluster.gpus]
  return min(detail.get('compute_capability') or (0, 0) for detail in details)
