"""Model FLOPs of a training step, by formula: three times the products of the forward pass, as the model is traced.

The backward pass has two products for each of the forward pass, one for the inputs and one for the weights: Kaplan et
al., Scaling Laws for Neural Language Models, 2020, section 2.1; Chowdhery et al., PaLM, 2022, appendix B, which calls a
share of the peak by this count model FLOPs utilisation (MFU), and by what the hardware does in fact, with all that is
computed twice, hardware FLOPs utilisation (HFU). Only products of matrices and convolutions count: no look-ups in
tables, nothing elementwise. What is held, dropped and made again in blocks, chunks or micro-batches changes nothing,
since the forward pass has each product once; of a causal mask nothing is taken off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.train.step import TrainStep

# Products of a training step for each of the forward pass.
TRAINING = 3
# What multiplies matrices, or hides what it does, and has no formula here.
_UNKNOWN = (
  'CudnnRNN', 'CudnnRNNV2', 'CudnnRNNV3', 'SparseMatMul', 'SparseTensorDenseMatMul', 'SparseMatrixMatMul', 'XlaDot',
  'XlaDotV2', 'XlaConv', 'XlaConvV2', 'XlaCustomCall', 'XlaCustomCallV2', 'PyFunc', 'EagerPyFunc', 'Cholesky',
  'MatrixInverse', 'MatrixSolve', 'Qr', 'Svd', 'Conv2DBackpropFilter', 'Conv3DBackpropFilterV2',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Count:
  """Operations, and what is not among them.

  Attributes:
    flops: multiplications and additions.
    not_counted: per operation that could not be counted, its kind, name and why.
  """

  flops: float
  not_counted: tuple[str, ...]


def of_step(step: TrainStep, batch_spec: Mapping[str, Any]) -> Count:
  """Model FLOPs of one replica in a step; traces the forward pass, and runs nothing.

  Args:
    step: of a model that is built.
    batch_spec: nest of tf.TensorSpec, the part of a batch that a replica has, micro-batches together.
  """
  traced = tf.function(step.loss, autograph=False).get_concrete_function(batch_spec)
  forward = of_graph(traced.graph)
  return Count(TRAINING * forward.flops, forward.not_counted)


def of_graph(graph: Any) -> Count:
  """Products that the outputs of a function's graph are made of, as often as they run."""
  counter = _Counter(graph, {})
  return Count(counter.flops, tuple(sorted(counter.not_counted)))


class _Counter:
  """The count of one graph, and of those that it calls.

  Attributes:
    flops: as in Count.
    not_counted: as in Count.
  """

  def __init__(self, graph: Any, known: Mapping[int, Any]):
    """Args:
    graph: a tf FuncGraph.
    known: id of an input tensor -> its value, of those that are constant where the graph is called.
    """
    self._graph, self._known = graph, known
    self.flops, self.not_counted = 0.0, set[str]()
    for op in _used(graph.outputs):
      self._add(op)

  def _add(self, op: Any) -> None:
    if op.type in ('While', 'StatelessWhile'):
      self._loop(op)
    elif op.type in ('PartitionedCall', 'StatefulPartitionedCall'):
      self._include(self._called(op, op.get_attr('f').name, op.inputs))
    elif op.type in ('If', 'StatelessIf', 'Case', 'StatelessCase'):
      self._branches(op)
    elif formula := _FORMULAS.get(op.type):
      try:
        self.flops += formula(op)
      except (TypeError, ValueError):  # None among the dimensions, or no shape at all
        self._skip(op, 'its shape is not static')
    elif op.type in _UNKNOWN or any(value.HasField('func') for value in op.node_def.attr.values()):
      self._skip(op, 'there is no formula for it')

  def _skip(self, op: Any, why: str) -> None:
    self.not_counted.add(f'{op.type} {op.name}: {why}')

  def _include(self, inner: _Counter, times: int = 1) -> None:
    self.flops += times * inner.flops
    self.not_counted |= inner.not_counted

  def _called(self, op: Any, name: str, inputs: Sequence[tf.Tensor], constant: Callable[[int], bool] | None = None):
    """What a function counts that is called with such tensors; `constant`: which of its inputs stay as they are."""
    graph = _function(op, name)
    known = {
      id(inner): self._value(outer)
      for i, (inner, outer) in enumerate(zip(graph.inputs, inputs, strict=True))
      if constant is None or constant(i)
    }
    return _Counter(graph, known)

  def _branches(self, op: Any) -> None:
    """Of a choice that is made at run time; all ways must be as much work."""
    names = [op.get_attr(name).name for name in ('then_branch', 'else_branch')] if 'If' in op.type else []
    names = names or [branch.name for branch in op.get_attr('branches')]
    found = [self._called(op, name, op.inputs[1:]) for name in names]
    if len({inner.flops for inner in found}) > 1:
      self._skip(op, 'its branches are not as much work as each other')
    else:
      self._include(found[0])

  def _loop(self, op: Any) -> None:
    body = _function(op, op.get_attr('body').name)

    def constant(i: int) -> bool:
      return _source(body.outputs[i]) is body.inputs[i]

    inside = self._called(op, op.get_attr('body').name, op.inputs, constant)
    if not inside.flops and not inside.not_counted:
      return
    condition = _function(op, op.get_attr('cond').name)
    rounds = self._rounds(op, condition, body, condition.outputs[0])
    if rounds is None:
      self._skip(op, 'how often the loop runs is not static')
    else:
      self._include(inside, rounds)

  def _rounds(self, op: Any, condition: Any, body: Any, tensor: tf.Tensor) -> int | None:
    """How often a loop runs whose condition is that a number which is counted up is below a constant, or several such.

    Args:
      op: the loop.
      condition: its graph.
      body: its graph.
      tensor: of the condition.
    """
    test = _source(tensor).op
    if test.type == 'LogicalAnd':
      both = [self._rounds(op, condition, body, part) for part in test.inputs]
      return None if None in both else min(n for n in both if n is not None)
    if test.type not in ('Less', 'LessEqual'):
      return None
    places = {id(inner): i for i, inner in enumerate(condition.inputs)}
    counted, bound = (places.get(id(_source(part))) for part in test.inputs)
    if counted is None:
      return None
    most = tf.get_static_value(test.inputs[1])
    if bound is not None and _source(body.outputs[bound]) is body.inputs[bound]:
      most = self._value(op.inputs[bound])
    first, step = self._value(op.inputs[counted]), None
    added = _source(body.outputs[counted]).op
    if added.type in ('Add', 'AddV2') and _source(added.inputs[0]) is body.inputs[counted]:
      step = tf.get_static_value(added.inputs[1])
    if most is None or first is None or not step or step < 0:
      return None
    return max(0, math.ceil((most - first + (test.type == 'LessEqual')) / step))

  def _value(self, tensor: tf.Tensor) -> Any:
    """Of a tensor of this graph, None if it is not static."""
    source = _source(tensor)
    if id(source) in self._known:
      return self._known[id(source)]
    if source.op.type == 'Max':  # by which Keras bounds the loop of a recurrent layer
      value = self._value(source.op.inputs[0])
      return None if value is None else np.max(value)
    return tf.get_static_value(source)


def _function(op: Any, name: str) -> Any:
  """The graph of a function that an operation calls."""
  return op.graph._get_function(name).graph


def _source(tensor: tf.Tensor) -> tf.Tensor:
  """The tensor that this one is the same as."""
  while tensor.op.type == 'Identity':
    tensor = tensor.op.inputs[0]
  return tensor


def _used(outputs: Sequence[tf.Tensor]) -> Iterator[Any]:
  """The operations that the outputs are made of."""
  waiting, seen = [tensor.op for tensor in outputs], set[str]()
  while waiting:
    op = waiting.pop()
    if op.name not in seen:
      seen.add(op.name)
      waiting += [tensor.op for tensor in op.inputs]
      yield op


# -- one operation; all raise TypeError or ValueError where a shape is not static --------------------------------------


def _size(tensor: tf.Tensor) -> int:
  return math.prod(tensor.shape.as_list())


def _matmul(op: Any) -> float:
  return 2.0 * _size(op.outputs[0]) * op.inputs[0].shape.as_list()[0 if op.get_attr('transpose_a') else 1]


def _batch_matmul(op: Any) -> float:
  return 2.0 * _size(op.outputs[0]) * op.inputs[0].shape.as_list()[-2 if op.get_attr('adj_x') else -1]


def _einsum(op: Any) -> float:
  """Each element of the result is a sum over what both operands have and it has not."""
  operands, _, result = op.get_attr('equation').decode().partition('->')
  terms = operands.split(',')
  if len(terms) == 1:
    return 0.0
  first, second = terms
  shape, summed = op.inputs[0].shape.as_list(), 1
  left, _, right = first.partition('...')
  for label in set(left + right) & set(second) - set(result):
    summed *= shape[left.index(label) if label in left else right.index(label) - len(right)]
  return 2.0 * _size(op.outputs[0]) * summed


def _convolution(op: Any) -> float:
  """Each output is a sum over the kernel [..., inputs of a group, outputs], but for its outputs."""
  return 2.0 * _size(op.outputs[0]) * math.prod(op.inputs[1].shape.as_list()[:-1])


def _transposed(op: Any) -> float:
  """Each input is multiplied with the kernel [..., outputs, inputs], but for its inputs."""
  return 2.0 * _size(op.inputs[2]) * math.prod(op.inputs[1].shape.as_list()[:-1])


def _depthwise(op: Any) -> float:
  return 2.0 * _size(op.outputs[0]) * math.prod(op.inputs[1].shape.as_list()[:2])


_FORMULAS: dict[str, Callable[[Any], float]] = {
  'MatMul': _matmul,
  'BatchMatMul': _batch_matmul,
  'BatchMatMulV2': _batch_matmul,
  'BatchMatMulV3': _batch_matmul,
  'Einsum': _einsum,
  'Conv2D': _convolution,
  'Conv3D': _convolution,
  'DepthwiseConv2dNative': _depthwise,
  'Conv2DBackpropInput': _transposed,
  'Conv3DBackpropInputV2': _transposed,
}
