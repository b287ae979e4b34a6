"""One raw example with nothing else known: what is described, how a table and a series come back, what is refused."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.serve import test_reading
from trainer import config as config_lib
from trainer import tasks
from trainer.errors import ConfigError
from trainer.serve import given, reading, writing


def made(task, model, features, **changes):
  config = config_lib.base(task=task, model=model)
  config.task.update(changes)
  features = tfds.features.FeaturesDict(features)
  return tasks.create(config, features, None), features


def prepared(task, features, value):
  flat = given.flat(task, value)
  specs = given.specs(task, features)
  assert list(flat) == list(specs)
  values = {name: tf.constant(part, specs[name].dtype) for name, part in flat.items()}
  return task.example(given.example(task, features, values))['inputs']


def test_a_row_of_a_table_by_its_columns():
  table = {'b': {'size': np.float32, 'kind': tfds.features.ClassLabel(names=['x', 'y'])}, 'a': np.int32}
  task, features = made('regression', 'mlp', {'row': table, 'target': np.float32})
  told = given.describe(task, features)
  assert told['kind'] == 'table'
  assert [(column['name'], column['classes']) for column in told['columns']] == [
    ('a', None), ('b/kind', ['x', 'y']), ('b/size', None),
  ]  # fmt: skip
  flat = {'a': 7, 'b/kind': 1, 'b/size': 0.5}
  nested = {'a': 7, 'b': {'kind': 1, 'size': 0.5}}
  whole = task.example({'row': tf.nest.map_structure(tf.constant, nested), 'target': tf.constant(0.0)})['inputs']
  for value in (flat, nested):
    np.testing.assert_array_equal(prepared(task, features, value), whole)


def test_a_series_needs_its_beginning_alone():
  series = {'series': tfds.features.Tensor(shape=(10, 2), dtype=np.float32), 'day': np.int32}
  task, features = made('forecasting', 'mlp', series, horizons=(1, 3), history=6)
  assert given.describe(task, features)['shape'] == [6, 2]
  window = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
  whole = task.example({'series': tf.constant(window), 'day': 0})['inputs']
  np.testing.assert_array_equal(prepared(task, features, window), whole)
  np.testing.assert_array_equal(prepared(task, features, window[:6]), whole)


def test_pictures_texts_and_recordings_are_described():
  label = tfds.features.ClassLabel(num_classes=3)
  task, features = made('classification', 'cnn', {'image': tfds.features.Image(shape=(8, 8, 1)), 'label': label})
  assert given.describe(task, features) == {'name': 'image', 'dtype': 'uint8', 'shape': [8, 8, 1], 'kind': 'image'}
  task, features = made('text_classification', 'ngrams', {'text': tfds.features.Text(), 'label': label})
  assert given.describe(task, features)['kind'] == 'text'
  audio = {'audio': tfds.features.Audio(sample_rate=8000), 'label': label}
  task, features = made('audio_classification', 'keyword_cnn', audio)
  told = given.describe(task, features)
  assert (told['kind'], told['rate'], told['shape']) == ('sound', 8000, [None])


def test_a_task_that_says_nothing_of_it(monkeypatch):
  label = tfds.features.ClassLabel(num_classes=3)
  task, features = made('text_classification', 'ngrams', {'text': tfds.features.Text(), 'label': label})
  monkeypatch.setattr(task, 'given', '')
  with pytest.raises(ConfigError, match=r'names no feature that it predicts from .* leave out --input'):
    given.describe(task, features)


@pytest.mark.parametrize('kind', ['image', 'sound', 'text', 'table', 'numbers', 'series'])
def test_what_is_written_is_read_back(tmp_path, kind):
  random = np.random.default_rng(0)
  told, values = {
    'image': (test_reading.IMAGE, [random.integers(0, 256, (8, 8, 1)).astype(np.uint8) for _ in range(2)]),
    'sound': (test_reading.SOUND, [random.integers(-9, 9, [50]).astype(np.int16) for _ in range(2)]),
    'text': (test_reading.TEXT, [b'one\ntwo', 'thrée'.encode()]),
    'table': (
      test_reading.TABLE,
      [
        {'carat': np.float32(0.1), 'cut': np.int64(1), 'rings': np.int32(3)},
        {'carat': np.float32(np.nan), 'cut': np.int64(-1), 'rings': np.int32(4)},
      ],
    ),
    'numbers': (test_reading.NUMBERS, [random.normal(size=3).astype(np.float32) for _ in range(2)]),
    'series': (test_reading.SERIES, [random.normal(size=(2, 2)).astype(np.float32) for _ in range(2)]),
  }[kind]
  writing.write(str(tmp_path / 'made'), told, values)
  found = [value for name in reading.expand([str(tmp_path / 'made')]) for _, value in reading.examples(name, told)]
  for value, wanted in zip(found, values, strict=True):
    if kind == 'table':
      assert {name: cell.item() for name, cell in value.items()} == pytest.approx(
        {name: cell.item() for name, cell in wanted.items()}, nan_ok=True
      )
    elif kind == 'text':
      assert value == wanted
    else:
      np.testing.assert_array_equal(value, wanted)
