"""The training step, the same on every strategy: forward, backward, reduce, check, clip, update, average.

A replica adds up loss sums, weight sums and gradients over its micro-batches (`_gradients`, inside XLA where that
pays). One all-reduce sums them over the replicas. The rest (`_update`) runs on each replica alike, from the same
numbers: divide by the global sum of weights and the loss scale, check, clip, apply, average. A model is called
without writing to a variable (`stateless_call`), so the same function serves XLA, micro-batches and averaged weights.

The row of a step is a float32 vector: the sums of FIXED_SUMS, the task's metric sums, FACTS, and last what tells where
a number that is not finite came from (`Rows` takes it apart).
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from trainer.optim import optimizers
from trainer.optim.sharding import Collectives
from trainer.runtime.precision import Precision
from trainer.train.collectives import Replicas
from trainer.train.reduction import Exchange, exchange
from trainer.train.state import TrainState, as_computed

# Sums over replicas. `loss`, `weight` and `regularization` are sums over examples; `stop` counts the replicas whose
# process was told to stop, `save` those whose process wants a checkpoint; `block_steps` is what the chief asks of all,
# times its replicas.
FIXED_SUMS = ('loss', 'weight', 'regularization', 'stop', 'save', 'block_steps')
# Known after the reduction, the same on all replicas.
FACTS = ('gradient_norm', 'finite', 'spike', 'learning_rate', 'loss_scale')

# Dynamic loss scale (Micikevicius et al., Mixed Precision Training, 2018, section 3.2), with the usual constants.
FIRST_LOSS_SCALE = 2.0**15
LOSS_SCALE_GROWTH_STEPS = 2000

# Steps over which the mean and variance of the loss run, by which a spike is told; and none is before that many.
SPIKE_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a block of steps, taken apart; S steps, R replicas, P trainable variables.

  Attributes:
    main: float32 [S, M]: FIXED_SUMS, metric sums, FACTS.
    faults: float32 [S, R]: above 0 where a replica's own loss or gradient was not finite; [S, 0] with one replica.
    squares: float32 [S, P]: half the squared norm of the reduced gradient of each variable, before it is unscaled.
  """

  main: np.ndarray
  faults: np.ndarray
  squares: np.ndarray

  def sum(self, name: str) -> np.ndarray:
    """[S], one of FIXED_SUMS."""
    return self.main[:, FIXED_SUMS.index(name)]

  def fact(self, name: str) -> np.ndarray:
    """[S], one of FACTS."""
    return self.main[:, FACTS.index(name) - len(FACTS)]


class TrainStep:
  """Compiles and runs blocks of steps of one model, task and strategy."""

  def __init__(
    self,
    config,
    strategy: tf.distribute.Strategy,
    state: TrainState,
    task,
    precision: Precision,
    replicas: int | None = None,
  ):
    """Args:
    config: the run's.
    strategy: how replicas are laid out.
    state: what is trained.
    task: what is learnt.
    precision: dtypes, and whether XLA compiles.
    replicas: as many as there are to be where only `alone` is asked for; None: the strategy's.
    """
    self.strategy, self.state, self.task, self.model = strategy, state, task, state.model
    self.seed, self.deterministic = config.seed, config.deterministic
    self.batch_size = config.train.global_batch_size
    self.micro_batches = config.train.micro_batches
    self.clip_norm = config.optimizer.clip_norm
    self.ema_decay = config.optimizer.ema_decay
    self.scaled = precision.policy == 'mixed_float16'
    # A branch costs 0.03 ms, so there is none where a step that is not finite ends the run or is undone.
    self.skips_nonfinite = self.scaled or config.train.on_nonfinite == 'skip'
    self.spike_deviations = config.train.spike_deviations
    self.skips_spikes = bool(self.spike_deviations) and config.train.on_spike == 'skip'
    self.replicas = replicas or strategy.num_replicas_in_sync
    weights = {id(v) for v in self.model.weights}
    self.buffers = self.model.non_trainable_variables
    # What the forward pass changes: averaged over the replicas if it is a number, kept as it is if it is a seed.
    self.statistics = [i for i, v in enumerate(self.buffers) if id(v) in weights and 'float' in str(v.dtype)]
    self.counters = [i for i, v in enumerate(self.buffers) if id(v) in weights and 'float' not in str(v.dtype)]
    self.seeds = [i for i, v in enumerate(self.buffers) if id(v) not in weights]
    self._exchange: Exchange | None = None
    self._gradients_fn, self._update_fn = self._gradients, self._update
    if precision.xla:
      self._gradients_fn = tf.function(self._gradients, jit_compile=True, autograph=False)
      self._update_fn = tf.function(self._update, jit_compile=True, autograph=False)

  @tf.function
  def run(self, iterator, first_step: tf.Tensor, steps: tf.Tensor, control: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs a block of steps without returning to the host.

    Args:
      iterator: of a distributed dataset of batches.
      first_step: int64, steps done before the block.
      steps: int32, steps in the block.
      control: float32 [3], this process's `stop`, `save` and `block_steps`; the last is 0 but for the chief's.

    Returns:
      float32 [steps, M + R + P], the row of each step (`split`); float64 scalar, seconds in which the host waited for
      input, NaN where that is not measured. An accelerator may have been busy with the step before meanwhile, so there
      it is an upper bound.
    """
    rows, waited = tf.TensorArray(tf.float32, size=steps), tf.constant(0.0, tf.float64)
    for i in tf.range(steps):
      asked = self._clock()
      batch = next(iterator)
      waited += self._clock() - asked
      row = self.strategy.run(self._replica_step, args=(batch, first_step + tf.cast(i, tf.int64), control))
      rows = rows.write(i, self.strategy.experimental_local_results(row)[0])
    return rows.stack(), waited

  def trace(self, iterator) -> None:
    """Traces `run` for iterators of this type, and runs nothing: the first block then does not wait for Python."""
    self.run.get_concrete_function(
      iterator, tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32), tf.TensorSpec([3], tf.float32)
    )

  def _clock(self) -> tf.Tensor:
    """Seconds, float64. TensorFlow has one clock for graphs, and forbids it where ops are to be deterministic."""
    return tf.constant(np.nan, tf.float64) if self.deterministic else tf.timestamp()

  def split(self, rows: np.ndarray) -> Rows:
    """Takes the rows of `run` apart."""
    variables = len(self.state.trainable)
    replicas = self.replicas if self.replicas > 1 else 0
    end = rows.shape[1] - variables
    return Rows(rows[:, : end - replicas], rows[:, end - replicas : end], rows[:, end:])

  @tf.autograph.experimental.do_not_convert
  def _replica_step(self, batch: dict, step: tf.Tensor, control: tf.Tensor) -> tf.Tensor:
    return self._step(batch, step, control, Replicas(), self._gradients_fn, self._update_fn)

  def alone(self, batch: dict, step: tf.Tensor, control: tf.Tensor, collectives: Collectives) -> tf.Tensor:
    """A step of one replica outside of any strategy, for a compiler that is given all of it (trainer/plan)."""
    return self._step(batch, step, control, collectives, self._gradients, self._update)

  def _step(self, batch: dict, step: tf.Tensor, control: tf.Tensor, collectives: Collectives, gradients, update):
    packed, counters = gradients(batch, step, collectives.replica, control)
    assert self._exchange  # known when the gradients have been traced
    row, parcels = update(self._exchange.reduce(packed, collectives), counters)
    self._exchange.deliver(parcels, collectives)
    return row

  # -- before the reduction: this replica's sums ---------------------------------------------------------------------

  def _gradients(self, batch: dict, step: tf.Tensor, replica: tf.Tensor, control: tf.Tensor):
    """Packed (gradients, statistics, sums) of this replica's part of the batch, and its counters."""
    # Sums over the batch are kept near means, so that float16 does not overflow for its size alone.
    scale = self.state.loss_scale.value / self.batch_size
    parameters = [as_computed(v) for v in self.state.trainable]
    buffers = [tf.convert_to_tensor(v.value) for v in self.buffers]
    if self.micro_batches == 1:
      gradients, buffers, sums = self._forward_backward(batch, parameters, buffers, scale, step, replica, 0)
    else:
      gradients, buffers, sums = self._accumulate(batch, parameters, buffers, scale, step, replica)
    # The sums stay apart until the row is made: the weight is known before the gradients, and need not wait for them.
    rest = [*(buffers[i] for i in self.statistics), *sums, self._fault(gradients, sums, replica), control]
    if self._exchange is None:
      self._exchange = exchange(self.state.sharding, gradients, rest, self.replicas)
    return self._exchange.pack(gradients, rest), [buffers[i] for i in self.counters]

  def _fault(self, gradients: list[tf.Tensor], sums: list[tf.Tensor], replica: tf.Tensor) -> tf.Tensor:
    """float32 [R]: 1 at this replica's place if its own loss or gradient is not finite. With one replica, [0]."""
    if self.replicas == 1:
      return tf.zeros([0])
    squares = tf.add_n([tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in gradients])
    faulty = ~(tf.math.is_finite(squares) & tf.math.is_finite(sums[0]))
    return tf.one_hot(replica, self.replicas) * tf.cast(faulty, tf.float32)

  def _accumulate(self, batch: dict, parameters, buffers, scale, step, replica):
    """The same sums over micro-batches, one after another, in the memory of one."""
    pieces = tf.nest.map_structure(self._split, batch)
    piece = tf.nest.map_structure(lambda tensor: tensor[0], pieces)
    # The first piece runs ahead of the loop and gives the loop variables their shapes.
    gradients, buffers, sums = self._forward_backward(piece, parameters, buffers, scale, step, replica, 0)

    def body(i, gradients, buffers, sums):
      piece = tf.nest.map_structure(lambda tensor: tensor[i], pieces)
      more, buffers, other = self._forward_backward(piece, parameters, buffers, scale, step, replica, i)
      gradients, sums = ([a + b for a, b in zip(*pair, strict=True)] for pair in ((gradients, more), (sums, other)))
      return i + 1, gradients, buffers, sums

    loop = (tf.constant(1), gradients, buffers, sums)
    _, gradients, buffers, sums = tf.while_loop(
      lambda i, *_: i < self.micro_batches, body, loop, maximum_iterations=self.micro_batches - 1
    )
    return gradients, buffers, sums

  def _split(self, tensor: tf.Tensor) -> tf.Tensor:
    size = self.batch_size // self.replicas // self.micro_batches
    return tf.reshape(tensor, [self.micro_batches, size, *tensor.shape[1:]])

  def _forward_backward(self, batch, parameters, buffers, scale, step, replica, piece):
    """Gradients of the scaled loss, the buffers afterwards, and [loss, weight, regularization, metrics]."""
    buffers = list(buffers)
    if self.seeds:
      for i, seed in zip(self.seeds, self._seeds(step, replica, piece), strict=True):
        buffers[i] = tf.cast(seed, self.buffers[i].dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(parameters)
      outputs, after, loss, weight_sum, penalty = self._forward(batch, parameters, buffers)
      objective = (loss + penalty) * scale
    gradients = tape.gradient(objective, parameters, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # embeddings give IndexedSlices
    sums = [loss, weight_sum, penalty, self.task.metric_values(outputs, batch)]
    return gradients, [tf.convert_to_tensor(value) for value in after], sums

  def _forward(self, batch, parameters, buffers):
    """Outputs, the buffers afterwards, and the sums of loss, weight and regularization."""
    weight = self.task.weights(batch)
    outputs, after, penalties = self.model.stateless_call(
      parameters, buffers, batch['inputs'], training=True, return_losses=True
    )
    loss = tf.reduce_sum(self.task.losses(outputs, batch) * weight)
    weight_sum = tf.reduce_sum(weight)
    # A penalty counts once per step: weighted like the examples here, it is divided by their number later.
    penalty = tf.add_n([tf.cast(p, tf.float32) for p in penalties]) * weight_sum if penalties else tf.constant(0.0)
    return outputs, after, loss, weight_sum, penalty

  def loss(self, batch: dict) -> tf.Tensor:
    """The sum of the losses of a replica's part of a batch, float32, for who counts its products (trainer/plan)."""
    parameters = [as_computed(v) for v in self.state.trainable]
    return self._forward(batch, parameters, [tf.convert_to_tensor(v.value) for v in self.buffers])[2]

  def _seeds(self, step, replica, piece) -> list[tf.Tensor]:
    """int32 [2] for each seed generator of the model: a function of (seed, step, micro-batch, replica, generator).

    Keras' generators count up in the second number when they are asked several times in a step, so that one is drawn at
    random per step and replica, and the first tells the generators apart.
    """
    number = (step * self.micro_batches + tf.cast(piece, tf.int64)) * self.replicas + tf.cast(replica, tf.int64)
    seed = tf.constant([self.seed & 0x7FFFFFFF, self.seed >> 31 & 0x7FFFFFFF], tf.int32)
    drawn = tf.random.experimental.stateless_fold_in(seed, number)
    # Kept below 2**30: what Keras adds must not overflow, nor make a number negative.
    tell_apart = [tf.constant([7919 * i, 0], drawn.dtype) for i in range(len(self.seeds))]
    return [tf.bitwise.bitwise_and(drawn + offset, 0x3FFFFFFF) for offset in tell_apart]

  # -- after the reduction: the same on each replica -----------------------------------------------------------------

  def _update(self, reduced: list[tf.Tensor], counters: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Applies the reduced gradients to this replica's copy of the state; returns the row, and what others need of it.

    The parts of the global norm stay in the row: they tell which gradient was not finite.
    """
    assert self._exchange
    state = self.state
    gradients, squares, rest = self._exchange.unpack(reduced)
    statistics, (loss, weight, penalty, metrics, faults, control) = rest[:-6], rest[-6:]
    loss_scale = tf.convert_to_tensor(state.loss_scale.value)
    unscale = tf.math.divide_no_nan(float(self.batch_size), loss_scale * weight)
    norm = tf.sqrt(2.0 * tf.reduce_sum(squares)) * unscale
    # The norm and the loss are finite exactly when all is; NaN and inf do not cancel in a sum of squares.
    finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
    for statistic in statistics:
      finite &= tf.reduce_all(tf.math.is_finite(statistic))
    factor = unscale
    if self.clip_norm:
      factor *= tf.minimum(1.0, self.clip_norm / tf.maximum(norm, 1e-30))
    rate = optimizers.learning_rate(state.optimizer)
    spike = tf.constant(False)
    if self.spike_deviations:
      spike = self._is_spike(tf.math.divide_no_nan(loss, weight), finite)

    def apply():
      state.optimizer.apply_at(rate, [gradient * factor for gradient in gradients])
      self._average()
      for i, statistic in zip(self.statistics, statistics, strict=True):
        self.buffers[i].assign(statistic / self.replicas)
      for i, counter in zip(self.counters, counters, strict=True):
        self.buffers[i].assign(counter)
      return tf.constant(True)

    good = tf.constant(True)
    if self.skips_nonfinite:
      good &= finite
    if self.skips_spikes:
      good &= ~spike
    if self.skips_nonfinite or self.skips_spikes:
      tf.cond(good, apply, lambda: tf.constant(False))
    else:
      apply()  # the loop ends the run, or restores a checkpoint, before anything of such a step is saved
    if self.scaled:
      self._adjust_loss_scale(finite)
    facts = [norm, tf.cast(finite, tf.float32), tf.cast(spike, tf.float32), rate, loss_scale]
    row = tf.concat([[loss, weight, penalty], control, metrics, facts, faults, squares], 0)
    return row, self._exchange.parcels(state.masters)

  def _is_spike(self, loss: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
    """Whether the loss lies too far above its running mean; then moves mean and variance.

    Both run with equal weights at first, and exponentially from SPIKE_STEPS on (Finch, Incremental calculation of
    weighted mean and variance, 2009, section 9). A spike moves them as far as the highest loss that is none would, so
    that they follow when the losses stay there. A loss that is not finite is no spike, and moves nothing.
    """
    mean, variance, count = (variable.value for variable in self.state.spike)
    limit = mean + self.spike_deviations * tf.sqrt(variance)
    spike = finite & (count >= SPIKE_STEPS) & (loss > limit)
    taken = tf.where(spike, limit, loss)
    share = 1.0 / tf.minimum(count + 1.0, float(SPIKE_STEPS))
    difference = taken - mean
    after = [mean + share * difference, (1.0 - share) * (variance + share * difference**2), count + 1.0]
    for variable, before, value in zip(self.state.spike, (mean, variance, count), after, strict=True):
      variable.assign(tf.where(finite, value, before))
    return spike

  def _average(self) -> None:
    """EMA of the weights; the decay rises as (1 + n) / (10 + n), so that the first weights do not linger."""
    if not self.state.ema:
      return
    done = tf.cast(self.state.optimizer.iterations.value, tf.float32)
    share = 1.0 - tf.minimum(self.ema_decay, (1.0 + done) / (10.0 + done))
    for average, variable in zip(self.state.ema, self.state.masters, strict=True):
      self.state.optimizer.assign_add(average, (variable.value - average.value) * share)

  def _adjust_loss_scale(self, finite: tf.Tensor) -> None:
    scale, good = self.state.loss_scale, self.state.good_steps
    streak = tf.where(finite, good.value + 1, 0)
    grow = streak >= LOSS_SCALE_GROWTH_STEPS
    after = tf.where(finite, tf.where(grow, scale.value * 2.0, scale.value), tf.maximum(scale.value / 2.0, 1.0))
    scale.assign(after)
    good.assign(tf.where(grow, 0, streak))


def has_synchronized_statistics(model: keras.Model) -> bool:
  """Whether a layer reduces over the replicas in its forward pass: no XLA then, and no loop of micro-batches."""
  return any(getattr(layer, 'synchronized', False) for layer in model._flatten_layers())
