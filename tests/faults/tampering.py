"""What is done to the training step from outside: a number that is not finite, a record of its examples, a check."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from trainer.train import evaluate, loop, step


@dataclasses.dataclass(frozen=True)
class Poison:
  """A loss and a gradient that are not finite, on one replica only.

  Attributes:
    step: the number of the step, from 1.
    replica: where.
  """

  step: int
  replica: int


def poison(what: Poison) -> None:
  """Poisons a step, as long as it is trained on the batch that is its own without a rollback.

  A batch that is left out by a rollback takes what is bad in it along, so that the step of the same number is good
  then. The batch is told by its first example on that replica, wherever the process was started again.
  """
  example = -1
  build, forward_backward = loop.Loop.__init__, step.TrainStep._forward_backward

  def init(self, session, *args, **keywords):
    nonlocal example
    example = int(session.pipeline.examples_of(what.step - 1)[what.replica][0][0])
    build(self, session, *args, **keywords)

  def wrapped(self, batch, parameters, buffers, scale, number, replica, piece):
    gradients, buffers, sums = forward_backward(self, batch, parameters, buffers, scale, number, replica, piece)
    bad = (number == what.step - 1) & (replica == what.replica) & tf.reduce_any(batch['index'] == example)
    gradients[0] = tf.where(bad, tf.fill(tf.shape(gradients[0]), float('nan')), gradients[0])
    sums[0] = tf.where(bad, float('inf'), sums[0])
    return gradients, buffers, sums

  loop.Loop.__init__, step.TrainStep._forward_backward = init, wrapped


def record(path: str) -> None:
  """Has each replica append (steps done, its number, rows of its examples) to a file, from inside the step."""
  replica_step = step.TrainStep._replica_step

  @tf.autograph.experimental.do_not_convert
  def wrapped(self, batch, number, control):
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    tf.print(number, replica, batch['index'], summarize=-1, output_stream=f'file://{path}')
    return replica_step(self, batch, number, control)

  step.TrainStep._replica_step = wrapped


def require_static_shapes() -> None:
  """Has a step and an evaluation fail if a tensor of theirs has a shape that is not known before it is computed.

  Not that which batch statistics hand to their own gradient: each device has its own there, XLA an empty one.
  """

  def inner(tensor):
    if tensor.op.type == 'ZerosLike':
      (tensor,) = tensor.op.inputs
    return tensor.op.type == 'FusedBatchNormV3' and tensor.value_index == 5

  def checked(function):
    @tf.autograph.experimental.do_not_convert
    def wrapped(self, *args):
      result = function(self, *args)
      graph = tf.compat.v1.get_default_graph()
      tensors = [tensor for operation in graph.get_operations() for tensor in operation.outputs]
      open_ones = [tensor for tensor in tensors if not (tensor.shape.is_fully_defined() or inner(tensor))]
      assert not open_ones, f'{function.__qualname__}: {open_ones[:5]}'
      return result

    return wrapped

  step.TrainStep._gradients = checked(step.TrainStep._gradients)
  evaluate.Evaluator._sums = checked(evaluate.Evaluator._sums)
  evaluate.Evaluator._predicted = checked(evaluate.Evaluator._predicted)
