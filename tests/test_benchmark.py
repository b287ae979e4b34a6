"""Mode benchmark: what it writes is what its schema says, on one device and on two; and what must not be believed."""

import json
import pathlib
import signal

import jsonschema
import pytest

from trainer.modes import benchmark

SCHEMA = json.loads((pathlib.Path(benchmark.__file__).parent / 'benchmark.schema.json').read_text())
RUN = (
  '--config=configs/digits_mlp.py', '--mode=benchmark', '--config.model.hidden=(16,)', '--config.benchmark.windows=3',
  '--config.benchmark.window_seconds=0.05', '--config.benchmark.single_steps=5',
)  # fmt: skip
# Other tests run beside, so the speed may not settle.
ANY = ('--config.benchmark.largest_foreign_load=1.0', '--config.benchmark.warmup_windows=200')


def measured(run_trainer, workdir, *arguments):
  done = run_trainer(*RUN, f'--workdir={workdir}', *arguments)
  assert done.returncode in (0, 75), done.stderr
  found = json.loads((workdir / 'benchmark.json').read_text())
  jsonschema.validate(found, SCHEMA)
  assert [path.name for path in workdir.iterdir()] == ['benchmark.json']
  assert found['valid'] == (done.returncode == 0) == (not found['why_not_valid'])
  return done, found


def test_one_device(run_trainer, tmp_path):
  done, found = measured(run_trainer, tmp_path / 'new', *ANY)
  speed = found['input']['real']
  steps, seconds = (sum(window[part] for window in speed['windows']) for part in (0, 1))
  assert speed['examples_per_second'] == pytest.approx(64 * steps / seconds)
  assert len(speed['windows']) == len(found['input']['repeated']['windows']) == 3
  assert found['compute']['flops_per_step_and_replica'] == 2 * 64 * (2 * 64 * 16 + 3 * 16 * 10)
  assert found['compute']['model_flops_per_step_and_replica'] == 3 * 2 * 64 * (64 * 16 + 16 * 10)
  assert 0 < found['compute']['hfu'] < found['compute']['mfu'] < 1
  assert found['collective'] is None and found['save']['bytes'] > 4 * 64 * 16
  assert [stage['name'] for stage in found['input']['stages']] == ['gather', 'augment']
  assert found['input']['slowest_stage'] in done.stdout
  assert 'real input' in done.stdout and f'{speed["examples_per_second"]:,.0f} examples/s' in done.stdout


@pytest.mark.slow
def test_two_devices_with_slices(run_trainer, tmp_path):
  _, found = measured(
    run_trainer, tmp_path / 'new', *ANY, '--config.cluster.cpu_devices=2', '--config.optimizer.shard_state=True',
    '--config.data.source=synthetic',
  )  # fmt: skip
  assert found['input']['stages'] == [] and found['input']['slowest_stage'] is None
  assert found['topology']['replicas'] == 2 and found['input']['real'] is None and found['input_share'] is None
  assert found['collective']['seconds'] > 0 and found['batch']['per_replica'] == 32


@pytest.mark.slow
def test_what_is_disturbed_is_marked(run_trainer, tmp_path):
  done, _ = measured(
    run_trainer, tmp_path / 'new', '--config.benchmark.largest_foreign_load=1.0', '--config.benchmark.warmup_windows=2'
  )
  assert done.returncode == 75 and 'NOT VALID' in done.stdout
  assert 'the speed with real input had not settled' in done.stderr


@pytest.mark.slow
def test_a_notice_leaves_nothing(start_trainer, tmp_path):
  process = start_trainer(
    *RUN, *ANY, f'--workdir={tmp_path}/new', '--config.benchmark.windows=1000000',
    '--config.benchmark.window_seconds=0.1',
  )  # fmt: skip
  while not process.stdout.readline().startswith('Measuring'):
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=120)
  assert process.returncode == 75 and 'stopped: SIGTERM' in stderr
  assert not list((tmp_path / 'new').iterdir())
