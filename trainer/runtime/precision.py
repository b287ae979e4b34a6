"""Which dtype the model computes in, and whether XLA compiles it: a choice per device, with its reason in words.

What the config names is done. `auto` is, in this order: what the run has had on such a device since it began; what
`--mode=benchmark --search` has measured here for such a config (measured.py); and a table of what is usual.

Variables are float32 under every policy. `choose` decides and changes nothing; `apply` sets Keras' global policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.runtime import devices
from trainer.runtime.cluster import Cluster

POLICIES = ('float32', 'mixed_bfloat16', 'mixed_float16')
_KEPT = 'as this run began: '


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

  @property
  def code(self) -> int:
    """Policy and XLA as a number, for `of_code` on another process."""
    return POLICIES.index(self.policy) + len(POLICIES) * self.xla

  def record(self) -> dict[str, Any]:
    """What a run keeps, so that it goes on with the same; JSON-able."""
    reasons = {name: getattr(self, name).removeprefix(_KEPT) for name in ('policy_reason', 'xla_reason')}
    return {'policy': self.policy, 'xla': self.xla, **reasons}


def choose(
  config: Any,
  cluster: Cluster,
  kept: Mapping[str, Any] | None = None,
  measured: Mapping[str, Any] | None = None,
) -> Precision:
  """The precision for this cluster's devices.

  Args:
    config: the run's config; reads `precision.policy` and `precision.xla`.
    cluster: what `discover` found. Of several GPUs the least able one decides.
    kept: per device kind what the run has computed with (`Precision.record`); None where it begins.
    measured: 'policy', 'xla' and 'reason', where they were measured on such devices; what is kept goes before.

  Raises:
    ConfigError: the devices cannot do what the config asks for.
  """
  asked, kind = config.precision, cluster.device_kind
  capability = _capability(cluster) if kind == 'gpu' else (0, 0)
  policy, policy_reason = _policy(asked.policy, kind, capability)
  xla, xla_reason = _xla(asked.xla, kind)
  found = Precision(policy, xla, policy_reason, xla_reason)
  if kept and kind in kept:
    own = kept[kind]
    return _under_auto(
      found, asked, kind, own['policy'], own['xla'], _KEPT + own['policy_reason'], _KEPT + own['xla_reason']
    )
  if measured:
    found = _under_auto(found, asked, kind, measured['policy'], measured['xla'], measured['reason'], measured['reason'])
  if kept and asked.policy == 'auto':
    before = ', '.join(f'{record["policy"]} on a {name.upper()}' for name, record in kept.items())
    found = dataclasses.replace(found, policy_reason=f'{found.policy_reason} (this run has had {before})')
  return found


def _under_auto(
  found: Precision, asked: Any, kind: str, policy: str, xla: bool, policy_reason: str, xla_reason: str
) -> Precision:
  """`found` with another policy and XLA, where the config leaves them open and the device has a choice."""
  if asked.policy == 'auto':
    found = dataclasses.replace(found, policy=policy, policy_reason=policy_reason)
  if asked.xla == 'auto' and kind != 'tpu':
    found = dataclasses.replace(found, xla=xla, xla_reason=xla_reason)
  return found


def of_code(code: int, own: Precision) -> Precision:
  """What another process has chosen, by its `code`; `own` with its reasons, if that is the same."""
  if code == own.code:
    return own
  reason = 'as the chief has it'
  return Precision(POLICIES[code % len(POLICIES)], code >= len(POLICIES), reason, reason)


def candidates(config: Any, cluster: Cluster) -> list[tuple[str, str]]:
  """What the devices can do of what the config leaves open: values of (`precision.policy`, `precision.xla`).

  The first is what the others are held against: float32 without XLA, where that is open. float16 is a candidate where
  there are units for it and none for bfloat16, which needs no loss scale.

  Raises:
    ConfigError: the devices cannot do what the config asks for.
  """
  asked, kind = config.precision, cluster.device_kind
  capability = _capability(cluster) if kind == 'gpu' else (0, 0)
  _policy(asked.policy, kind, capability)
  _xla(asked.xla, kind)
  policies = ['float32']
  if kind == 'tpu' or capability >= (8, 0) or (kind == 'cpu' and devices.has_bfloat16(devices.cpu_units())):
    policies.append('mixed_bfloat16')
  elif capability >= (7, 0):
    policies.append('mixed_float16')
  if asked.policy != 'auto':
    policies = [asked.policy]
  compiled = [asked.xla] if kind == 'tpu' or asked.xla != 'auto' else ['off', 'on']
  return [(policy, xla) for policy in policies for xla in compiled]


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
    return 'float32', 'a CPU, and not measured here: --mode=benchmark --search tries what else it can do'
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
  return min(detail.get('compute_capability') or (0, 0) for detail in devices.gpu_details(cluster))
