"""What is done to hold less changes nothing: 50 steps of a language model, and what is computed twice on purpose."""

import functools

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from tests.models import parity_gpt
from trainer import config as config_lib
from trainer.errors import ConfigError
from trainer.models import parts
from trainer.runtime import cluster
from trainer.train import session

STEPS = 50


def config(**changes) -> ml_collections.ConfigDict:
  made = config_lib.base(task='language_modeling', model='gpt')
  made.data.update({'dataset': 'python_docs', 'source': 'synthetic', 'pack_tokens': 16, 'pack_feature': 'text'})
  made.model.update({'layers': 2, 'width': 16, 'heads': 2})
  made.train.update({'steps': STEPS, 'global_batch_size': 16})
  for name, value in changes.items():
    section, field = name.split('__')
    made[section][field] = value
  config_lib.check(made)
  return made


@functools.cache
def losses(xla='off', dropout=0.0, **changes):
  """[STEPS]."""
  made = config(precision__xla=xla, model__dropout=dropout, **changes)
  built = session.build(made, cluster.discover(made))
  step = built.train_step()
  iterator = iter(built.pipeline.train(built.strategy, 0))
  rows, _ = step.run(iterator, tf.constant(0, tf.int64), tf.constant(STEPS), tf.zeros([3]))
  found = step.split(rows.numpy())
  return found.sum('loss') / found.sum('weight')


SAVERS = [
  {'train__micro_batches': 2},
  {'train__micro_batches': 8},
  {'model__remat': 'blocks'},
  {'model__remat': 'attention'},
  {'model__attention': 'blockwise'},
  {'model__head_chunks': 4},
  {'model__attention': 'blockwise', 'model__remat': 'blocks', 'model__head_chunks': 2, 'train__micro_batches': 2},
]


@pytest.mark.parametrize('xla', ['off', 'on'])
@pytest.mark.parametrize('changes', SAVERS)
def test_losses_are_the_same(changes, xla):
  expected = losses()
  assert expected[-1] < expected[0] - 0.05
  np.testing.assert_allclose(losses(xla, **changes), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('remat', 'xla'),
  [
    ('blocks', 'on'),
    ('attention', 'off'),
    *(pytest.param(*way, marks=pytest.mark.thorough) for way in (('blocks', 'off'), ('attention', 'on'))),
  ],
)
def test_dropout_is_the_same_when_it_is_computed_again(remat, xla):
  np.testing.assert_allclose(losses(xla, 0.3, model__remat=remat), losses(xla, 0.3), rtol=1e-5)
  assert np.abs(losses(xla, 0.3) - losses(xla)).max() > 1e-3


def lowered(**changes):
  """The gradient of a model as XLA is given it."""
  model = parity_gpt.build(300, 16, layers=2, width=16, heads=2, **changes)
  parts.compiled(model, True)

  @tf.function(jit_compile=True, autograph=False)
  def gradient(ids):
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    with tf.GradientTape() as tape:
      tape.watch(weights)
      outputs, _ = model.stateless_call(weights, [], ids, training=True)
      loss = tf.reduce_sum(outputs**2)
    return tape.gradient(loss, weights)

  return gradient.experimental_get_compiler_ir(tf.TensorSpec([2, 16], tf.int32))(stage='hlo')


def test_what_is_computed_twice_stands_behind_a_barrier():
  """The compiler for TPUs heeds it (README.md); the one for CPUs takes it away, and computes all but once."""
  plain, blocks = lowered(), lowered(remat='blocks')
  # Of each of two blocks: queries, keys, values, scores, shares, what is written, and two dense layers but the last.
  assert blocks.count(' dot(') >= plain.count(' dot(') + 2 * 6
  # Of each attention, for the mask and the scores, wherever they are computed, and for their gradient; and one before
  # and one behind a gradient.
  assert plain.count(' opt-barrier(') == 2 * 3 and blocks.count(' opt-barrier(') == 2 * (3 + 4)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model__attention': 'blockwise', 'model__dropout': 0.1}, r'has no dropout: set model\.dropout=0'),
    ({'model__head_chunks': 3}, r'model\.head_chunks=3 does not divide the 16 places'),
  ],
)
def test_mistakes_are_one_line(changes, message):
  made = config(**changes)
  with pytest.raises(ConfigError, match=message):
    session.build(made, cluster.discover(made))
