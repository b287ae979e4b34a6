"""What cluster.discover makes of a machine, a config and TF_CONFIG. Devices are counted by a fake."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.runtime.settings import config
from trainer.errors import ConfigError
from trainer.runtime import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
TWO = ['host0:2222', 'host1:2222']


@pytest.fixture(autouse=True)
def machine(monkeypatch):
  """A function that says which devices TensorFlow finds; at first none but a CPU. No launcher's variable is set."""
  for name in ('TF_CONFIG', 'CUDA_VISIBLE_DEVICES', 'TPU_NAME', 'KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS'):
    monkeypatch.delenv(name, raising=False)

  def has(gpus: int = 0, tpus: int = 0) -> None:
    monkeypatch.setattr(cluster, '_count', lambda kind: {'GPU': gpus, 'TPU': tpus}[kind])

  has()
  return has


@pytest.fixture
def tf_config(monkeypatch):
  def put(workers=TWO, kind='worker', index=0, chief=None):
    tasks = {'worker': workers} | ({'chief': chief} if chief else {})
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': tasks, 'task': {'type': kind, 'index': index}}))

  return put


def refusal(**fields) -> str:
  """The message of the ConfigError that such a config meets, which is one line."""
  with pytest.raises(ConfigError) as error:
    cluster.discover(config(**fields))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_one_cpu():
  found = cluster.discover(config())
  assert (found.strategy, found.device_kind, found.local_devices, found.replicas) == ('one', 'cpu', 1, 1)
  assert (found.workers, found.num_workers, found.worker_index, found.is_chief) == ((), 1, 0, True)
  assert found.reason.startswith('this process has 1 CPU device')


def test_a_gpu_that_tensorflow_cannot_use_is_pointed_out(monkeypatch):
  monkeypatch.setattr(pathlib.Path, 'is_dir', lambda path: str(path) == '/proc/driver/nvidia/gpus')
  assert "TensorFlow cannot use this machine's NVIDIA GPU" in cluster.discover(config()).reason
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
  assert 'NVIDIA' not in cluster.discover(config()).reason


def test_logical_cpu_devices():
  found = cluster.discover(config(cpu_devices=4))
  assert (found.strategy, found.device_kind, found.local_devices, found.replicas) == ('mirrored', 'cpu', 4, 4)
  assert found.reason == 'cluster.cpu_devices splits the CPU into 4 devices'
  explicit = cluster.discover(config('mirrored', cpu_devices=4))
  assert explicit.reason == f"cluster.strategy='mirrored' asks for it, and {found.reason}"


def test_gpus(machine):
  machine(gpus=1)
  found = cluster.discover(config())
  assert (found.strategy, found.device_kind, found.local_devices, found.gpus) == ('one', 'gpu', 1, (0,))
  machine(gpus=4)
  found = cluster.discover(config())
  assert (found.strategy, found.device_kind, found.local_devices, found.gpus) == ('mirrored', 'gpu', 4, (0, 1, 2, 3))
  found = cluster.discover(config('one'))
  assert (found.strategy, found.local_devices, found.gpus) == ('one', 1, (0,))


def test_tf_config_names_the_workers(tf_config):
  tf_config(index=1)
  found = cluster.discover(config(cpu_devices=2))
  assert (found.strategy, found.workers, found.worker_index) == ('multi_worker', tuple(TWO), 1)
  assert (found.is_chief, found.num_workers, found.local_devices, found.replicas) == (False, 2, 2, 4)
  assert found.reason == 'TF_CONFIG names 2 workers, each with 2 CPU devices'


def test_a_chief_of_tf_config_is_worker_0(tf_config):
  tf_config(kind='worker', index=1, chief=['boss:1'])
  found = cluster.discover(config())
  assert (found.workers, found.worker_index, found.is_chief) == (('boss:1', *TWO), 2, False)
  tf_config(kind='chief', index=0, chief=['boss:1'])
  found = cluster.discover(config())
  assert (found.worker_index, found.is_chief) == (0, True)


def test_a_cluster_of_one_worker_is_one_process(tf_config):
  tf_config(['host0:2222'])
  assert cluster.discover(config()).strategy == 'one'
  assert cluster.discover(config(cpu_devices=2)).strategy == 'mirrored'


def test_workers_of_one_host_share_its_gpus(machine, tf_config, monkeypatch):
  machine(gpus=5)
  tf_config(['a:1', 'b:1', 'a:2'], index=2)
  found = cluster.discover(config())
  assert (found.gpus, found.local_devices, found.replicas) == ((2, 3), 2, 6)
  tf_config(['a:1', 'b:1', 'a:2'], index=1)
  assert cluster.discover(config()).gpus == (0, 1, 2, 3, 4)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1,2,3,4')
  tf_config(['a:1', 'b:1', 'a:2'], index=2)
  assert cluster.discover(config()).gpus == (0, 1, 2, 3, 4)


def test_more_workers_than_gpus_on_a_host(machine, tf_config):
  machine(gpus=1)
  tf_config(['a:1', 'a:2'])
  assert refusal().startswith('2 workers share 1 GPU of this host: start at most one worker per GPU')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'TF_CONFIG is not JSON (Expecting property name enclosed in double quotes at character 1)'),
    ('[]', "TF_CONFIG has no object 'cluster'"),
    ('{"task": {"type": "worker", "index": 0}}', "TF_CONFIG has no object 'cluster'"),
    ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG has no object 'task'"),
    ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "cluster.worker is 'a:1'"),
    ('{"cluster": {"worker": [7]}, "task": {"type": "worker", "index": 0}}', 'cluster.worker is [7]'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}', 'names 2 workers, from 0'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": -1}}', 'task is worker -1'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "0"}}', "task is worker '0'"),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}', 'task is worker None'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', 'names 0 chiefs'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 0}}', 'task of type None'),
    ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', 'synchronous'),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}', '--mode=continuous_eval'),
    ('{"cluster": {"master": ["a:1"]}, "task": {"type": "master", "index": 0}}', "the types are 'chief' and 'worker'"),
    ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', 'names 2 chiefs'),
    ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "'a:1' twice"),
    ('{"cluster": {"chief": ["a:1"], "worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}', "'a:1' twice"),
    ('{"cluster": {"worker": ["a", "b:1"]}, "task": {"type": "worker", "index": 0}}', "the address 'a'"),
    ('{"cluster": {"worker": ["a:0", "b:1"]}, "task": {"type": "worker", "index": 0}}', 'a port from 1 to 65535'),
    ('{"cluster": {"worker": ["a:65536", "b:1"]}, "task": {"type": "worker", "index": 0}}', "'a:65536'"),
    ('{"cluster": {"worker": ["a:x", "b:1"]}, "task": {"type": "worker", "index": 0}}', "the address 'a:x'"),
  ],
)
@pytest.mark.parametrize('strategy', ['auto', 'multi_worker'])
def test_a_wrong_tf_config_is_refused(monkeypatch, text, message, strategy):
  monkeypatch.setenv('TF_CONFIG', text)
  assert message in refusal(strategy=strategy)


def test_an_ipv6_address_is_one(tf_config):
  tf_config(['[::1]:2222', '[::1]:2223'])
  assert cluster.discover(config()).workers == ('[::1]:2222', '[::1]:2223')


def test_mirrored_needs_several_devices(machine):
  assert "here is 1 CPU device: set cluster.cpu_devices=2, or it to 'auto'" in refusal(strategy='mirrored')
  machine(gpus=1)
  assert "here is 1 GPU: set it to 'auto'" in refusal(strategy='mirrored')


def test_multi_worker_needs_several_workers(tf_config):
  assert 'neither TF_CONFIG nor Slurm names any' in refusal(strategy='multi_worker')
  tf_config(['host0:2222'])
  assert 'TF_CONFIG names one: start them' in refusal(strategy='multi_worker')


@pytest.mark.parametrize('strategy', ['one', 'mirrored'])
def test_one_process_is_not_several(tf_config, strategy):
  tf_config()
  assert 'TF_CONFIG names 2 workers, each of which would train alone' in refusal(strategy=strategy, cpu_devices=2)


def test_one_device_is_not_several():
  assert "cluster.strategy='one' has one device, but cluster.cpu_devices=2" in refusal(strategy='one', cpu_devices=2)


@pytest.mark.parametrize('strategy', ['auto', 'one', 'mirrored'])
def test_cpu_devices_are_not_ignored_beside_gpus(machine, strategy):
  machine(gpus=2)
  assert 'cluster.cpu_devices=2 splits the CPU, but this process would use 2 GPUs' in refusal(
    strategy=strategy, cpu_devices=2
  )


@pytest.mark.parametrize('strategy', ['one', 'mirrored', 'multi_worker'])
def test_a_tpu_is_of_no_use_to_another_strategy(strategy):
  assert "cluster.tpu='local' is of no use" in refusal(strategy=strategy, tpu='local')


@pytest.mark.parametrize('fields', [{'strategy': 'tpu'}, {'strategy': 'tpu', 'tpu': 'local'}, {'tpu': 'local'}])
def test_no_tpu_in_this_machine(fields):
  assert refusal(**fields).startswith('no TPU found: TensorFlow sees none in this machine')


def test_one_process_drives_a_tpu(machine, tf_config, monkeypatch):
  machine(tpus=4)
  assert 'cluster.cpu_devices=2 splits a CPU, but this run is on a TPU' in refusal(cpu_devices=2)
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  said = refusal()
  assert 'one of 2 hosts of a TPU slice' in said
  assert said.endswith('set cluster.tpu to the addresses of their servers, grpc://IP:8470,grpc://IP:8470,...')
  tf_config()
  assert 'TF_CONFIG names 2 workers, but one process drives a TPU' in refusal(tpu='grpc://a:8470')


def test_a_tpu_address_where_nothing_listens(free_port):
  port = free_port()
  assert f'no TPU found: 127.0.0.1:{port} does not answer' in refusal(tpu=f'grpc://127.0.0.1:{port}')
  assert f'no TPU found: 127.0.0.1:{port} does not answer' in refusal(tpu=f'127.0.0.1:{port}')


def test_the_environment_names_a_tpu(monkeypatch, free_port):
  monkeypatch.setenv('TPU_NAME', f'grpc://127.0.0.1:{free_port()}')
  assert 'does not answer' in refusal()
  assert cluster.discover(config('one')).strategy == 'one'


def test_a_tpu_address_where_something_else_listens(monkeypatch):
  monkeypatch.setattr(cluster, 'PROBE_SECONDS', 0.2)
  with socket.create_server(('127.0.0.1', 0)) as silent:
    assert 'does not answer (timed out)' in refusal(tpu=f'grpc://127.0.0.1:{silent.getsockname()[1]}')


def test_a_tpu_name_that_nobody_knows(monkeypatch, free_port):
  monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{free_port()}')
  assert refusal(tpu='my-tpu').startswith("no TPU found: 'my-tpu' cannot be looked up")


@pytest.mark.slow
def test_a_tensorflow_server_without_a_tpu():
  """A real gRPC server: what is connected to, and turns out to have CPUs only."""
  program = """
import socket, sys
import tensorflow as tf
from tests.runtime.settings import config
from trainer.errors import ConfigError
from trainer.runtime import cluster
with socket.create_server(('127.0.0.1', 0)) as probe:
  port = probe.getsockname()[1]
address = f'127.0.0.1:{port}'
server = tf.distribute.Server({'worker': [address]}, job_name='worker', task_index=0)
try:
  cluster.discover(config('tpu', tpu=address))
except ConfigError as error:
  print(error)
"""
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
  )
  assert done.stdout.startswith("no TPU found: TensorFlow answers at 'grpc://127.0.0.1:")
