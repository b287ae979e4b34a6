"""What all tests share: their environment, a place for prepared data, and the real program as a process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping

import hypothesis
import pytest

# Before anything imports TensorFlow. The tests describe what a CPU does; CUDA_VISIBLE_DEVICES=0 lets them see a GPU.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '-1')
os.environ['NO_GCE_CHECK'] = 'true'  # no test may hear what becomes of the machine it runs on
# What was measured on this machine must not change what a test computes with.
os.environ['XDG_CACHE_HOME'] = os.path.join(tempfile.gettempdir(), 'tf-trainer-tests-cache')
# A pod's or a cluster's own variables would turn each test into a worker that waits for its peers.
for _name in [name for name in os.environ if name == 'TF_CONFIG' or name.startswith('SLURM_')]:
  del os.environ[_name]

# No deadline: how long an example takes on a shared machine says nothing. The same examples each time in CI.
hypothesis.settings.register_profile('here', deadline=None, derandomize='CI' in os.environ, print_blob=True)
hypothesis.settings.load_profile('here')

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Files whose tests take long, and have nothing in common but the processes that they fork.
ALONE = ('test_smoke_configs.py', 'test_every_task.py')

# Logical CPU devices of each process of the tests, for the strategies that are tried in it.
LOGICAL_CPUS = 4

Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The tests of a file run in one process, which share what it has made; of ALONE each goes where there is room.

  What has the mark `thorough` is one more of its kind, and left out unless TRAINER_THOROUGH=all.
  """
  if os.environ.get('TRAINER_THOROUGH') != 'all':
    for item in items:
      if item.get_closest_marker('thorough'):
        item.add_marker(pytest.mark.skip(reason='one more of its kind: set TRAINER_THOROUGH=all'))
  for item in items:
    group = item.nodeid if item.path.name in ALONE else str(item.path.relative_to(ROOT))
    item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
  """Splits the CPU while that is still possible: the first operation of any test fixes the devices of its process."""
  tf = sys.modules.get('tensorflow')
  if tf is None:
    return  # no test here needs it; it costs seconds to import
  (cpu,) = tf.config.list_physical_devices('CPU')
  if tf.config.get_logical_device_configuration(cpu) is None:
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
  """A TFDS data directory for the sets that we build ourselves, shared by all processes of the tests."""
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    base = base.parent  # each worker has a folder of its own in there
  path = base / 'tfds'
  path.mkdir(exist_ok=True)
  return str(path)


@pytest.fixture(scope='module', autouse=True)
def default_precision() -> Iterator[None]:
  """Puts Keras' default dtype back after each file: a run prepared in this process sets it for all after it."""
  yield
  if keras := sys.modules.get('keras'):
    keras.config.set_dtype_policy('float32')


@pytest.fixture(scope='session', autouse=True)
def split_cpu() -> None:
  """Splits the CPU of this process into four logical devices, before whichever test comes first runs an op."""
  import tensorflow as tf

  cpu = tf.config.list_physical_devices('CPU')[0]
  if tf.config.get_logical_device_configuration(cpu) is None:
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


@pytest.fixture(scope='session')
def fork_server() -> None:
  """Starts the server that tests/faults/processes.py forks the trainer from, so that TensorFlow is imported once."""
  from tests.faults import processes

  processes.start_server()


@pytest.fixture
def start_trainer(data_dir: str) -> Iterator[Start]:
  """A function that starts `python -m trainer ARGS...` and returns at once; what still runs at the end is killed.

  Keywords: `env` (variables on top of the environment; None removes one), `entry` (what to run instead of
  `-m trainer`, as a list). The process leads a group of its own: `os.killpg(process.pid, signal.SIGKILL)` ends it with
  all its children.
  """
  started: list[subprocess.Popen[str]] = []

  def start(
    *args: str | os.PathLike[str], env: Mapping[str, str | None] | None = None, entry: list[str] | None = None
  ) -> subprocess.Popen[str]:
    variables = {**os.environ, 'TFDS_DATA_DIR': data_dir, **(env or {})}
    process = subprocess.Popen(
      [sys.executable, *(entry or ['-m', 'trainer']), *map(str, args)],
      cwd=ROOT,
      env={name: value for name, value in variables.items() if value is not None},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      errors='replace',
      start_new_session=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    kill(process)
    process.communicate()  # closes the pipes


@pytest.fixture
def run_trainer(start_trainer: Start) -> Run:
  """A function that runs `python -m trainer ARGS...` to its end and returns the CompletedProcess, with its output.

  Keywords: those of `start_trainer`, `timeout` (seconds; 240), and `check` (fail unless the exit code is 0).
  """

  def run(*args: str | os.PathLike[str], timeout: float = 240, check: bool = False, **keywords):
    process = start_trainer(*args, **keywords)
    try:
      stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
      kill(process)
      stdout, stderr = process.communicate()
      pytest.fail(f'not done after {timeout} s: {process.args}\n{_tail(stdout, stderr)}')
    if check and process.returncode:
      pytest.fail(f'exit code {process.returncode}: {process.args}\n{_tail(stdout, stderr)}')
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

  return run


def kill(process: subprocess.Popen[str]) -> None:
  """SIGKILL to a process that `start_trainer` started, and to all its children."""
  with contextlib.suppress(ProcessLookupError):  # it has ended, and so have its children
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


@pytest.fixture(scope='session')
def free_port() -> Callable[[], int]:
  """A function that returns a TCP port on this machine that nothing listens on, another one each time."""
  given: set[int] = set()

  def find() -> int:
    while True:
      with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
      if port not in given:
        given.add(port)
        return port

  return find


def _tail(stdout: str, stderr: str) -> str:
  return f'--- stdout\n{stdout[-2000:]}\n--- stderr\n{stderr[-6000:]}'
