"""A trained run in use: shown, predicted on files, exported, and the export used without this package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.faults import processes
from tests.faults.program import Program

CONFIG = ('--config=configs/digits_mlp.py', '--config.train.steps=60', '--config.optimizer.warmup_steps=5')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data_dir, fork_server):
  """(the work directory of a short run, a function that runs a mode on it)."""
  folder = tmp_path_factory.mktemp('served')
  count = iter(range(100))

  def run(*args, workdir=folder / 'run', code=0):
    place = folder / f'attempt{next(count)}'
    place.mkdir()
    env = {**os.environ, 'TFDS_DATA_DIR': data_dir}
    argv = (*CONFIG, f'--workdir={workdir}', '--config.faults.metadata_host=', *map(str, args))
    (ended,) = processes.run([Program(argv, env, str(place), str(workdir))])
    assert ended.code == code, ended.stderr[-3000:]
    return ended

  run('--config.eval.pictures=2')
  return folder / 'run', run


def gallery(folder):
  index = json.loads((folder / 'gallery.json').read_text())
  for entry in index['entries']:
    for part in entry['parts']:
      if 'file' in part:
        assert (folder / part['file']).stat().st_size > 0
  return index


def test_samples_of_the_split_and_all_confusions(trained):
  workdir, run = trained
  told = json.loads(run('--mode=samples', '--config.samples.first=3', '--config.samples.worst=4').stdout)
  index = gallery(workdir / 'samples' / '60')
  assert told == {'step': 60, 'samples': str(workdir / 'samples' / '60'), 'examples': 360}
  assert np.sum(index['confusion']['counts']) == 360 and index['confusion']['names'] == [str(i) for i in range(10)]
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  accuracy = next(row['accuracy'] for row in rows if row['split'] == 'eval')
  assert np.trace(index['confusion']['counts']) / 360 == pytest.approx(accuracy)
  groups = [entry['group'] for entry in index['entries']]
  assert groups == ['first'] * 3 + ['largest loss'] * 4
  losses = [float(entry['title'].rpartition(' ')[2]) for entry in index['entries'][3:]]
  assert losses == sorted(losses, reverse=True)
  assert [part['kind'] for part in index['entries'][0]['parts']] == ['image', 'text', 'shares']


def test_a_batch_as_training_sees_it(trained, tmp_path):
  _, run = trained
  told = json.loads(run('--mode=inspect', '--config.samples.first=4', workdir=tmp_path / 'new').stdout)
  index = gallery(tmp_path / 'new' / 'inputs')
  assert told['examples'] == len(index['entries']) == 4
  assert index['facts']['inputs float32 [8, 8, 1]'].startswith('0 to 1, mean')
  run('--config.train.steps=1', '--config.optimizer.warmup_steps=0', workdir=tmp_path / 'new')  # is no stranger's


def test_pictures_in_tensorboard(trained):
  from tensorboard.backend.event_processing import event_accumulator

  workdir, _ = trained
  events = event_accumulator.EventAccumulator(str(workdir / 'tensorboard' / 'eval'), size_guidance={'tensors': 0})
  events.Reload()
  assert {'example 0/image', 'example 0/told', 'example 1/image'} <= set(events.Tags()['tensors'])
  (shown,) = events.Tensors('example 0/image')
  width, height, png = shown.tensor_proto.string_val
  assert (shown.step, width, height, png[:4]) == (60, b'8', b'8', b'\x89PNG')
  assert events.SummaryMetadata('example 0/image').plugin_data.plugin_name == 'images'


def test_files_are_predicted_like_the_split_here_and_without_this_package(trained, tmp_path):
  workdir, run = trained
  split = run('--mode=predict', '--pictures', '--config.data.eval_split=test[:5]').stdout.splitlines()
  known = [json.loads(line) for line in split]
  drawn = workdir / 'predictions' / '60'
  assert gallery(drawn)['kind'] == 'predictions'
  for number in range(5):  # the pictures hold 0 to 255, the digits 0 to 16
    shown = np.asarray(Image.open(drawn / f'{number:04d}-0.png'))
    Image.fromarray(np.round(shown / 255 * 16).astype(np.uint8)).save(tmp_path / f'{number}.png')
  (tmp_path / '5.png').write_bytes((tmp_path / '4.png').read_bytes()[:30])

  ended = run('--mode=predict', f'--input={tmp_path}/*.png', '--config.eval.global_batch_size=4', code=2)
  said = [json.loads(line) for line in ended.stdout.splitlines()]
  assert [row.pop('input') for row in said] == [str(tmp_path / f'{number}.png') for number in range(5)]
  expected = [{name: row[name] for name in ('class', 'probabilities')} for row in known]
  assert said == expected
  assert ended.stderr.splitlines()[-2:] == [
    f'error: {tmp_path}/5.png: not a picture that can be read: it is damaged, or no PNG, JPEG, BMP or GIF',
    'error: 1 of the inputs could not be read; the others were predicted',
  ]

  told = json.loads(run('--mode=export').stdout)
  export = workdir / 'export' / '60'
  assert told['examples'] == 360 and told['export'] == str(export)
  assert told['largest_difference'].keys() == {'probabilities', 'tflite probabilities'} and not told['left_out']
  assert max(told['largest_difference'].values()) <= 1e-5
  names = {
    'README.md',
    'examples',
    'model.keras',
    'model.safetensors',
    'model.tflite',
    'predict.py',
    'reading.py',
    'saved_model',
  }
  assert {path.name for path in export.iterdir()} == {*names, 'signature.json'}
  card = (export / 'README.md').read_text()
  assert 'Creative Commons Attribution 4.0' in card and '360 examples' in card and '| accuracy |' in card
  for number in range(5):
    tried, own = (
      np.asarray(Image.open(each)) for each in (export / f'examples/{number}.png', tmp_path / f'{number}.png')
    )
    np.testing.assert_array_equal(tried, own)
  done = subprocess.run(
    [sys.executable, export / 'predict.py', tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False,
    env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'},
  )  # fmt: skip
  assert done.returncode == 2 and str(ROOT) not in done.stdout
  elsewhere = [json.loads(line)['probabilities'] for line in done.stdout.splitlines()]
  for row, wanted in zip(elsewhere, expected, strict=True):
    assert list(row) == list(wanted['probabilities'])
    np.testing.assert_allclose(list(row.values()), list(wanted['probabilities'].values()), atol=2e-6)


def test_mistakes_are_one_line(trained, tmp_path):
  _, run = trained
  for args, wrong in (
    (('--mode=predict', '--input=nothing.png'), '--input=nothing.png: no such file'),
    (('--mode=eval', '--input=a.png'), 'is for --mode=predict: add that, or leave it out'),
  ):
    assert wrong in run(*args, code=2).line('error')
