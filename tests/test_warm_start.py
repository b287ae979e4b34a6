"""A run that begins with the weights of another: on two devices, with an average; and not a second time on a resume."""

import json


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_it_begins_where_the_other_ended(run_trainer, tmp_path):
  def run(name, steps, *more, check=True):
    return run_trainer(
      '--config=configs/digits_mlp.py:plain',
      f'--workdir={tmp_path / name}',
      f'--config.train.steps={steps}',
      '--config.optimizer.warmup_steps=0',
      *more,
      check=check,
    )

  run('first', 200, '--config.optimizer.ema_decay=0.9')
  (first,) = [row for row in rows(tmp_path / 'first') if row['split'] == 'eval']
  assert first['accuracy'] > 0.8
  warm = (
    f'--config.init_from.path={tmp_path / "first"}',
    '--config.optimizer.learning_rate=1e-12',
    '--config.cluster.cpu_devices=2',
    '--config.optimizer.ema_decay=0.5',
  )
  began = run('second', 1, *warm)
  assert f'  begins with   6 variables from {tmp_path / "first"}\n' in began.stdout
  (attempt,) = json.loads((tmp_path / 'second' / 'run.json').read_text())['attempts']
  assert len(attempt['init_from']['set']) == 6 and attempt['init_from']['left_random'] == []
  second = rows(tmp_path / 'second')[-1]
  assert second['split'] == 'eval' and abs(second['loss'] - first['loss']) < 1e-5
  again = run('second', 2, *warm)
  assert 'begins with' not in again.stdout
  assert abs(rows(tmp_path / 'second')[-1]['loss'] - first['loss']) < 1e-5
  wrong = run('third', 1, *warm, '--config.model.hidden=(7,)', check=False)
  assert wrong.returncode == 2 and 'has in another shape' in wrong.stderr
  changed = run('second', 2, *warm[1:], check=False)
  assert changed.returncode == 2 and 'init_from.path was' in changed.stderr
