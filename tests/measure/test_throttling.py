"""What slows a process down is told by made-up files; what the machine does not tell is None."""

import sys
from types import SimpleNamespace

import pytest

from trainer.measure import throttling
from trainer.measure.throttling import Throttling

UNKNOWN = {
  'quota_periods': None, 'quota_seconds': None, 'thermal_events': None, 'frequency': None, 'gpu_reasons': None,
}  # fmt: skip


def write(root, path, text):
  file = root / path
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(str(text))


def test_what_nothing_tells_is_none_and_no_complaint(tmp_path):
  throttled = Throttling(root=str(tmp_path))
  throttled.look()
  assert throttled.found() == UNKNOWN
  assert throttling.complaint(UNKNOWN) == ''
  assert throttling.words(UNKNOWN).count('n/a') == 4


@pytest.mark.parametrize(
  ('groups', 'path', 'unit', 'seconds'),
  [
    ('0::/job/task\n', 'sys/fs/cgroup/job/cpu.stat', 'throttled_usec', 250_000),  # the quota of the group above
    ('0::/../..\n', 'sys/fs/cgroup/cpu.stat', 'throttled_usec', 250_000),  # in a container
    ('4:memory:/x\n3:cpu,cpuacct:/d/abc\n0::/\n', 'sys/fs/cgroup/cpu,cpuacct/cpu.stat', 'throttled_time', 25 * 10**7),
    ('1:cpu:/a\n', 'sys/fs/cgroup/cpu/a/cpu.stat', 'throttled_time', 25 * 10**7),
  ],
)  # fmt: skip
def test_a_quota(tmp_path, groups, path, unit, seconds):
  write(tmp_path, 'proc/self/cgroup', groups)
  write(tmp_path, path, f'nr_periods 10\nnr_throttled 3\n{unit} {seconds}\n')
  quiet, held = Throttling(root=str(tmp_path)), Throttling(root=str(tmp_path))
  assert quiet.found() == UNKNOWN | {'quota_periods': 0, 'quota_seconds': 0.0}
  assert throttling.complaint(quiet.found()) == ''
  write(tmp_path, path, f'nr_periods 20\nnr_throttled 8\n{unit} {3 * seconds}\n')
  found = held.found()
  assert found['quota_periods'] == 5 and found['quota_seconds'] == pytest.approx(0.5)
  assert throttling.complaint(found) == 'a CPU quota held the process back 5 times, 0.5 s in all'


def test_heat_counts_each_core_and_the_package_once(tmp_path):
  folder = 'sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count'
  for core in range(2):
    for kind in ('core', 'package'):
      write(tmp_path, folder.format(core, kind), 7)
  throttled = Throttling(root=str(tmp_path))
  for core in range(2):
    write(tmp_path, folder.format(core, 'core'), 8)
    write(tmp_path, folder.format(core, 'package'), 10)
  assert throttled.found()['thermal_events'] == 2 + 3
  assert throttling.complaint(throttled.found()) == 'cores were slowed down for their heat 5 times'


@pytest.mark.parametrize(
  ('nominal', 'value'), [('cpufreq/base_frequency', 2_000_000), ('acpi_cppc/nominal_freq', 2000)]
)
def test_a_frequency_is_held_against_the_nominal_one_of_the_fastest_core(tmp_path, nominal, value):
  throttled = Throttling(root=str(tmp_path))
  for core, kilohertz in ((0, 800_000), (1, 1_500_000)):
    write(tmp_path, f'sys/devices/system/cpu/cpu{core}/{nominal}', value)
    write(tmp_path, f'sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq', kilohertz)
  throttled.look()
  assert throttled.found()['frequency'] == pytest.approx(0.75)
  assert throttling.complaint(throttled.found()) == 'the fastest core ran at 75% of its nominal frequency'
  for _ in range(2):
    write(tmp_path, 'sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq', 3_100_000)
    throttled.look()
  assert throttling.complaint(throttled.found()) == ''


def test_reasons_of_a_gpu(tmp_path, monkeypatch):
  bits = {'0': 0x04, 'GPU-7': 0x40}
  driver = SimpleNamespace(
    nvmlInit=lambda: None,
    nvmlShutdown=lambda: None,
    nvmlDeviceGetHandleByIndex=lambda index: str(index),
    nvmlDeviceGetHandleByUUID=lambda name: name,
    nvmlDeviceGetCurrentClocksEventReasons=lambda handle: bits[handle],
  )
  monkeypatch.setitem(sys.modules, 'pynvml', driver)
  for visible, gpus, reasons, complaint in (
    ('', (0,), ['power cap'], ''),
    ('1,GPU-7', (1,), ['hardware thermal slowdown'], 'a GPU was slowed down: hardware thermal slowdown'),
  ):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    throttled = Throttling(gpus, root=str(tmp_path))
    throttled.look()
    assert throttled.found()['gpu_reasons'] == reasons
    assert throttling.complaint(throttled.found()) == complaint
  monkeypatch.setitem(sys.modules, 'pynvml', None)  # not installed
  throttled = Throttling((0,), root=str(tmp_path))
  throttled.look()
  assert throttled.found()['gpu_reasons'] is None
