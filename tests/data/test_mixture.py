"""Several sets in each batch: each in its own order, in whole groups, the same on every topology and from any step."""

from __future__ import annotations

import types

import numpy as np
import pytest

from tests.data import small
from trainer.data import pipeline as pipeline_lib
from trainer.errors import ConfigError

SOURCES = ['memory', 'lanes']
# Of 16 examples of a batch 12 are of the first, 4 of the second; both are the digits, so that only places tell.
SIZE = 93


def _config(directory, source, **fields):
  defaults = {'train_split': f'train[:{SIZE}]', 'lanes': 4, 'chunk_records': 3, 'window_records': 7, 'batch': 16}
  return small.config(directory, source=source, **{**defaults, 'mixture': (('uci_digits', 0.25),), **fields})


@pytest.mark.parametrize('source', SOURCES)
def test_each_set_comes_in_the_order_that_it_has_alone(sharded_dir, source):
  ids = small.train_ids(_config(sharded_dir, source), 3, 40)
  groups = ids.reshape(40, 4, 4)
  first, second = groups[:, :, :3].reshape(40, 12), groups[:, :, 3]
  assert first.max() < SIZE <= second.min(), 'three of the first, one of the second, and so on'
  for found, batch in ((first, 12), (second - SIZE, 4)):
    alone = small.train_ids(_config(sharded_dir, source, mixture=(), batch=batch), 3, 40)
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize('source', SOURCES)
def test_batches_are_the_same_on_every_topology_and_from_any_step(sharded_dir, source):
  settings = _config(sharded_dir, source)
  expected = small.train_batches(settings, 0, 24, task=small.AugmentedTask())
  for replicas, hosts, start in ((1, 1, 9), (2, 1, 0), (4, 1, 17), (2, 2, 0), (4, 4, 5)):
    topology = {'replicas': replicas, 'hosts': hosts, 'task': small.AugmentedTask()}
    found = small.train_batches(settings, start, 24 - start, **topology)
    for one, other in zip(expected[start:], found, strict=True):
      np.testing.assert_array_equal(one['index'], other['index'])
      np.testing.assert_array_equal(one['targets'], other['targets'])
      np.testing.assert_allclose(one['inputs']['image'], other['inputs']['image'], atol=1e-6)


def test_examples_are_those_that_the_index_names(sharded_dir):
  made = small.pipeline(_config(sharded_dir, 'memory'), replicas=2)
  ((first, bad), (second, _)) = made.examples_of(7)
  assert not bad.any()
  np.testing.assert_array_equal(
    np.concatenate([first, second]), small.train_ids(_config(sharded_dir, 'memory'), 7, 1)[0]
  )
  settings = _config(sharded_dir, 'memory')
  dataset = small.open_dataset(settings)
  labels = np.array([example['label'] for example in dataset.examples(dataset.train).as_numpy_iterator()])
  for batch in small.train_batches(settings, 0, 5):
    np.testing.assert_array_equal(batch['targets'], labels[batch['index'] % SIZE])


def test_what_the_order_depends_on_is_in_the_fingerprint(sharded_dir):
  def fingerprint(**fields):
    return small.pipeline(_config(sharded_dir, 'memory', **fields)).fingerprint

  one = (('uci_digits', 0.25),)
  found = [fingerprint(mixture=mixture) for mixture in ((), one, (('uci_digits', 0.5),), (*one, *one))]
  assert len(set(found)) == 4
  assert fingerprint(mixture=one) == found[1]


def test_the_banner_tells_each_set_and_the_budget_is_one(sharded_dir):
  made = small.pipeline(_config(sharded_dir, 'auto'))
  lines = '\n'.join(made.describe())
  assert lines.count('93 training examples') == 2 and 'batches of 12' in lines and 'batches of 4' in lines
  assert made.epochs(31) == pytest.approx(4.0)
  needed = SIZE * (64 * 4 + 8)
  tight = small.pipeline(_config(sharded_dir, 'auto', memory_budget_bytes=needed + 100))
  assert tight.source == 'memory+lanes' and 'what is left of data.memory_budget_bytes' in '\n'.join(tight.describe())
  made_up = small.pipeline(_config(sharded_dir, 'synthetic'))
  assert made_up.source == 'synthetic' and 'data.mixture is not read' in made_up.describe()[-1]


def test_sets_of_another_kind_are_refused(sharded_dir):
  def stream(spec=1, labels=(), tokens=None):
    features = {'tokens': types.SimpleNamespace(vocabulary=types.SimpleNamespace(state=lambda: tokens))}
    dataset = types.SimpleNamespace(labels=list(labels), features=features if tokens else {})
    return types.SimpleNamespace(examples=types.SimpleNamespace(spec=spec), dataset=dataset)

  for other, words in (
    (stream(), ''),
    (stream(spec=2), 'examples of another shape'),
    (stream(labels=['a']), 'other classes'),
    (stream(tokens=['b']), "other tokens (take data.pack_tokenizer='bytes', or one tokenizer.json for both)"),
  ):
    assert pipeline_lib._difference(stream(), other) == words
  with pytest.raises(ConfigError, match='nothing_of_that_name'):
    small.pipeline(_config(sharded_dir, 'memory', mixture=(('nothing_of_that_name', 0.25),)))
