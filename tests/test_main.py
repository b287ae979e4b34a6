"""Each mistake of a user's: one line on stderr, exit code 2, quickly, and nothing lost."""

import json
import os
import time

import pytest

from trainer import main
from trainer.errors import ConfigError

DIGITS = 'configs/digits_mlp.py'
SMOKE = f'--config={DIGITS}:smoke'


def the_line(process) -> str:
  """The one line of a run that a user's mistake ended."""
  assert process.returncode == 2, f'{process.returncode}\n{process.stdout}\n{process.stderr[-3000:]}'
  assert 'Traceback' not in process.stderr
  lines = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, process.stderr
  return lines[0]


# -- what the flags and the config alone show: in this process, since only importing TensorFlow takes time -----------


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--workdir=x'], '--config is missing'),
    (['--config=configs/digits_mlp.py'], '--workdir is missing'),
    (['--config=configs/digits_mpl.py', '--workdir=x'], 'digits_mpl.py'),
    (['--config=configs/digits_mlp.py:smok', '--workdir=x'], "unknown variant 'smok'"),
    (
      ['--config=configs/digits_mlp.py', '--workdir=x', '--config.train.stepz=3'],
      'Did you mean "steps" instead of "stepz"',
    ),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.trian.steps=3'], 'train'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.train.steps=many'], 'many'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.train.steps=1.5'], '1.5'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--mode=trian'], 'trian'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--chekpoint=best'], 'chekpoint'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--target=v5e:1'], '--target=v5e:1 is for --mode=plan'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--search'], 'is for --mode=plan and --mode=benchmark'),
    (['--config=configs/digits_mlp.py', '--workdir=x', 'stray'], "unexpected argument 'stray'"),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.model.name=mpl'], "did you mean 'mlp'"),
    (
      ['--config=configs/digits_mlp.py', '--workdir=x', '--config.task.name=clasification'],
      "did you mean 'classification'",
    ),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.optimizer.name=adamx'], "did you mean 'adam"),
    (
      ['--config=configs/digits_mlp.py', '--workdir=x', "--config.task.metrics=('acuracy',)"],
      "did you mean 'accuracy'",
    ),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.task.loss=crossentropy'], 'crossentropy'),
    (['--config=configs/digits_mlp.py', '--workdir=x', '--config.data.lanes=128'], 'data.lanes=128 is more than'),
  ],
)
def test_flags_and_config(arguments, expected):
  with pytest.raises(ConfigError) as caught:
    main.parse(['trainer', *arguments])
  assert expected in str(caught.value) and '\n' not in str(caught.value)


def test_a_config_that_is_broken_python(tmp_path):
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config(:\n')
  with pytest.raises(ConfigError, match='--config cannot be used'):
    main.parse(['trainer', f'--config={broken}', '--workdir=x'])


# -- what takes the machine, the data or the directory to see: the real program --------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--config.data.dataset=uci_digit'], "did you mean 'uci_digits'"),
    (['--config.data.train_split=trian'], 'trian'),
    (['--config.data.eval_split=test[:0]'], 'test[:0]'),
    (['--config.data.dataset=cifar10'], 'cifar10'),
    (['--config.train.global_batch_size=63', '--config.cluster.cpu_devices=2'], 'not divisible by 2 replicas'),
    (['--config.cluster.strategy=tpu'], 'TPU'),
    (['--config.cluster.strategy=mirrored'], 'mirrored'),
    (['--config.cluster.strategy=multi_worker'], 'TF_CONFIG'),
    (['--config.eval.best_metric=acuracy'], 'acuracy'),
  ],
)
def test_machine_and_data(run_trainer, tmp_path, arguments, expected):
  started = time.monotonic()
  process = run_trainer(f'--config={DIGITS}', f'--workdir={tmp_path}/run', *arguments)
  assert expected in the_line(process)
  assert time.monotonic() - started < 30, 'meant to be under 10 s on a machine with nothing else to do'
  assert not os.path.exists(f'{tmp_path}/run/checkpoints') or not os.listdir(f'{tmp_path}/run/checkpoints')


@pytest.mark.slow
def test_directories(run_trainer, tmp_path):
  """One run, and all that a second command can get wrong about it."""
  run = f'--workdir={tmp_path}/run'
  run_trainer(SMOKE, run, check=True)
  assert 'another config' in (line := the_line(run_trainer(SMOKE, run, '--config.seed=5'))) and 'seed was 0' in line
  line = the_line(run_trainer(SMOKE, run, '--config.model.hidden=(8,)'))
  assert 'model.hidden' in line
  assert "did you mean 'latest'" in the_line(run_trainer(SMOKE, run, '--mode=eval', '--checkpoint=lates'))
  assert 'complete steps' in the_line(run_trainer(SMOKE, run, '--mode=eval', '--checkpoint=77777'))
  assert 'holds no run' in the_line(run_trainer(SMOKE, f'--workdir={tmp_path}/none', '--mode=eval'))
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.tex').write_text('years of work')
  assert 'is not empty and holds no run' in the_line(run_trainer(SMOKE, f'--workdir={tmp_path}/mine'))
  assert os.listdir(tmp_path / 'mine') == ['thesis.tex']
  (tmp_path / 'file').write_text('')
  assert 'names no bucket' in the_line(run_trainer(SMOKE, '--workdir=gs://'))
  assert 'cannot be written to' in the_line(run_trainer(SMOKE, f'--workdir={tmp_path}/file/run'))


@pytest.mark.slow
def test_modes_of_one_run(run_trainer, tmp_path):
  """Train, train again, evaluate: what each prints and leaves."""
  run = f'--workdir={tmp_path}/run'
  first = run_trainer(SMOKE, run, check=True)
  again = run_trainer(SMOKE, run, check=True)
  assert 'complete' in again.stdout and len(again.stdout) < len(first.stdout)
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  keys = [(row['split'], row['step']) for row in rows]
  assert len(set(keys)) == len(keys)
  evaluated = json.loads(run_trainer(SMOKE, run, '--mode=eval', check=True).stdout)
  last = [row for row in rows if row['split'] == 'eval'][-1]
  assert evaluated['step'] == last['step'] and evaluated['loss'] == last['loss']
  best = json.loads(run_trainer(SMOKE, run, '--mode=eval', '--checkpoint=best', check=True).stdout)
  assert best['accuracy'] == max(row['accuracy'] for row in rows if row['split'] == 'eval')
  # Going on: more steps are no other run.
  longer = run_trainer(SMOKE, run, '--config.train.steps=9', check=True)
  assert 'train.steps: 6 -> 9' in longer.stdout + longer.stderr
