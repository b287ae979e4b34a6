"""Recipes run as they would on an accelerator, but for their size: XLA, bfloat16, two replicas."""

import json

import pytest

# What makes them small enough for a processor, and leaves every layer and every field of the recipe in place.
SMALLER = {
  'cmudict_seq2seq': [],
  'shakespeare_gpt': [],
  'spoken_digits_cnn': [],
  'cifar10_resnet': ['--config.model.width=8'],
  'coco_detector': ['--config.model.width=8', '--config.model.pyramid=8', '--config.task.image_size=(64,64)'],
  'imagenet_resnet50': ['--config.model.width=8', '--config.task.image_size=(64,64)'],
  'imagenet_vit_s16': [
    '--config.model.width=24', '--config.model.heads=2', '--config.model.layers=3', '--config.task.image_size=(64,64)',
  ],
  'pets_unet': ['--config.task.image_size=(32,32)'],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two processes that compile much
@pytest.mark.parametrize('name', SMALLER)
def test_three_steps_evaluation_and_one_more_step_after_a_restart(name, run_trainer, tmp_path):
  def run(steps):
    return run_trainer(
      f'--config=configs/{name}.py:smoke',
      f'--workdir={tmp_path}',
      '--config.cluster.cpu_devices=2',
      '--config.precision.policy=mixed_bfloat16',
      '--config.precision.xla=on',
      f'--config.train.steps={steps}',
      '--config.train.global_batch_size=8',
      '--config.train.log_every_steps=1',
      '--config.eval.every_steps=3',
      '--config.eval.global_batch_size=8',
      *SMALLER[name],
      timeout=800,
      check=True,
    )

  run(3)
  assert (tmp_path / 'checkpoints' / '3').is_dir()
  run(4)
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if row['split'] == 'train'] == [1, 2, 3, 4]
  assert [row['step'] for row in rows if row['split'] == 'eval'] == [3, 4]
