"""Mode explain on a run that was trained: what it prints and draws, and what it refuses."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from trainer import main

RUN = ('--config=configs/digits_cnn.py', '--config.train.steps=40', '--config.optimizer.warmup_steps=5')
FEW = ('--mode=explain', '--config.explain.examples=2', '--config.data.eval_split=test[:9]')


@pytest.fixture(scope='module')
def run(tmp_path_factory, data_dir):
  """A function that runs the program in this process on one trained run, and returns its exit code."""
  workdir = tmp_path_factory.mktemp('run')

  def start(*more):
    return main.run(['trainer', *RUN, f'--workdir={workdir}', f'--config.data.data_dir={data_dir}', *more])

  start.workdir = workdir
  assert start() == 0
  return start


def explanations(done):
  lines = done.splitlines()
  return [json.loads(line) for line in lines if line.startswith('{')], [line for line in lines if line[:1] != '{']


def test_the_program_explains_images(run, run_trainer):
  done = run_trainer(*RUN, *FEW, f'--workdir={run.workdir}', check=True)
  rows, says = explanations(done.stdout)
  assert [row['index'] for row in rows] == [0, 1]
  for row in rows:
    assert row['prediction'] in list('0123456789') and row['explained'] == f"logit of '{row['prediction']}'"
    path = row['integrated_gradients']
    assert path['complete'] and abs(path['sum'] - path['difference']) <= 0.01 * abs(path['difference'])
    assert row['grad_cam']['layer'] == 'stage2_conv2_activation' and row['grad_cam']['size'] == [4, 4]
    assert row['smoothgrad']['halves'] > 0.5 and row['occlusion']['regions'] == 49
  folder = run.workdir / 'explanations' / '40'
  assert says[-1] == f'pictures  {folder}'
  assert [line.split()[0] for line in says[:-1]] == ['integrated_gradients', 'smoothgrad', 'grad_cam', 'occlusion']
  assert 'integrated_gradients depends on the weights' in done.stdout
  found = json.loads((folder / 'gallery.json').read_text())
  assert found['kind'] == 'explanations' and found['step'] == 40 and len(found['entries']) == 2
  titles = [part['title'] for part in found['entries'][0]['parts'] if part['kind'] == 'image']
  assert titles == ['input', 'integrated gradients', 'smoothgrad', 'grad cam', 'occlusion']
  for part in found['entries'][0]['parts']:
    if part['kind'] == 'image':
      assert Image.open(folder / part['file']).size == (8, 8) and np.asarray(Image.open(folder / part['file'])).any()
  assert main.run(['trainer', *RUN, f'--workdir={run.workdir}']) == 0, 'the run goes on as if nothing had been there'


def test_four_devices_say_what_one_says(run, capsys):
  more = ('--config.explain.methods=integrated_gradients', '--config.explain.check=False')
  assert run(*FEW, *more) == 0
  one = capsys.readouterr().out
  assert run(*FEW, *more, '--config.cluster.cpu_devices=4', '--config.explain.batch_size=7') == 0
  rows, others = explanations(one)[0], explanations(capsys.readouterr().out)[0]
  for row, other in zip(rows, others, strict=True):
    assert row['prediction'] == other['prediction']
    assert row['integrated_gradients']['sum'] == pytest.approx(other['integrated_gradients']['sum'], rel=1e-3)


def test_the_true_class_and_a_layer_by_name(run, capsys):
  more = ('--config.explain.target=true', '--config.explain.methods=grad_cam', '--config.explain.layer=stage1_conv1')
  assert run(*FEW, *more) == 0
  rows, _ = explanations(capsys.readouterr().out)
  assert all(row['explained'] == f"logit of '{row['true']}'" for row in rows)
  assert all(row['grad_cam']['layer'] == 'stage1_conv1' and row['grad_cam']['size'] == [8, 8] for row in rows)


@pytest.mark.parametrize(
  ('more', 'expected'),
  [
    (['--config.explain.methods=rollout'], "rollout is for model.name bert, gpt, sequence_transformer, vit, not 'cnn'"),
    (['--config.explain.methods=mutagenesis'], 'mutagenesis needs sequences of a text task'),
    (['--config.explain.methods=permutation_importance'], 'is for tables, and these inputs are image'),
    (['--config.explain.layer=stage9'], "explain.layer='stage9' is no layer of the model"),
    (['--config.explain.output=10'], 'explain.output=10 is not one of the 10 outputs'),
    (['--config.explain.window=9'], 'explain.window=9 is more than the 8 places'),
    (['--config.explain.baseline=padding'], "explain.baseline='padding' does not fit inputs that are image"),
    (['--checkpoint=7'], '7'),
  ],
)
def test_what_does_not_fit_is_one_line(run, capsys, more, expected):
  assert run(*FEW, *more) == 2
  (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert expected in line


@pytest.mark.parametrize('config', ['cmudict_seq2seq', 'spoken_digits_conformer'])
def test_tasks_that_cannot_be_explained_are_named_with_those_that_can(capsys, config):
  assert main.run(['trainer', f'--config=configs/{config}.py:smoke', '--workdir=x', '--mode=explain']) == 2
  line = capsys.readouterr().err
  assert 'does not work for task.name=' in line and 'masked_language_modeling' in line


def test_one_of_several_workers_is_refused(run, capsys, monkeypatch):
  workers = {'cluster': {'worker': ['localhost:1', 'localhost:2']}, 'task': {'type': 'worker', 'index': 0}}
  monkeypatch.setitem(os.environ, 'TF_CONFIG', json.dumps(workers))
  assert run(*FEW) == 2
  assert 'this is one of 2 workers' in capsys.readouterr().err


def test_features_of_a_table_are_shuffled(tmp_path, data_dir, capsys):
  def start(*more):
    config = ('--config=configs/diabetes_linear.py', f'--workdir={tmp_path}', f'--config.data.data_dir={data_dir}')
    return main.run(['trainer', *config, '--config.train.steps=200', *more])

  assert start() == 0
  capsys.readouterr()
  assert start('--mode=explain', '--config.explain.examples=1') == 0
  rows, _ = explanations(capsys.readouterr().out)
  assert rows[0]['explained'] == "value of 'target'" and rows[0]['integrated_gradients']['complete']
  importance = rows[1]['permutation_importance']
  assert rows[1]['metric'] == 'rmse' and rows[1]['examples'] == 88 and len(importance) == 10
  assert importance['bmi']['mean'] > 5 * abs(importance['age']['mean']) and importance['bmi']['deviation'] > 0
  found = json.loads((tmp_path / 'explanations' / '200' / 'gallery.json').read_text())
  assert [entry['title'] for entry in found['entries']][1:] == [
    'permutation importance: rmse',
    'permutation importance: loss',
  ]


@pytest.mark.parametrize(
  ('config', 'more', 'methods', 'explained'),
  [
    ('shakespeare_gpt', ['--config.model.head_chunks=2'], ['integrated_gradients', 'rollout'], 'at place'),
    *(
      pytest.param(*each, marks=pytest.mark.thorough)
      for each in (
        ('shakespeare_bert', [], ['integrated_gradients', 'rollout'], 'at place'),
        ('language_id', [], ['integrated_gradients'], 'logit of'),
        ('bccd_detector', ['--config.explain.methods=smoothgrad'], ['smoothgrad'], 'at the best box'),
        ('land_cover_unet', ['--config.explain.methods=smoothgrad'], ['smoothgrad'], 'over its'),
        ('earth_orientation_mlp', [], ['integrated_gradients', 'smoothgrad', 'occlusion'], 'change of channel 0'),
        ('imagenet_vit_s16', ['--config.explain.methods=rollout'], ['rollout'], 'logit of'),
        ('imdb_lstm', [], ['integrated_gradients'], 'logit of'),
        ('spoken_digits_cnn', ['--config.explain.methods=grad_cam'], ['grad_cam'], 'logit of'),
      )
    ),
  ],
)
def test_what_is_explained_of_other_tasks(tmp_path, data_dir, capsys, config, more, methods, explained):
  def start(*flags):
    where = (f'--config=configs/{config}.py:smoke', f'--workdir={tmp_path}', f'--config.data.data_dir={data_dir}')
    return main.run(['trainer', *where, '--config.train.steps=3', *more, *flags])

  assert start() == 0
  capsys.readouterr()
  few = ('--config.explain.most_steps=64', '--config.explain.samples=4', '--config.explain.check=False')
  assert start('--mode=explain', '--config.explain.examples=2', *few) == 0
  rows, _ = explanations(capsys.readouterr().out)
  assert len(rows) == 2
  for row in rows:
    assert explained in row['explained'] and [name for name in methods if name in row] == methods
    assert 'integrated_gradients' not in row or row['integrated_gradients']['complete']
