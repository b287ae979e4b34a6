"""The sections of the config that runtime/ reads."""

from __future__ import annotations

import ml_collections


def config(
  strategy: str = 'auto',
  cpu_devices: int = 1,
  tpu: str = '',
  policy: str = 'auto',
  xla: str = 'auto',
  deterministic: bool = True,
) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'deterministic': deterministic,
      'cluster': {'strategy': strategy, 'cpu_devices': cpu_devices, 'tpu': tpu},
      'precision': {'policy': policy, 'xla': xla},
    }
  ).lock()
