"""Made-up input: needs no data, keeps to the ranges of the features, and covers the evaluation split."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.data import small
from trainer.data import synthetic
from trainer.data.source import open_dataset


class MnistTask:
  draws = 0

  def example(self, features):
    return {'inputs': features['image'], 'targets': features['label']}


def test_set_that_is_not_there(tmp_path):
  settings = small.config(tmp_path, dataset='mnist', source='synthetic', batch=100, eval_batch=4096)
  made = small.pipeline(settings, replicas=2, task=MnistTask())
  assert made.source == 'synthetic'
  batches = small.train_batches(settings, 7, 3, replicas=2, task=MnistTask())
  for batch in batches:
    assert batch['inputs'].shape == (100, 28, 28, 1) and batch['inputs'].dtype == np.uint8
    assert batch['inputs'].max() > 200 and batch['inputs'].std() > 50
    assert set(batch['targets']) == set(range(10))
    assert (batch['weight'] == 1).all()
  np.testing.assert_array_equal(batches[0]['inputs'], batches[2]['inputs'])
  dataset, steps = made.evaluate(small.Hosts(1, 2))
  evaluated = list(small.global_batches(dataset, 2))
  assert steps == len(evaluated) == 3
  assert sum(batch['weight'].sum() for batch in evaluated) == 10_000
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('split', 'size'), [('test[:24]', 24), ('test[8:24]', 16), ('test[9:3]', 10_000)])
def test_a_slice_of_a_set_that_is_not_there(tmp_path, split, size):
  settings = small.config(tmp_path, dataset='mnist', source='synthetic', eval_split=split)
  assert open_dataset(settings).evaluation.num_examples == size


def test_size_of_a_prepared_set_is_kept(data_dir):
  open_dataset(small.config(data_dir))
  dataset = open_dataset(small.config(data_dir, source='synthetic'))
  assert (dataset.train.num_examples, dataset.evaluation.num_examples) == (1437, 360)


def test_hosts_and_seeds(data_dir):
  settings = small.config(data_dir, source='synthetic', batch=16)
  one = small.train_batches(settings, 0, 2)
  four = small.train_batches(settings, 9, 2, replicas=4, hosts=2)
  np.testing.assert_array_equal(one[0]['inputs']['image'], four[0]['inputs']['image'])
  other = small.train_batches(small.config(data_dir, source='synthetic', batch=16, seed=8), 0, 1)
  assert (one[0]['inputs']['image'] != other[0]['inputs']['image']).any()


def test_features_of_all_kinds():
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'small': tfds.features.Image(shape=(9, 7, 1), dtype=np.uint16),
      'label': tfds.features.ClassLabel(num_classes=3),
      'text': tfds.features.Text(),
      'audio': tfds.features.Audio(),
      'flag': tfds.features.Scalar(np.bool_),
      'number': tfds.features.Tensor(shape=(4, None), dtype=np.float32),
      'objects': tfds.features.Sequence(
        {'bbox': tfds.features.BBoxFeature(), 'label': tfds.features.ClassLabel(num_classes=2)}
      ),
      'tokens': tfds.features.Sequence(np.int64, length=5),
      'nested': {'label': tfds.features.ClassLabel(names=['a', 'b'])},
    }
  )

  class Everything:
    def example(self, raw):
      return raw

  made = tf.nest.map_structure(lambda tensor: tensor.numpy(), synthetic.examples(features, Everything(), 0))
  assert made['image'].shape[0] == synthetic.EXAMPLES and made['image'].shape[3] == 3
  assert made['image'].dtype == np.uint8 and made['small'].dtype == np.uint16
  assert set(made['label']) == {0, 1, 2} and set(made['nested']['label']) == {0, 1}
  assert set(np.unique(made['objects']['label'])) == {0, 1}
  low, high = made['objects']['bbox'][..., :2], made['objects']['bbox'][..., 2:]
  assert (low >= 0).all() and (low <= high).all() and (high <= 1).all()
  assert made['tokens'].shape[1:] == (5,) and made['tokens'].min() >= 0
  assert made['flag'].dtype == bool
  assert made['number'].dtype == np.float32 and made['number'].min() >= 0 and made['number'].max() < 1
  assert len(set(made['text'])) > 30 and len({len(text) for text in made['text']}) > 10
  assert {word for text in made['text'] for word in text.split()[1:-1]} <= set(
    b'The quick brown fox jumps over the lazy dog.'.split()
  )
  # What comes out of a real record has the same types and ranks.
  spec = features.get_tensor_spec()
  for name in ('image', 'small', 'label', 'text', 'audio', 'flag', 'number', 'tokens'):
    assert made[name].ndim - 1 == spec[name].shape.rank, name
    if spec[name].dtype != tf.string:
      assert made[name].dtype == spec[name].dtype.as_numpy_dtype, name


@pytest.mark.parametrize('eval_split', ['test', '', 'nowhere'])
def test_eval_split_does_not_matter(data_dir, eval_split):
  settings = small.config(data_dir, dataset='mnist', source='synthetic', eval_split=eval_split)
  assert open_dataset(settings).evaluation.num_examples == 10_000
