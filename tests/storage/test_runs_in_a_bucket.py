"""The real program with its work directory in a bucket, which refuses, delays and drops; killed, moved, and resumed."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT, kill
from tests.launch import pages
from tests.storage import emulator, https
from tests.storage.emulator import Fault, Storage
from trainer.checkpoint import manifest

SHORT = [
  '--config=configs/digits_mlp.py',
  '--config.train.steps=60',
  '--config.train.steps_per_loop=10',
  '--config.optimizer.warmup_steps=5',
  '--config.checkpoint.every_steps=20',
  '--config.eval.every_steps=30',
  '--config.checkpoint.keep=2',
]
URL = f'gs://{emulator.BUCKET}/team/run'


@pytest.fixture
def storage() -> Iterator[Storage]:
  with emulator.storage() as found:
    yield found


@pytest.fixture
def environment(storage, tmp_path) -> Callable[..., dict[str, str]]:
  """Variables of a process on the machine of that name: each has its own disk."""
  return lambda machine='one': {**storage.environment, 'TRAINER_SCRATCH': str(tmp_path / machine)}


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory) -> dict[str, manifest.ArraySpec]:
  """What the arrays are at the end of a run that was never stopped, on a disk."""
  workdir = tmp_path_factory.mktemp('whole')
  command = [sys.executable, '-m', 'trainer', *SHORT, f'--workdir={workdir}']
  environment = {**os.environ, 'TFDS_DATA_DIR': data_dir}
  ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stderr[-3000:]
  return arrays((workdir / 'checkpoints/60/complete.json').read_bytes())


def arrays(contents: bytes) -> dict[str, manifest.ArraySpec]:
  """Shape, dtype and hash of each array of a checkpoint."""
  return dict(manifest.decode(contents).arrays)


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, f'not within {seconds} s: {what}'
    time.sleep(0.05)


def test_killed_in_an_upload_and_resumed_on_another_machine_it_ends_with_the_same_bytes(
  storage, environment, start_trainer, run_trainer, whole, tmp_path
):
  # Step 40 hangs on its way, and its marker with it, when the machine goes.
  storage.faults.append(Fault('slow', r'POST .*checkpoints/40/state', times=1000, seconds=600))
  process = start_trainer(*SHORT, f'--workdir={URL}', env=environment('one'))
  until(lambda: 'slow' in storage.met, 'the upload of step 40')
  kill(process)
  assert 'team/run/checkpoints/20/complete.json' in storage.names()
  assert 'team/run/checkpoints/40/complete.json' not in storage.names()
  storage.faults[:] = [
    Fault('refuse', 'POST .*checkpoints/60', times=2),
    Fault('drop', 'POST .*checkpoints/60/state', times=1),
    Fault('lose', 'POST .*checkpoints/60/state', times=1),
    Fault('slow', 'GET .*checkpoints/20', times=3, seconds=0.3),
    Fault('refuse', 'GET .*metrics.jsonl', times=1),
  ]
  # The dead one's lock is of this boot of this machine, and its process is gone, so nobody waits.
  ended = run_trainer(*SHORT, f'--workdir={URL}', env=environment('two'), check=True)
  assert {'refuse', 'drop', 'lose', 'slow'} <= set(storage.met)
  assert arrays(storage.read('team/run/checkpoints/60/complete.json')) == whole
  rows = [json.loads(line) for line in storage.read('team/run/metrics.jsonl').splitlines()]
  assert [row['step'] for row in rows if row['split'] == 'eval'] == [30, 60]
  assert 'gs://runs/team/run/metrics.jsonl' in ended.stdout
  left = {name.removeprefix('team/run/').split('/')[0] for name in storage.names()}
  assert left == {'checkpoints', 'config.json', 'ledger.jsonl', 'metrics.jsonl', 'run.json', 'tensorboard'}
  steps = {name.split('/')[3] for name in storage.names('team/run/checkpoints/')}
  assert steps == {'40', '60'}  # checkpoint.keep
  # A third machine evaluates what the bucket has, and keeps nothing of it.
  found = run_trainer(
    *SHORT, f'--workdir={URL}', '--mode=eval', '--checkpoint=best', env=environment('three'), check=True
  )
  assert json.loads(found.stdout)['step'] == json.loads(storage.read('team/run/metrics.jsonl').splitlines()[-1])['step']
  assert not os.listdir(environment('three')['TRAINER_SCRATCH'])
  goodput = subprocess.run(
    [sys.executable, 'scripts/goodput', URL, '--json', '--trace='],
    cwd=ROOT, env={**environment('three'), 'PATH': '/usr/bin:/bin'}, capture_output=True, check=True, text=True,
  )  # fmt: skip
  assert len(json.loads(goodput.stdout)['ends']) == 2
  page = tmp_path / 'report.html'
  subprocess.run(
    [sys.executable, 'scripts/report', URL, f'--out={page}'],
    cwd=ROOT, env={**environment('three'), 'PATH': '/usr/bin:/bin'}, capture_output=True, check=True,
  )  # fmt: skip
  assert f'<code>{URL}/checkpoints/60</code>' in page.read_text()


@pytest.mark.parametrize('source', [pytest.param('memory', marks=pytest.mark.thorough), 'lanes'])
def test_config_and_data_are_read_from_a_bucket_the_latter_by_tensorflow_s_own_client(
  storage, environment, tmp_path, data_dir, run_trainer, whole, source
):
  folder = pathlib.Path(data_dir) / 'uci_digits'
  for path in folder.rglob('*'):
    if path.is_file():
      storage.write(f'tfds/{path.relative_to(folder.parent)}', path.read_bytes())
  storage.write('configs/mine.py', (ROOT / 'configs/digits_mlp.py').read_bytes())
  steps = 60 if source == 'memory' else 20
  own = [f'--config.data.data_dir=gs://{emulator.BUCKET}/tfds', f'--config.data.source={source}']
  own += [f'--config.train.steps={steps}']
  config = f'--config=gs://{emulator.BUCKET}/configs/mine.py'
  workdir = tmp_path / 'run'
  with https.proxied(storage, tmp_path) as variables:
    run_trainer(config, *SHORT[1:], *own, f'--workdir={workdir}', env={**environment(), **variables}, check=True)
  assert storage.requests['GET by TensorFlow from storage.googleapis.com'] > 0
  found = arrays((workdir / f'checkpoints/{steps}/complete.json').read_bytes())
  assert found == whole if source == 'memory' else found.keys() == whole.keys()  # lanes have an order of their own


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_stop_in_the_bucket_is_heard(storage, environment, start_trainer, run_trainer):
  endless = [*SHORT, '--config.train.steps=1000000', f'--workdir={URL}', '--config.storage.lease_seconds=8']
  first = start_trainer(*endless, env=environment('one'))
  until(lambda: 'team/run/checkpoints/20/complete.json' in storage.names(), 'the first checkpoint')
  second = run_trainer(*endless, env=environment('two'))
  assert second.returncode == 2
  assert f'--workdir={URL} is in use by process {first.pid} on ' in second.stderr
  same_machine = run_trainer(*endless, env=environment('one'))
  assert same_machine.returncode == 2 and f'is in use by process {first.pid} on ' in same_machine.stderr
  storage.write('team/run/STOP', b' ')
  _, stderr = first.communicate(timeout=120)
  assert first.returncode == 75 and f'the stop file {URL}/STOP' in stderr, stderr[-3000:]
  assert 'team/run/run.lock' not in storage.names()
  again = run_trainer(*endless, env=environment('two'))
  assert again.returncode == 75 and f'{URL}/STOP is there: remove it to go on' in again.stderr


@pytest.mark.slow
def test_who_has_been_taken_over_ends_and_writes_no_more(storage, environment, start_trainer):
  endless = [*SHORT, '--config.train.steps=1000000', f'--workdir={URL}', '--config.storage.lease_seconds=4']
  first = start_trainer(*endless, env=environment())
  until(lambda: 'team/run/checkpoints/20/complete.json' in storage.names(), 'the first checkpoint')
  storage.write('team/run/run.lock', json.dumps({'host': 'other', 'process': 7, 'since': 'then'}).encode())
  _, stderr = first.communicate(timeout=60)
  assert first.returncode == 75, stderr[-3000:]
  assert 'process 7 on other since then has taken over' in stderr
  assert json.loads(storage.read('team/run/run.lock'))['host'] == 'other'


def test_what_is_no_run_is_refused_and_nothing_is_written(storage, environment, run_trainer):
  storage.write('team/run/thesis.doc', b' ')
  ended = run_trainer(*SHORT, f'--workdir={URL}', env=environment())
  assert ended.returncode == 2
  assert f"--workdir={URL} is not empty and holds no run (it has 'thesis.doc')" in ended.stderr
  assert storage.names() == ['team/run/thesis.doc']


@pytest.mark.slow
def test_two_workers_on_machines_of_their_own_are_killed_and_go_on(storage, environment, whole, tmp_path, data_dir):
  command = [sys.executable, 'scripts/launch_local', '--workers=2', '--', *SHORT, f'--workdir={URL}']
  variables = {**os.environ, 'TFDS_DATA_DIR': data_dir, **environment()}
  storage.faults.append(Fault('slow', r'POST .*checkpoints/40/state', times=1000, seconds=600))
  process = subprocess.Popen(
    command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  until(lambda: 'slow' in storage.met, 'the upload of step 40')
  storage.faults.clear()
  chief = json.loads(storage.read('team/run/run.lock'))['process']
  os.kill(chief, signal.SIGKILL)
  _, stderr = process.communicate(timeout=240)
  assert process.returncode == 0, stderr[-3000:]
  assert arrays(storage.read('team/run/checkpoints/60/complete.json')).keys() == whole.keys()
  assert {'team/run/ledger.jsonl', 'team/run/ledger.worker1.jsonl'} <= set(storage.names())


def test_the_page_s_command_is_one(storage, environment, run_trainer):
  (command,) = pages.commands('object_storage')
  program, *arguments = command.replace('gs://my-bucket', f'gs://{emulator.BUCKET}').split()
  assert program == '.venv/bin/python' and arguments[:2] == ['-m', 'trainer']
  run_trainer(*arguments[2:], '--mode=plan', env=environment(), check=True)
  assert storage.names() == ['digits/plan.json']
