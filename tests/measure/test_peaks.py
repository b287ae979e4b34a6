"""What a device can do at most: TPUs by what their hosts are called, GPUs by what their driver calls them."""

import pytest

from trainer.measure import peaks
from trainer.runtime.cluster import Cluster


@pytest.mark.parametrize(
  ('name', 'dtype', 'flops'),
  [
    ('v5litepod-8', 'bfloat16', 197e12),
    ('v5p-8', 'bfloat16', 459e12),
    ('v4-8', 'bfloat16', 275e12),
    ('v3-8', 'bfloat16', 61.5e12),  # of a core, which TensorFlow has as a device
    ('v5litepod-8', 'float32', None),
    ('v99-8', 'bfloat16', None),
    ('', 'bfloat16', None),
  ],
)
def test_a_tpu(name, dtype, flops, monkeypatch):
  monkeypatch.setenv('TPU_ACCELERATOR_TYPE', name)
  found = peaks.peak(Cluster('tpu', 'a test', 'tpu', 8), dtype)
  assert found['flops'] == flops and found['device'] == (name or 'TPU')


@pytest.mark.parametrize(
  ('name', 'dtype', 'flops'),
  [
    ('NVIDIA A100-SXM4-80GB', 'bfloat16', 312e12),
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989e12),
    ('NVIDIA H100 PCIe', 'bfloat16', 756e12),
    ('Tesla T4', 'float16', 65e12),
    ('Tesla T4', 'bfloat16', None),
    ('NVIDIA L40S', 'bfloat16', None),
    ('NVIDIA GeForce RTX 4090', 'float32', None),
  ],
)
def test_a_gpu(name, dtype, flops):
  assert peaks.gpu_peak(name, dtype) == flops
