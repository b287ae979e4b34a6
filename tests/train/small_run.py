"""A small model, task and stream of batches, trained by the real step on any number of logical CPU devices."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from trainer.optim import optimizers, sharding
from trainer.optim.sharding import Sharding
from trainer.train.state import TrainState
from trainer.train.step import FIRST_LOSS_SCALE, FIXED_SUMS, TrainStep

BATCH = 32
CLASSES = 10


@functools.cache
def strategy(replicas: int) -> tf.distribute.Strategy:
  """The first of the process's four logical devices, or a mirror over several of them."""
  if replicas == 1:
    return tf.distribute.get_strategy()
  # Strategies of several sizes in one process must not share the keys of their collectives.
  tf.distribute.MirroredStrategy._collective_key_base = 1000 * replicas
  return tf.distribute.MirroredStrategy([f'CPU:{i}' for i in range(replicas)])


class Task:
  """Sparse cross-entropy and accuracy, without the rest of a task."""

  def __init__(self):
    self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

  def weights(self, batch):
    return batch['weight']

  def losses(self, outputs, batch):
    return self.loss(batch['targets'], tf.cast(outputs, tf.float32))

  def metric_values(self, outputs, batch):
    hits = tf.cast(tf.argmax(outputs, -1) == batch['targets'], tf.float32) * batch['weight']
    return tf.stack([tf.reduce_sum(hits), tf.reduce_sum(batch['weight'])])


def model(norm: str, dropout: float) -> keras.Model:
  layers = keras.layers
  norms = {
    'none': [],
    'batch': [layers.BatchNormalization(name='norm')],
    'sync_batch': [layers.BatchNormalization(synchronized=True, name='norm')],
    'group': [layers.GroupNormalization(4, name='norm')],
  }
  return keras.Sequential(
    [
      layers.Input((8, 8, 1)),
      # A bias before batch statistics has no effect, and so a gradient of pure rounding, which AdamW blows up.
      layers.Conv2D(8, 3, use_bias='batch' not in norm, kernel_regularizer='l2', name='conv'),
      *norms[norm],
      layers.ReLU(name='relu'),
      layers.Flatten(name='flatten'),
      *([layers.Dropout(dropout, name='dropout')] if dropout else []),
      layers.Dense(CLASSES, dtype='float32', name='logits'),
    ],
    name='small',
  )


def batches(replicas: int, *, spike_at: int = -1, spike: float = 1.0):
  """The same global batches for any number of replicas; about one example in seven weighs nothing.

  Args:
    replicas: parts that each global batch is cut into.
    spike_at: index of one example (of 1024) that is multiplied by `spike`; it is in the first replica's part of a
    batch.
  """
  random = np.random.default_rng(0)
  images = random.random((1024, 8, 8, 1), np.float32)
  labels = (images.sum((1, 2, 3)) * 7).astype(np.int64) % CLASSES
  if spike_at >= 0:
    images[spike_at] *= spike
  part = BATCH // replicas

  def batch(number):
    ids = (tf.range(part, dtype=tf.int64) + number * part) % 1024
    weight = tf.where(ids % 7 == 0, 0.0, 1.0)
    return {'inputs': tf.gather(images, ids), 'targets': tf.gather(labels, ids), 'weight': weight, 'index': ids}

  def pipeline(context):
    """The parts of one host's replicas, batch after batch."""
    hosts, host = (context.num_input_pipelines, context.input_pipeline_id) if context else (1, 0)
    local = replicas // hosts
    numbers = tf.data.Dataset.range(10**9).map(lambda n: n // local * replicas + host * local + n % local)
    return numbers.map(batch)

  return pipeline


def train(
  replicas: int = 1, *, steps: int = 50, micro_batches: int = 1, norm: str = 'none', dropout: float = 0.0,
  policy: str = 'float32', on_nonfinite: str = 'skip', xla: bool = False,
  block: int = 50, spike: float = 1.0, spike_at: int = 325,
  spike_deviations: float = 0.0, on_spike: str = 'skip', clip_norm: float = 0.5,
  on=None, shard: bool = False, optimizer: str = 'adamw', first: int = 0,
  dtype: str = 'float32', bucket: int = 0,
) -> SimpleNamespace:  # fmt: skip
  """Trains and returns rows [steps, M], state, step and strategy; `bucket`: elements that travel together."""
  where = on or strategy(replicas)
  optimizer_config = SimpleNamespace(
    name=optimizer, learning_rate=0.01, schedule='cosine', warmup_steps=5, decay_steps=0, end_factor=0.0,
    decay_rate=0.1, boundaries=(), power=1.0, weight_decay=0.1, decay_all=False, options='',
    clip_norm=clip_norm, ema_decay=0.9, moment_dtype=dtype, ema_dtype=dtype,
  )  # fmt: skip
  config = SimpleNamespace(
    seed=3,
    deterministic=True,
    train=SimpleNamespace(
      global_batch_size=BATCH,
      micro_batches=micro_batches,
      on_nonfinite=on_nonfinite,
      spike_deviations=spike_deviations,
      on_spike=on_spike,
    ),
    optimizer=optimizer_config,
  )
  keras.config.set_dtype_policy(policy)
  try:
    keras.utils.set_random_seed(0)
    with where.scope():
      net = model(norm, dropout)
      variables = list(net.trainable_variables)
      with mock.patch.object(sharding, '_BUCKET_ELEMENTS', bucket or sharding._BUCKET_ELEMENTS):
        split = Sharding(net, replicas=where.num_replicas_in_sync, first=first) if shard else None
      built = optimizers.create(optimizer_config, 100, variables, split.masters if split else None)
      scale = FIRST_LOSS_SCALE if policy == 'mixed_float16' else 1.0
      state = TrainState(net, built, ema=True, loss_scale=scale, ema_dtype=dtype, sharding=split)
    step = TrainStep(config, where, state, Task(), SimpleNamespace(policy=policy, xla=xla))
    # Example 5 + 10 x 32 is in the first replica's part of batch 10 (and 42, 74 ...: each 1024 examples).
    dataset = where.distribute_datasets_from_function(
      batches(where.num_replicas_in_sync, spike_at=spike_at, spike=spike)
    )
    iterator, rows = iter(dataset), []
    for first in range(0, steps, block):
      size = min(block, steps - first)
      rows.append(step.run(iterator, tf.constant(first, tf.int64), tf.constant(size), tf.zeros(3))[0].numpy())
  finally:
    keras.config.set_dtype_policy('float32')
  return SimpleNamespace(rows=step.split(np.concatenate(rows)), state=state, step=step, strategy=where)


def replica_losses_on_equal_examples(*, dropout: float) -> list[float]:
  """The loss sum that each of two replicas computes on the same examples before anything is reduced."""
  run = train(2, steps=1, dropout=dropout)
  one = next(iter(batches(2)(None)))

  @tf.function
  def both():
    def replica():
      number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
      packed, _ = run.step._gradients(one, tf.constant(7, tf.int64), number, tf.zeros(3))
      return packed[0][-(len(FIXED_SUMS) + 2 + run.step.replicas)]

    return run.strategy.run(replica)

  return [float(value) for value in run.strategy.experimental_local_results(both())]
