"""The real program: told to stop, diverging, and started on damaged checkpoints."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.faults import matrix
from trainer.checkpoint import Checkpoints
from trainer.report.metrics import TIMES

RUN = [
  '--config=configs/digits_mlp.py', '--config.model.hidden=(16,)', '--config.train.steps=400',
  '--config.train.log_every_steps=50', '--config.eval.every_steps=200', '--config.checkpoint.every_steps=100',
  '--config.checkpoint.every_seconds=0', '--config.checkpoint.keep=4',
]  # fmt: skip


def rows(workdir):
  found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def arrays(workdir, step):
  checkpoints = Checkpoints(str(workdir / 'checkpoints'), keep=1, keep_best=0, best_mode='max', writer=False)
  return checkpoints.restore(step).arrays


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir):
  """The work directory of a run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  command = [sys.executable, '-m', 'trainer', *RUN, f'--workdir={workdir}']
  environment = {**os.environ, 'TFDS_DATA_DIR': data_dir}
  subprocess.run(command, check=True, env=environment, capture_output=True, timeout=240)
  return workdir


def same(workdir, whole):
  assert rows(workdir) == rows(whole)
  for name, value in arrays(whole, 400).items():
    np.testing.assert_array_equal(arrays(workdir, 400)[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('number', matrix.some((signal.SIGTERM, signal.SIGINT), signal.SIGTERM))
def test_a_signal_saves_and_the_same_command_goes_on(start_trainer, run_trainer, tmp_path, whole, number):
  workdir = tmp_path / 'run'
  # Blocks of one step, so that there is a step to stop at however fast the machine is.
  process = start_trainer(*RUN, '--config.train.steps_per_loop=1', f'--workdir={workdir}')
  for line in process.stdout:
    if line.startswith('step '):
      break
  process.send_signal(number)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75, err
  (line,) = [line for line in err.splitlines() if line.startswith('stopped: ')]
  assert number.name in line and 'is saved' in line
  saved = int(line.split('step ')[-1].split()[0])
  assert str(saved) in os.listdir(workdir / 'checkpoints')
  assert 'Traceback' not in err
  fewer = ['--config.train.steps=1', '--config.optimizer.warmup_steps=0']
  process = run_trainer(*RUN, *fewer, f'--workdir={workdir}')
  assert process.returncode == 2 and 'steps already done: raise it' in process.stderr
  run_trainer(*RUN, f'--workdir={workdir}', check=True)
  same(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize('damage', matrix.some(('flip', 'truncate', 'remove', 'marker'), 'flip'))
def test_resumes_from_the_newest_good_step(run_trainer, tmp_path, whole, damage):
  workdir = tmp_path / 'run'
  half = [*RUN[:2], '--config.train.steps=300', *RUN[3:], '--config.optimizer.decay_steps=300']
  long = [*RUN, '--config.optimizer.decay_steps=300']
  run_trainer(*half, f'--workdir={workdir}', check=True)
  newest = workdir / 'checkpoints' / '300'
  files = [path for path in newest.rglob('*') if path.is_file() and path.name != 'complete.json']
  victim = newest / 'complete.json' if damage == 'marker' else max(files, key=lambda path: path.stat().st_size)
  contents = bytearray(victim.read_bytes())
  if damage == 'truncate':
    victim.write_bytes(contents[: len(contents) // 2])
  elif damage == 'remove':
    victim.unlink()
  else:
    contents[len(contents) // 2] ^= 1
    victim.write_bytes(contents)
  process = run_trainer(*long, f'--workdir={workdir}', check=True)
  assert 'damaged' in process.stderr and '300' in process.stderr
  assert 'going on at step 200' in process.stdout
  assert (workdir / 'checkpoints' / 'damaged').exists(), 'the damaged step is moved aside, not deleted'
  names = set(os.listdir(workdir / 'checkpoints'))
  assert {'100', '200', '300', '400'} <= names, 'nothing good was deleted, and the damaged step was saved again'


@pytest.mark.slow
def test_all_damaged_is_not_a_reason_to_begin_anew(run_trainer, tmp_path):
  workdir = tmp_path / 'run'
  run_trainer('--config=configs/digits_mlp.py:smoke', f'--workdir={workdir}', check=True)
  for marker in (workdir / 'checkpoints').glob('*/complete.json'):
    marker.write_bytes(marker.read_bytes()[:-20])
  for _ in range(2):  # the second time, all has been moved aside
    process = run_trainer('--config=configs/digits_mlp.py:smoke', f'--workdir={workdir}', '--config.train.steps=9')
    assert process.returncode == 2 and 'no checkpoint is intact' in process.stderr
  assert (workdir / 'metrics.jsonl').stat().st_size > 0


@pytest.mark.slow
def test_divergence_is_exit_code_3(run_trainer, tmp_path):
  workdir = tmp_path / 'run'
  arguments = [*RUN, '--config.optimizer.name=sgd', '--config.optimizer.schedule=constant']
  process = run_trainer(
    *arguments, '--config.optimizer.warmup_steps=0', '--config.optimizer.learning_rate=1e30', f'--workdir={workdir}'
  )
  assert process.returncode == 3, process.stderr
  (line,) = [line for line in process.stderr.splitlines() if line.startswith('diverged: ')]
  assert 'not finite' in line and 'Traceback' not in process.stderr


@pytest.mark.slow
def test_a_corrupt_record_in_a_stream_names_its_file(run_trainer, tmp_path):
  lanes = ['--config=configs/digits_mlp.py', '--config.data.source=lanes', '--config.train.steps=30']
  arguments = [*lanes, '--config.optimizer.warmup_steps=5', f'--config.data.data_dir={tmp_path}/data']
  run_trainer(*arguments, f'--workdir={tmp_path}/good', check=True)
  (file,) = (tmp_path / 'data').rglob('*train*tfrecord*')
  contents = bytearray(file.read_bytes())
  contents[len(contents) // 2 // 256 * 256 + 40] ^= 255
  file.write_bytes(contents)
  process = run_trainer(*arguments, f'--workdir={tmp_path}/run')
  assert process.returncode == 2, process.stderr[-2000:]
  assert f'data file {file}' in process.stderr and 'Traceback' not in process.stderr


@pytest.mark.slow
def test_a_lost_worker_is_exit_code_75(start_trainer, tmp_path):
  workdir = tmp_path / 'run'
  launcher = ['scripts/launch_local', '--workers=2', '--once', '--grace_seconds=60', '--']
  forever = ['--config.train.steps=1000000', '--config.train.steps_per_loop=5']
  process = start_trainer(*RUN, *forever, f'--workdir={workdir}', entry=launcher)
  for line in process.stdout:
    if 'step ' in line and 'ETA' in line:
      break
  children = subprocess.run(
    ['ps', '-o', 'pid=,args=', '--ppid', str(process.pid)], capture_output=True, text=True, check=True
  ).stdout.split('\n')
  workers = sorted(int(child.split()[0]) for child in children if '-m trainer' in child)
  assert len(workers) == 2, children
  os.kill(workers[1], signal.SIGKILL)
  _, err = process.communicate(timeout=180)
  (line,) = [line for line in err.splitlines() if 'stopped: ' in line]
  assert 'a worker was lost' in line


@pytest.mark.slow
def test_two_workers_stop_at_the_same_step(start_trainer, run_trainer, tmp_path):
  workdir = tmp_path / 'run'
  launcher = ['scripts/launch_local', '--workers=2', '--']
  process = start_trainer(*RUN, '--config.train.steps_per_loop=1', f'--workdir={workdir}', entry=launcher)
  for line in process.stdout:
    if 'step ' in line and 'ETA' in line:
      break
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=180)
  assert process.returncode == 75, err[-3000:]
  stopped = {line.split('step ')[-1].split()[0] for line in err.splitlines() if 'stopped: ' in line}
  assert len(stopped) == 1, err[-3000:]
  run_trainer(*RUN, f'--workdir={workdir}', entry=launcher, check=True)
  assert rows(workdir)[-1]['step'] == 400


@pytest.mark.slow
def test_a_work_directory_that_vanishes_is_reported_at_once(start_trainer, tmp_path):
  workdir = tmp_path / 'run'
  often = ['--config.train.steps=100000000', '--config.checkpoint.every_steps=2000', '--config.eval.every_steps=0']
  process = start_trainer(*RUN, *often, f'--workdir={workdir}')
  for line in process.stdout:
    if line.startswith('step '):
      break
  os.rename(workdir, tmp_path / 'elsewhere')
  reported = next(line for line in process.stderr if 'cannot be written' in line)
  assert str(workdir) in reported and 'bring the directory back' in reported
  _, err = process.communicate(timeout=120)
  assert process.returncode == 2, err[-2000:]
  assert err.count('was not saved') == 3, 'three saves in a row failed, which ends the run'
  assert not workdir.exists(), 'and nothing was made in its place'
  assert 'Traceback' not in err
