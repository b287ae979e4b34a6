"""scripts/tpu_host as on a TPU's machine, in a checkout whose trainer is a double: no TensorFlow and no cloud here."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import scripts
from tests.storage import emulator
from trainer.storage import place

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(__file__).parent / 'programs'
sys.path[:0] = [str(ROOT / 'tests' / 'runtime' / 'programs'), str(ROOT / 'scripts')]
import detached  # noqa: E402
import metadata_server  # noqa: E402
import tpu_types  # noqa: E402

del sys.path[:2]

ENDPOINTS = 'instance/attributes/worker-network-endpoints'


class Machine:
  """A home directory with a checkout in it."""

  def __init__(self, home: pathlib.Path):
    self.home, self.variables = home, {'TRAINER_SCRATCH': str(home / 'scratch')}
    shutil.copytree(ROOT / 'scripts', home / 'trainer' / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('__init__.py', 'storage/__init__.py', 'storage/place.py'):
      (path := home / 'trainer' / 'trainer' / name).parent.mkdir(exist_ok=True)
      shutil.copy(ROOT / 'trainer' / name, path)
    shutil.copy(PROGRAMS / 'trainer_double.py', home / 'trainer' / 'trainer' / '__main__.py')
    (home / 'bin').mkdir()

  def program(self, name: str, text: str) -> None:
    path = self.home / 'bin' / name
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)

  def run(self, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, 'HOME': str(self.home), 'PATH': f'{self.home}/bin:{os.environ["PATH"]}', **self.variables}
    return subprocess.run(
      [sys.executable, self.home / 'trainer' / 'scripts' / 'tpu_host', *args],
      env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

  def status(self, offset: int = 0) -> tuple[dict, str]:
    line, _, log = self.run('status', f'--offset={offset}').stdout.partition('\n')
    return json.loads(line), log

  def wait(self, until) -> tuple[dict, str]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
      said = self.status()
      if until(said):
        return said
    raise AssertionError(said)


@pytest.fixture
def machine(tmp_path):
  made = Machine(tmp_path)
  yield made
  detached.stop(tmp_path / 'trainer-run')


def test_a_run_goes_on_by_itself_and_leaves_its_log_and_its_exit_code(machine, monkeypatch):
  assert machine.status() == (
    {
      'running': False, 'code': None, 'started': False, 'step': None, 'stopped': False, 'offset': 0, 'more': False,
    }, '',
  )  # fmt: skip
  args = ('--type=v5litepod-8', '--', '--config=c.py', '--workdir=gs://bucket/a/run')
  assert machine.run('start', *args).returncode == 0
  state, log = machine.wait(lambda said: said[1])
  assert state['running']
  monkeypatch.setenv('TRAINER_SCRATCH', machine.variables['TRAINER_SCRATCH'])
  workdir = pathlib.Path(place.local_copy('gs://bucket/a/run'))
  assert json.loads(log) == {
    'args': list(args[2:]),
    'cwd': str(machine.home / 'trainer'),
    'env': {'TPU_NAME': None, 'TPU_LOAD_LIBRARY': None},
  }
  again = machine.run('start', *args)
  assert (again.returncode, again.stderr) == (0, 'a run is under way on this machine\n')
  (workdir / 'checkpoints' / '7').mkdir(parents=True)
  (workdir / 'checkpoints' / '7' / 'complete.json').touch()
  (workdir / 'go').write_text('3')
  (workdir / 'STOP').touch()  # as the trainer does when it is in the bucket
  state, _ = machine.wait(lambda said: not said[0]['running'])
  assert (state['code'], state['step'], state['stopped'], state['more']) == (3, 7, True, False)
  assert machine.status(state['offset'])[1] == ''


def test_stop_has_the_run_end_with_75(machine):
  machine.run('start', '--type=v5litepod-8', '--', '--config=c.py', f'--workdir={machine.home}/run')
  machine.wait(lambda said: said[1])
  assert machine.run('stop').stdout == 'asked to save and to end\n'
  assert machine.wait(lambda said: not said[0]['running'])[0]['code'] == 75
  assert machine.run('stop').stdout == 'no run is under way on this machine\n'


def test_the_program_of_a_slice_is_told_where_the_servers_are(machine):
  with metadata_server.Metadata() as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.values[ENDPOINTS], server.etags[ENDPOINTS] = 'u:u:10.0.0.3,u:u:10.0.0.4', 0
    machine.variables['GCE_METADATA_HOST'] = server.host
    args = ('--', '--config=c.py', f'--workdir={machine.home}/run')
    wrong = machine.run('start', '--type=v5litepod-16', *args)
    assert wrong.returncode == 2
    assert wrong.stderr == 'error: this machine is one of 2 hosts, but v5litepod-16 has 4: mend --type\n'
    server.values[ENDPOINTS] = ','.join(f'u:u:10.0.0.{index}' for index in range(1, 5))
    assert machine.run('start', '--type=v5litepod-16', *args).returncode == 0
    _, log = machine.wait(lambda said: said[1])
    server.shutdown()
  names = ','.join(f'grpc://10.0.0.{index}:8470' for index in range(1, 5))
  assert json.loads(log)['env'] == {'TPU_NAME': names, 'TPU_LOAD_LIBRARY': '0'}


def test_setup_installs_what_is_missing(machine):
  environment = machine.home / 'trainer' / 'scripts' / 'environment.sh'
  machine.program('sudo', f'echo "$@" >>{machine.home}/sudo')
  prepare = 'prepare_environment() { echo "$1 $TRAINER_DEVICE"; }\n'
  environment.write_text('find_python() { echo python3.11; }\n' + prepare)
  done = machine.run('setup')
  assert (done.returncode, done.stderr) == (0, 'run tpu\n')
  assert not (machine.home / 'sudo').exists()
  environment.write_text('find_python() { exit 1; }\n' + prepare)
  assert machine.run('setup').returncode == 0
  assert (machine.home / 'sudo').read_text().splitlines() == [
    'apt-get update',
    'apt-get install -y python3.11 python3.11-venv',
  ]
  machine.program('sudo', 'exit 1')
  done = machine.run('setup')
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith('error: no Python 3.11 to 3.13, and none could be installed')


def test_serve_waits_until_the_server_listens_and_says_if_it_does_not(machine):
  done = machine.run('serve')
  assert done.returncode == 2
  assert re.fullmatch(
    r"error: TensorFlow's server does not listen on port 8470 of \S+: read \S+/log there\n", done.stderr
  )
  server = machine.home / 'trainer' / '.venv' / 'bin' / 'start_grpc_tpu_worker'
  server.parent.mkdir(parents=True)
  server.write_text(
    f'#!{sys.executable}\nimport signal, socket\nlistening = socket.create_server(("", 8470))\nsignal.pause()\n'
  )
  server.chmod(0o755)
  try:
    assert machine.run('serve').returncode == 0
    assert detached.state(machine.home / 'trainer-server').running
  finally:
    detached.stop(machine.home / 'trainer-server', signal.SIGKILL)


def test_a_command_that_cannot_be_started_has_an_exit_code_too(tmp_path):
  assert detached.state(tmp_path / 'none') == detached.State(False, None, 0)
  assert detached.start(tmp_path / 'job', ['/no/such/program'], dict(os.environ))
  deadline = time.monotonic() + 30
  while (state := detached.state(tmp_path / 'job')).code is None and time.monotonic() < deadline:
    pass
  assert state.code == 127
  assert '/no/such/program cannot be started' in (tmp_path / 'job' / 'log').read_text()


@pytest.mark.parametrize(
  ('name', 'hosts', 'chips_per_host', 'devices', 'topology'),
  [
    ('v5litepod-1', 1, 1, 1, '1x1'),
    ('v5litepod-8', 1, 8, 8, '2x4'),
    ('v5litepod-16', 4, 4, 16, '4x4'),
    ('v5litepod-256', 64, 4, 256, '16x16'),
    ('v6e-8', 1, 8, 8, '2x4'),
    ('v3-8', 1, 4, 8, ''),
    ('v3-32', 4, 4, 32, ''),
    ('v4-8', 1, 4, 4, ''),
    ('v5p-16', 2, 4, 8, ''),
  ],
)
def test_types(name, hosts, chips_per_host, devices, topology):
  kind = tpu_types.parse(name)
  assert (kind.hosts, kind.chips_per_host, kind.devices, kind.topology) == (hosts, chips_per_host, devices, topology)


@pytest.fixture(scope='module')
def doctor():
  return scripts.load('doctor')


@pytest.mark.parametrize(('off', 'fault'), [(0, False), (90, True), (-90, True)])
def test_doctor_compares_the_clock(doctor, monkeypatch, off, fault):
  class Handler(http.server.BaseHTTPRequestHandler):
    def date_time_string(self, timestamp=None):
      return super().date_time_string(time.time() - off)

    def do_HEAD(self):
      self.send_response(404)
      self.end_headers()

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_address[1]}/'
    if fault:
      with pytest.raises(
        doctor.Fault, match=rf'this clock is [-+](89|90|91) s off that of {url}: start its time service'
      ):
        doctor.clock(url)
    else:
      assert url in doctor.clock(url)
    server.shutdown()


def test_doctor_wants_the_tpu_build_and_known_versions(doctor, monkeypatch):
  found = {'tensorflow': '2.20.0', 'tensorflow-tpu': '2.20.0', 'libtpu': '0.0.24'}
  monkeypatch.setattr(doctor, '_installed', lambda name: found.get(name, ''))
  assert 'libtpu 0.0.24' in doctor.versions(tpu_types.parse('v5litepod-8'))
  found['libtpu'] = '0.0.52'
  with pytest.raises(doctor.Fault, match=r"libtpu 0.0.52 is not known to work: .venv/bin/pip install 'libtpu"):
    doctor.versions(None)
  del found['tensorflow-tpu']
  with pytest.raises(doctor.Fault, match='tensorflow-tpu is not installed: run TRAINER_DEVICE=tpu'):
    doctor.versions(tpu_types.parse('v5litepod-8'))


def test_doctor_wants_room(doctor, tmp_path):
  assert doctor.disk(str(tmp_path / 'not' / 'yet'), 0.001).startswith('free: ')
  with pytest.raises(doctor.Fault, match=r'of 1e\+09 GB wanted'):
    doctor.disk('', 1e9)


def test_doctor_uses_the_bucket_as_a_run_does(doctor, monkeypatch):
  url = f'gs://{emulator.BUCKET}/team/run'
  monkeypatch.setattr(doctor, 'RETRY_SECONDS', 0.1)
  with emulator.storage() as storage:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', storage.url)
    assert doctor.work_directory(url) == f'{url} can be written to, read and cleared'
    assert storage.requests['POST upload'] == 1
    assert storage.names() == []
    storage.faults.append(emulator.Fault('forbid', 'POST', times=100))
    with pytest.raises(doctor.Fault) as raised:
      doctor.work_directory(url)
  assert str(raised.value).startswith(f'{url} cannot be written to, read and cleared (cannot write {url}/doctor-')
  assert str(raised.value).endswith('name another, or ask for access for the account of this machine')
  assert '\n' not in str(raised.value)
  with pytest.raises(doctor.Fault, match='names no bucket: write it gs://BUCKET/RUN'):
    doctor.work_directory('gs://')


def test_doctor_says_why_a_folder_cannot_be_used(doctor, tmp_path):
  said = doctor.work_directory(f'{tmp_path}/a/b')
  assert said.startswith(f'{tmp_path}/a/b can be written to, read and cleared; 64 MB were on the disk after')
  assert not list((tmp_path / 'a' / 'b').iterdir())
  (tmp_path / 'file').touch()
  with pytest.raises(doctor.Fault, match='File exists'):
    doctor.work_directory(f'{tmp_path}/file')


def test_doctor_reads_the_data_as_tensorflow_does(doctor, monkeypatch, data_dir):
  import tensorflow as tf

  config = ['--config=configs/digits_mlp.py', '--workdir=/a']

  def data(directory: str, *more: str) -> str:
    found = {}
    args = [*config, f'--config.data.data_dir={directory}', *more]
    assert doctor.config(args, found) == 'the arguments make a config'
    return doctor.data(found)

  assert 'train 1437 examples, test 360 examples' in data(data_dir)
  with pytest.raises(doctor.Fault, match=r"dataset 'mnist' is not prepared in .*: run `tfds build mnist"):
    data(data_dir, '--config.data.dataset=mnist')
  assert 'gs' in tf.io.gfile.get_registered_schemes()  # without a further package
  tf.io.gfile.makedirs('ram://data/digits')
  for directory in ('ram://data/digits', 'ram://none'):
    assert data(directory) == f'{directory} is empty: the run prepares its data there'
    with pytest.raises(doctor.Fault, match=f'{directory} is empty: mend data.data_dir'):
      data(directory, '--config.data.dataset=mnist')
  assert data('ram://data') == 'ram://data can be read'
  with monkeypatch.context() as patch:

    def refuse(path: str) -> bool:
      raise tf.errors.PermissionDeniedError(None, None, 'no\naccess')

    patch.setattr(tf.io.gfile, 'exists', refuse)
    with pytest.raises(doctor.Fault, match=r'ram://data cannot be read \(no access\): mend data.data_dir, or ask'):
      data('ram://data')
  monkeypatch.setattr(tf.io.gfile, 'get_registered_schemes', lambda: ['file', ''])
  with pytest.raises(doctor.Fault, match=r"this TensorFlow reads no gs://: .venv/bin/pip install 'tensorflow\[gcs"):
    data('gs://bucket/data')
  with pytest.raises(doctor.Fault, match='Did you mean "data_dir"'):
    doctor.config([*config, '--config.data.data_dri=a'], {})


@pytest.mark.slow  # starts TensorFlow
def test_doctor_passes_on_this_machine(tmp_path):
  done = subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'doctor', f'--workdir={tmp_path}'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  words = {line.partition(':')[0] for line in done.stdout.splitlines()}
  assert {'ok     versions', 'n/a    libtpu', 'ok     work directory', 'ok     devices', 'ok     all-reduce'} <= words
  assert list(tmp_path.iterdir()) == []
