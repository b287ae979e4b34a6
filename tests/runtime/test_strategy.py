"""Strategies and agreement on real devices and in real processes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.runtime.settings import config
from trainer.runtime import cluster, strategy

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
WORDS = [7, 2**53, -1, 2**63 - 1, 1234567890123456789]
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (ROOT, HERE, HERE / 'programs')))}


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
  done = subprocess.run(
    [sys.executable, *map(str, command)],
    env={**ENVIRONMENT, **environment},
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  print(done.stdout, done.stderr, sep='\n')  # pytest shows it when the test fails
  return done


def test_one_device_needs_no_strategy():
  where = cluster.discover(config())
  distribution = strategy.create(where, config(deterministic=False))
  assert distribution is tf.distribute.get_strategy()
  assert not tf.distribute.has_strategy()
  assert strategy.first(distribution, distribution.run(lambda: tf.constant(3))).numpy() == 3


@pytest.mark.slow
def test_two_logical_devices():
  done = run('-m', 'mirrored')
  assert done.returncode == 0
  found = json.loads(done.stdout)
  assert found['strategy'] == 'MirroredStrategy'
  assert found['heard'] == [7, -(2**63), 2**53 + 1]
  assert found['flags'] == [True, False]
  assert found['numbers'] == [0, 1]
  assert found['first'] == 0
  assert [device[-5:] for device in found['devices']] == ['CPU:0', 'CPU:1']
  assert 'a seed' in found['seedless']  # deterministic=True holds


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 2])
def test_two_workers(devices):
  done = run(ROOT / 'scripts' / 'launch_local', '--workers=2', '--once', '--module=two_workers', '--', devices)
  assert done.returncode == 0
  lines = dict(line.split('] ', 1) for line in done.stdout.splitlines())
  chief, other = (json.loads(lines[f'[worker {index}']) for index in range(2))
  for found in (chief, other):
    assert found['heard'] == WORDS
    assert found['flags'] == [True, False, False, False]
    assert found['total'] == sum(range(2 * devices))
    assert found['replicas'] == [2 * devices, 2 * devices]
    assert found['reason'].startswith('TF_CONFIG names 2 workers')
    assert found['stopped'] == 'SIGTERM'
    assert found['seconds'] < 1
  assert chief['weights'] == other['weights']
  assert (chief['chief'], other['chief']) == (True, False)
  assert chief['numbers'] == list(range(devices))
  assert other['numbers'] == list(range(devices, 2 * devices))


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_worker_does_not_wait_for_ever(index, free_port):
  addresses = [f'127.0.0.1:{free_port()}' for _ in range(2)]
  task = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
  done = run('-m', 'lone_worker', 1, TF_CONFIG=json.dumps(task))
  assert done.returncode == 75
  assert f'in vain for worker {1 - index} ({addresses[1 - index]})' in done.stdout


@pytest.mark.slow
def test_a_taken_port_is_said_to_be():
  with socket.create_server(('0.0.0.0', 0)) as taken:
    addresses = [f'127.0.0.1:{taken.getsockname()[1]}', '127.0.0.1:1']
    task = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': 0}}
    done = run('-m', 'lone_worker', 1, TF_CONFIG=json.dumps(task))
  assert done.returncode == 75
  assert f'worker 0 ({addresses[0]}) could not start' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_a_worker_that_waits_for_its_peer_hears_a_signal(free_port, index):
  """TensorFlow waits with the interpreter's lock held, in which no thread of Python would hear anything."""
  own, absent = free_port(), free_port()
  workers = [f'127.0.0.1:{port}' for port in ((own, absent) if index == 0 else (absent, own))]
  tf_config = json.dumps({'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}})
  process = subprocess.Popen(
    [sys.executable, HERE / 'programs' / 'early_stop.py'],
    env={**ENVIRONMENT, 'TF_CONFIG': tf_config},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    while process.poll() is None:  # until it listens, and so waits
      with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', own), timeout=0.1):
        break
    stderr = _ended(process)
  finally:
    process.kill()
  assert process.returncode == 75, stderr
  assert 'stopped: SIGTERM; before the first step, nothing to save' in stderr


def _ended(process: subprocess.Popen[str]) -> str:
  """What it says on stderr until SIGTERM ends it; the first may come in the moment in which TensorFlow has taken it."""
  for _ in range(60):
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
      return process.communicate(timeout=1)[1]
  raise AssertionError('60 signals were not heard')
