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
  start_timeout_seconds: float = 600.0,
) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'deterministic': deterministic,
      'cluster': {'strategy': strategy, 'cpu_devices': cpu_devices, 'tpu': tpu},
      'precision': {'policy': policy, 'xla': xla},
      'faults': {'start_timeout_seconds': start_timeout_seconds, 'heartbeat_timeout_seconds': 10.0},
    }
  ).lock()
