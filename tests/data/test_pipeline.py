"""The input of a run: the same examples in the same batches on every topology, from any step, from either source."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.data import small
from trainer.data import examples, order
from trainer.errors import ConfigError

SOURCES = ['memory', 'lanes']
TOPOLOGIES = [(2, 1), (4, 1), (2, 2), (4, 4)]  # replicas, hosts


def _config(directory, source, **fields):
  """93 examples in batches of 8: small lanes, small windows, and epochs that end inside batches."""
  defaults = {'train_split': 'train[:93]', 'lanes': 4, 'chunk_records': 3, 'window_records': 7, 'batch': 8}
  return small.config(directory, source=source, **{**defaults, **fields})


@pytest.mark.parametrize('source', SOURCES)
def test_same_examples_on_every_topology(sharded_dir, source):
  settings = _config(sharded_dir, source)
  expected = small.train_ids(settings, 0, 40)
  for replicas, hosts in TOPOLOGIES:
    # From the beginning on two hosts, as after a resume on the others.
    start = 0 if hosts == 2 else 17
    ids = small.train_ids(settings, start, 40 - start, replicas=replicas, hosts=hosts)
    np.testing.assert_array_equal(ids, expected[start:], err_msg=f'{replicas} replicas on {hosts} hosts')


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('start', [1, 12, 16, 1_000_003])
def test_starting_at_a_step_is_skipping_to_it(sharded_dir, source, start):
  settings = _config(sharded_dir, source)
  if start < 1000:
    expected = small.train_ids(settings, 0, start + 6)[start:]
  else:  # too far to skip: where two starts overlap
    expected = small.train_ids(settings, start - 5, 11)[5:]
  np.testing.assert_array_equal(small.train_ids(settings, start, 6), expected)


def test_each_epoch_covers_each_example_once_in_memory(sharded_dir):
  ids = small.train_ids(_config(sharded_dir, 'memory'), 0, 93).reshape(-1)  # 8 epochs
  for epoch in np.split(ids, 8):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(93))
  assert (ids[:93] != ids[93:186]).mean() > 0.9


def test_each_epoch_covers_each_example_once_in_lanes(sharded_dir):
  ids = small.train_ids(_config(sharded_dir, 'lanes'), 0, 100)
  for lane in range(4):
    begin, end = order.lane_bounds(lane, 4, 93)
    rows = ids[:, 2 * lane : 2 * lane + 2].reshape(-1)
    epochs = np.split(rows[: len(rows) // (end - begin) * (end - begin)], len(rows) // (end - begin))
    assert len(epochs) >= 8
    for epoch in epochs:
      np.testing.assert_array_equal(np.sort(epoch), np.arange(begin, end))
    assert (epochs[0] != epochs[1]).mean() > 0.5


def test_one_lane_per_example(sharded_dir):
  """As many lanes as examples, and a batch that goes through several epochs of each."""
  settings = _config(sharded_dir, 'lanes', train_split='train[:4]', lanes=4, batch=16)
  assert (small.train_ids(settings, 5, 3) == np.repeat(np.arange(4), 4)).all()


@pytest.mark.parametrize('source', SOURCES)
def test_seed_and_batch_decide_the_order(sharded_dir, source):
  first = small.train_ids(_config(sharded_dir, source), 0, 20)
  again = small.train_ids(_config(sharded_dir, source), 0, 20)
  other = small.train_ids(_config(sharded_dir, source, seed=4), 0, 20)
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.8


@pytest.mark.parametrize('source', SOURCES)
def test_batches_hold_the_examples_that_they_name(sharded_dir, source):
  settings = _config(sharded_dir, source)
  dataset = small.open_dataset(settings)
  examples = list(dataset.examples(dataset.train).as_numpy_iterator())
  for batch in small.train_batches(settings, 3, 15, replicas=2, hosts=2):
    for row, index in enumerate(batch['index']):
      np.testing.assert_array_equal(batch['inputs']['image'][row], examples[index]['image'].astype(np.float32) / 16)
      assert batch['targets'][row] == examples[index]['label']
    np.testing.assert_array_equal(batch['weight'], np.ones(8, np.float32))
    assert batch['weight'].dtype == np.float32 and batch['index'].dtype == np.int64


@pytest.mark.parametrize('source', SOURCES)
def test_augmentation_depends_on_seed_epoch_and_example(sharded_dir, source):
  settings = _config(sharded_dir, source)
  task = small.AugmentedTask()
  one = small.train_batches(settings, 0, 30, task=task)
  draws: dict[int, list[np.ndarray]] = {}
  for batch in one:
    for index, numbers in zip(batch['index'], batch['draws'], strict=True):
      draws.setdefault(int(index), []).append(numbers)
  # An example meets other numbers in its next epoch, and no two examples meet the same.
  everything = np.stack([numbers for each in draws.values() for numbers in each])
  assert len(np.unique(everything, axis=0)) == 30 * 8
  for replicas, hosts in ((4, 2),):
    for ours, theirs in zip(
      one, small.train_batches(settings, 0, 30, replicas=replicas, hosts=hosts, task=task), strict=True
    ):
      np.testing.assert_array_equal(ours['draws'], theirs['draws'])
      np.testing.assert_allclose(ours['inputs']['image'], theirs['inputs']['image'], atol=1e-6)


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('start', [1, 13])
def test_resumed_batches_are_equal_to_the_last_bit(sharded_dir, source, start):
  settings = _config(sharded_dir, source)
  whole = small.train_batches(settings, 0, 40, task=small.PositionTask())[start:]
  resumed = small.train_batches(settings, start, 40 - start, task=small.PositionTask())
  for ours, theirs in zip(whole, resumed, strict=True):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize('budget', [2**31, 0], ids=['memory', 'streamed'])
@pytest.mark.parametrize(('examples', 'batch'), [(23, 8), (24, 8), (3, 32), (5, 1)])
def test_evaluation_covers_each_example_once(sharded_dir, budget, examples, batch):
  settings = _config(
    sharded_dir, 'auto', eval_split=f'test[70:{70 + examples}]', eval_batch=batch, memory_budget_bytes=budget
  )
  for replicas, hosts in [(1, 1), (2, 2), (8, 2)]:
    if batch % replicas:
      continue
    made = small.pipeline(settings, replicas=replicas, workers=hosts)
    dataset, steps = made.evaluate(small.Hosts(hosts, replicas))
    batches = list(small.global_batches(dataset, replicas))
    assert steps == len(batches) == made.eval_steps == -(-examples // batch)
    assert made.eval_examples == examples
    joined = tf.nest.map_structure(lambda *rows: np.concatenate(rows), *batches)
    assert all(len(each['index']) == batch for each in batches)
    np.testing.assert_array_equal(joined['index'][:examples], np.arange(examples))
    np.testing.assert_array_equal(joined['weight'], np.arange(len(joined['weight'])) < examples)
    assert (joined['index'][examples:] == -1).all()
    # Padding is a real example, so that nothing a model does with it is out of the ordinary.
    last = joined['inputs']['image'][examples - 1]
    assert (joined['inputs']['image'][examples:] == last).all()


def test_evaluation_is_not_augmented(sharded_dir):
  plain, augmented = (
    list(small.pipeline(_config(sharded_dir, 'memory'), task=task).evaluate(tf.distribute.get_strategy())[0])
    for task in (small.ImageTask(), small.AugmentedTask())
  )
  for ours, theirs in zip(plain, augmented, strict=True):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize('source', [*SOURCES, 'synthetic'])
@pytest.mark.parametrize('task', [small.ImageTask(), small.AugmentedTask()], ids=['plain', 'augmented'])
def test_batch_spec(sharded_dir, source, task):
  made = small.pipeline(_config(sharded_dir, source), replicas=2, task=task)
  (dataset,) = made.train(small.Hosts(1, 2), 0)
  assert dataset.element_spec == made.batch_spec
  assert made.batch_spec['inputs']['image'] == tf.TensorSpec([4, 8, 8, 1], tf.float32)
  assert ('draws' in made.batch_spec) == bool(task.draws)


@pytest.mark.parametrize('source', [*SOURCES, 'synthetic'])
def test_graphs_run_without_python(sharded_dir, source):
  """Hosts of a TPU run graphs only: no op of the input may call back into this process."""
  made = small.pipeline(_config(sharded_dir, source, memory_budget_bytes=0), replicas=2, task=small.AugmentedTask())
  for (dataset,) in (made.train(small.Hosts(1, 2), 3), made.evaluate(small.Hosts(1, 2))[0]):
    graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    names = {node.op for node in graph.node} | {node.op for f in graph.library.function for node in f.node_def}
    assert not {name for name in names if 'PyFunc' in name or 'Generator' in name}
    assert len(names) > 5


@pytest.mark.slow
def test_mirrored_replicas_get_their_parts(sharded_dir, run_python):
  """The real strategy on two logical devices gives replica r the r-th part of the same global batch."""
  settings = {source: small.train_ids(_config(sharded_dir, source), 5, 4).tolist() for source in SOURCES}
  code = f"""
import json
import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops
from tests.data import small
from tests.data.test_pipeline import _config
behind = []
multi_device_iterator_ops.iter = lambda dataset: behind.append(dataset.options().autotune.enabled) or iter(dataset)
cpu = tf.config.list_physical_devices('CPU')[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
result = {{}}
for source in ('memory', 'lanes'):
  made = small.pipeline(_config({str(sharded_dir)!r}, source), replicas=2)
  iterator = iter(made.train(strategy, 5))
  assert tf.type_spec_from_value(iter(made.empty(strategy))) == tf.type_spec_from_value(iterator)
  parts = [strategy.experimental_local_results(next(iterator)['index']) for _ in range(4)]
  result[source] = [tf.concat(part, 0).numpy().tolist() for part in parts]
  dataset, steps = made.evaluate(strategy)
  seen = [tf.concat(strategy.experimental_local_results(batch['index']), 0).numpy().tolist() for batch in dataset]
  assert len(seen) == steps == 45 and sum(seen, []) == list(range(360)), (len(seen), steps)
assert len(behind) == 12 and not any(enabled is not False for enabled in behind), behind  # nothing that holds up an end
print(json.dumps(result))
"""
  assert run_python(code) == settings


def test_source_follows_the_budget(sharded_dir):
  """The split as the task prepares it, 93 x (64 floats + a label), and not as it lies on disk."""
  size = 93 * (64 * 4 + 8)
  for budget, source in ((size, 'memory'), (size - 1, 'lanes')):
    made = small.pipeline(_config(sharded_dir, 'auto', memory_budget_bytes=budget))
    assert made.source == source
    assert any('memory_budget_bytes' in line for line in made.describe())
    assert made.fingerprint.split()[4] == source
  assert 'source: lanes, because the config says so' in small.pipeline(_config(sharded_dir, 'lanes')).describe()


def test_fingerprint_tells_orders_apart(sharded_dir):
  def fingerprint(source='lanes', **fields) -> str:
    return small.pipeline(_config(sharded_dir, source, **fields)).fingerprint

  same = fingerprint()
  assert same == fingerprint(eval_batch=4)
  different = [
    fingerprint('memory'),
    fingerprint(lanes=2),
    fingerprint(chunk_records=2),
    fingerprint(window_records=9),
    fingerprint(train_split='train[:92]'),
  ]
  assert len({same, *different}) == 6
  # What the memory order does not use does not change it.
  assert fingerprint('memory') == fingerprint('memory', chunk_records=2, window_records=9)


def test_banner(sharded_dir):
  lines = '\n'.join(small.pipeline(_config(sharded_dir, 'lanes', eval_batch=100)).describe())
  assert '93 training examples (train[:93])' in lines and '360 examples of uci_digits (test)' in lines
  assert 'the 5 left over go into the order of the next epoch; no example is dropped' in lines
  assert '4 lanes of about 23.25 examples, 2 of each in a batch' in lines
  assert '4 batches of 100, 40 rows of padding' in lines
  even = '\n'.join(small.pipeline(_config(sharded_dir, 'memory', batch=93, lanes=1)).describe())
  assert 'left over' not in even and 'no example is dropped' in even


def test_lanes_that_hosts_cannot_share(sharded_dir):
  with pytest.raises(ConfigError, match=r'4 lanes cannot be shared by 3 hosts'):
    small.pipeline(_config(sharded_dir, 'lanes', batch=12), replicas=3, workers=3)
  # One process may drive several hosts.
  made = small.pipeline(_config(sharded_dir, 'lanes', batch=24), replicas=3, workers=1)
  with pytest.raises(ConfigError, match=r'data\.lanes'):
    made.train(small.Hosts(3, 3), 0)


def test_more_lanes_than_examples(sharded_dir):
  with pytest.raises(ConfigError, match=r'data\.lanes=8 is more than the 5 examples'):
    small.pipeline(_config(sharded_dir, 'lanes', train_split='train[:5]', lanes=8))


def test_examples_without_a_fixed_shape(sharded_dir):
  class Ragged(small.ImageTask):
    def example(self, features):
      return {'inputs': tf.boolean_mask(features['image'], features['image'] > 0), 'targets': features['label']}

  class Text(small.ImageTask):
    def example(self, features):
      return {'inputs': features['image'], 'targets': tf.strings.as_string(features['label'])}

  with pytest.raises(ConfigError, match=r'inputs of an example has the shape'):
    small.pipeline(_config(sharded_dir, 'memory'), task=Ragged())
  with pytest.raises(ConfigError, match=r'targets of an example is text'):
    small.pipeline(_config(sharded_dir, 'memory'), task=Text())


@pytest.mark.parametrize('batch', [1, 6, 8, 35])
def test_records_prepared_together_are_what_they_are_alone(sharded_dir, batch):
  settings = _config(sharded_dir, 'memory')
  dataset = small.open_dataset(settings)
  prepared = examples.Examples(dataset, small.ImageTask())
  rows = prepared.in_order(dataset.train, [(0, 70)])
  alone = rows.map(lambda index, serialized: (index, small.ImageTask().example(dataset.decode(serialized))))
  together = prepared.batches(rows, batch).unbatch()
  count = 0
  for ours, theirs in zip(together, alone, strict=False):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)
    count += 1
  assert count == 70 // batch * batch


@pytest.mark.parametrize('source', SOURCES)
def test_a_step_traced_with_the_empty_input_takes_the_real_one(sharded_dir, source):
  made = small.pipeline(_config(sharded_dir, source), task=small.AugmentedTask())
  strategy = tf.distribute.get_strategy()
  take = tf.function(lambda iterator: next(iterator)['index'])
  take.get_concrete_function(iter(made.empty(strategy)))
  assert made._streams[0].examples._kept == {}  # nothing was read
  iterator = iter(made.train(strategy, 5))
  np.testing.assert_array_equal(take(iterator), small.train_ids(_config(sharded_dir, source), 5, 1)[0])
  assert take.experimental_get_tracing_count() == 1


def test_memory_reads_the_files_once(sharded_dir, monkeypatch):
  made = small.pipeline(_config(sharded_dir, 'memory', eval_split='train[:93]'))
  strategy = tf.distribute.get_strategy()
  first = next(iter(made.train(strategy, 3)))
  monkeypatch.setattr(made._streams[0].examples, 'load', lambda split: pytest.fail('read again'))
  again = next(iter(made.train(strategy, 3)))
  np.testing.assert_array_equal(first['index'], again['index'])
  next(iter(made.evaluate(strategy)[0]))  # the same split
