"""Opening datasets: features, splits, slices, decoding, and every mistake in one line."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.data import small
from trainer.data import datasets
from trainer.data.source import open_dataset
from trainer.errors import ConfigError


@pytest.fixture
def broken_dir(data_dir, tmp_path):
  """A copy of the prepared digits that a test may damage."""
  open_dataset(small.config(data_dir))
  shutil.copytree(pathlib.Path(data_dir) / 'uci_digits', tmp_path / 'uci_digits')
  return tmp_path


def _message(settings) -> str:
  with pytest.raises(ConfigError) as caught:
    open_dataset(settings)
  text = str(caught.value)
  assert '\n' not in text
  return text


def test_digits(data_dir):
  dataset = open_dataset(small.config(data_dir))
  assert (dataset.name, dataset.version) == ('uci_digits', '1.0.0')
  assert (dataset.train.num_examples, dataset.evaluation.num_examples) == (1437, 360)
  assert dataset.labels == {'label': [str(digit) for digit in range(10)]}
  table = datasets.table('digits.csv.gz')
  for split, rows in ((dataset.train, table[:1437]), (dataset.evaluation, table[1437:])):
    examples = list(dataset.examples(split).as_numpy_iterator())
    images = np.stack([example['image'] for example in examples])
    assert images.dtype == np.uint8 and images.max() == 16
    np.testing.assert_array_equal(images.reshape(-1, 64), rows[:, :64])
    np.testing.assert_array_equal([example['label'] for example in examples], rows[:, 64])


@pytest.mark.parametrize(
  ('name', 'sizes', 'width', 'target'),
  [('diabetes', (354, 88), 10, 'target'), ('breast_cancer', (456, 113), 30, 'label')],
)
def test_tables(data_dir, name, sizes, width, target):
  dataset = open_dataset(small.config(data_dir, dataset=name))
  assert (dataset.train.num_examples, dataset.evaluation.num_examples) == sizes
  features, targets = [], []
  for split in (dataset.train, dataset.evaluation):
    examples = list(dataset.examples(split).as_numpy_iterator())
    features.append(np.stack([example['features'] for example in examples]))
    targets.append(np.array([example[target] for example in examples]))
  assert features[0].dtype == np.float32 and features[0].shape[1] == width
  if name == 'diabetes':
    # The first row and the first test row of the published table.
    np.testing.assert_allclose(features[0][0], [59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87], rtol=1e-6)
    assert targets[0][0] == 151
    assert (np.concatenate(targets).min(), np.concatenate(targets).max()) == (25, 346)
  else:
    assert dataset.labels == {'label': ['malignant', 'benign']}
    assert np.bincount(np.concatenate(targets)).tolist() == [212, 357]
    assert features[0][0][0] == np.float32(17.99)


@pytest.mark.parametrize('name', datasets.BUILDERS)
def test_names_of_features_fit_the_columns(name):
  module = __import__(datasets.BUILDERS[name][0], fromlist=['x'])
  if hasattr(module, 'FEATURE_NAMES'):
    info = datasets.builder_class(name)(data_dir='unused').info
    assert len(set(module.FEATURE_NAMES)) == info.features['features'].shape[0]


@pytest.mark.slow
def test_none_has_the_name_of_a_set_that_tfds_has(run_python):
  code = 'import json, tensorflow_datasets as t; print(json.dumps(t.list_builders(with_community_datasets=False)))'
  known = run_python(code)
  assert 'mnist' in known and not set(known) & set(datasets.BUILDERS)


def test_decode_is_a_graph_op(data_dir):
  dataset = open_dataset(small.config(data_dir))
  traced = tf.function(dataset.decode).get_concrete_function(tf.TensorSpec([], tf.string))
  assert traced.structured_outputs['image'].shape == (8, 8, 1)
  assert 'EagerPyFunc' not in {op.type for op in traced.graph.get_operations()}


@pytest.mark.parametrize('shards', [1, 5])
@pytest.mark.parametrize(
  ('slice_', 'rows'),
  [
    ('train[:90%]', range(1293)),
    ('train[10:17]', range(10, 17)),
    ('train[-3:]', range(1434, 1437)),
    ('train[1000:]+train[:5]', [*range(1000, 1437), *range(5)]),
  ],
)
def test_slices(data_dir, tmp_path_factory, shards, slice_, rows):
  directory = tmp_path_factory.getbasetemp() / f'sharded{shards}'
  if not directory.exists():
    small.shard(directory, shards)
    assert len(small.data_files(directory)) == shards
  dataset = open_dataset(small.config(directory, train_split=slice_))
  labels = [int(example['label']) for example in dataset.examples(dataset.train).as_numpy_iterator()]
  assert dataset.train.num_examples == len(rows)
  np.testing.assert_array_equal(labels, datasets.table('digits.csv.gz')[list(rows), 64])


def test_fingerprint_tells_splits_apart(data_dir, tmp_path):
  def fingerprint(directory=data_dir, **fields) -> str:
    dataset = open_dataset(small.config(directory, **fields))
    return dataset.fingerprint(dataset.train)

  small.shard(tmp_path, 3)
  same = fingerprint()
  assert same == fingerprint(eval_split='train')
  others = [
    fingerprint(train_split='train[:90%]'),
    fingerprint(train_split='train[1:]'),
    fingerprint(train_split='test'),
    fingerprint(dataset='diabetes'),
    fingerprint(tmp_path),
  ]
  assert len({same, *others}) == len(others) + 1


def test_unknown_dataset_names_the_nearest(data_dir):
  assert "did you mean 'uci_digits'?" in _message(small.config(data_dir, dataset='uci_digit'))
  assert "did you mean 'fashion_mnist'?" in _message(small.config(data_dir, dataset='fashon_mnist'))


@pytest.mark.parametrize('name', ['uci_digits:9.9.9', 'uci_digits/large'])
def test_unknown_version_or_config(data_dir, name):
  assert name in _message(small.config(data_dir, dataset=name))


@pytest.mark.parametrize('name', ['huggingface:mnist', 'kaggle:x', '../uci_digits', 'uci digits', 'a/b/c/d'])
def test_names_that_are_none(data_dir, name):
  assert 'is no TFDS name' in _message(small.config(data_dir, dataset=name))


def test_unknown_split(data_dir):
  message = _message(small.config(data_dir, train_split='trian'))
  assert 'data.train_split' in message and "did you mean 'train'?" in message and 'train, test' in message
  message = _message(small.config(data_dir, eval_split='validation'))
  assert 'data.eval_split' in message and 'train, test' in message


@pytest.mark.parametrize('split', ['train[', 'train[:90%', 'train[:200%]', 'train[5:3:1]', 'train[2000:]', ''])
def test_malformed_split(data_dir, split):
  assert 'data.train_split' in _message(small.config(data_dir, train_split=split))


@pytest.mark.parametrize('split', ['train[:0]', 'train[5:5]', 'train[:0%]'])
def test_empty_split(data_dir, split):
  message = _message(small.config(data_dir, train_split=split))
  assert 'is empty' in message and 'train (1437 examples)' in message


def test_missing_file_is_named(broken_dir):
  (path,) = small.data_files(broken_dir)
  path.unlink()
  assert str(path) in _message(small.config(broken_dir))


@pytest.mark.parametrize('source', ['memory', 'lanes'])
def test_truncated_file_is_named(broken_dir, source):
  (path,) = small.data_files(broken_dir)
  path.write_bytes(path.read_bytes()[:-7])
  made = small.pipeline(small.config(broken_dir, source=source))
  with pytest.raises(ConfigError, match=str(path)):
    made.train(tf.distribute.get_strategy(), 0)


def test_corrupt_record_is_named(broken_dir):
  (path,) = small.data_files(broken_dir, 'test')
  content = bytearray(path.read_bytes())
  content[1000] ^= 16
  path.write_bytes(content)
  made = small.pipeline(small.config(broken_dir, source='memory'))
  with pytest.raises(ConfigError, match=str(path)):
    made.evaluate(tf.distribute.get_strategy())


def test_broken_info_file(broken_dir):
  (info,) = broken_dir.glob('*/*/dataset_info.json')
  info.write_text('{')
  assert 'uci_digits' in _message(small.config(broken_dir))


def test_other_file_formats_are_refused(broken_dir):
  (info,) = broken_dir.glob('*/*/dataset_info.json')
  info.write_text(json.dumps({**json.loads(info.read_text()), 'fileFormat': 'array_record'}))
  message = _message(small.config(broken_dir))
  assert 'array_record' in message and 'tfrecord' in message
