"""Mode predict: each example once and in order, the same on any number of devices."""

import json


def test_two_devices_say_what_one_says(run_trainer, tmp_path):
  def run(*more, devices=1):
    return run_trainer(
      '--config=configs/shakespeare_gpt.py:smoke',
      f'--workdir={tmp_path}',
      '--config.train.steps=2',
      '--config.eval.global_batch_size=4',
      f'--config.cluster.cpu_devices={devices}',
      *more,
      check=True,
    )

  run()
  ask = ['--mode=predict', '--config.data.eval_split=validation[:6]', '--config.task.new_tokens=70']
  lines = [json.loads(line) for line in run(*ask).stdout.splitlines()]
  assert [line['index'] for line in lines] == list(range(6))
  assert all(line.keys() == {'index', 'prompt', 'written'} for line in lines)
  assert [json.loads(line) for line in run(*ask, devices=2).stdout.splitlines()] == lines
