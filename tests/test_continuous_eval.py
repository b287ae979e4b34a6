"""Mode continuous_eval beside a run: each checkpoint once, through deletions and its own restarts, to the end."""

import fcntl
import json

import pytest

from tests.conftest import kill
from tests.storage import emulator

RUN = (
  '--config=configs/digits_mlp.py', '--config.train.steps=60', '--config.train.steps_per_loop=10',
  '--config.optimizer.warmup_steps=5', '--config.checkpoint.every_steps=20',
)  # fmt: skip
EVALUATE = (*RUN, '--mode=continuous_eval')


def rows(text: str) -> list[dict]:
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_that_begins_later_is_evaluated_to_its_end_over_a_restart(start_trainer, run_trainer, tmp_path):
  workdir = tmp_path / 'run'
  evaluator = start_trainer(*EVALUATE, f'--workdir={workdir}')
  while 'waiting for the first checkpoint' not in evaluator.stderr.readline():
    assert evaluator.poll() is None
  run_trainer(*RUN, f'--workdir={workdir}', check=True)
  first = json.loads(evaluator.stdout.readline())
  assert first['step'] == 20
  kill(evaluator)
  with open(workdir / 'continuous_eval.lock') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = run_trainer(*EVALUATE, f'--workdir={workdir}')
    assert second.returncode == 2 and 'another process evaluates the checkpoints of' in second.stderr
  run_trainer(*EVALUATE, f'--workdir={workdir}', check=True)
  found = rows((workdir / 'continuous_eval.jsonl').read_text())
  assert [row['step'] for row in found] == [20, 40, 60]
  assert found[0] == first
  assert found[-1] == json.loads(run_trainer(*RUN, f'--workdir={workdir}', '--mode=eval', check=True).stdout)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_evaluated_elsewhere_and_a_damaged_step_is_left_out(run_trainer, tmp_path):
  with emulator.storage() as storage:
    own = [{**storage.environment, 'TRAINER_SCRATCH': str(tmp_path / name)} for name in ('one', 'two')]
    url = f'gs://{emulator.BUCKET}/run'
    run_trainer(*RUN, f'--workdir={url}', env=own[0], check=True)
    large = max(storage.names('run/checkpoints/40/state'), key=lambda name: len(storage.read(name)))
    storage.write(large, b'\0' * len(storage.read(large)))
    ended = run_trainer(*EVALUATE, f'--workdir={url}', env=own[1], check=True)
    assert [row['step'] for row in rows(ended.stdout)] == [20, 60]
    assert 'step 40 is left out' in ended.stderr
    assert rows(storage.read('run/continuous_eval.jsonl').decode()) == rows(ended.stdout)
