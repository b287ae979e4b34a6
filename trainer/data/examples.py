"""From serialized records to the examples that a task learns from, in graph ops.

Knows how a dataset decodes and a task prepares one example; works on small vectors of records, because each tf.data
element has a price of its own that a small record does not repay.

Legend: g records in a vector, N examples in a split.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import tensorflow as tf

from trainer.data import records
from trainer.data.source import Dataset, Split
from trainer.errors import ConfigError

# A vector of records holds at most so many bytes once prepared, and at most so many records.
_VECTOR_BYTES = 1024**2
_VECTOR_RECORDS = 32
# A turn of the loop over a vector costs some 10 us, a third of what a small PNG takes; so many records share it.
_UNROLLED = 4


class Examples:
  """The prepared examples of a dataset for a task.

  Attributes:
    spec: nest of tf.TensorSpec of one example, as `task.example` gives it: 'inputs' and 'targets'.
    bytes_each: size of one prepared example.
  """

  def __init__(self, dataset: Dataset, task: Any):
    """Traces `task.example`; reads no record.

    Raises:
      ConfigError: an example has no static shape, or is text, which no device can hold.
    """
    self.dataset = dataset
    self._example = lambda serialized: task.example(dataset.decode(serialized))
    self._cropped = lambda serialized, draws: task.cropped(dataset.decode(serialized, task.crops), draws)
    traced = tf.function(self._example, autograph=False).get_concrete_function(tf.TensorSpec([], tf.string))
    self.spec = check_spec(dataset.name, traced.structured_outputs)
    self.bytes_each = spec_bytes(self.spec)
    self._kept: dict[tuple[int, str], Future[dict[str, Any]]] = {}

  def vector(self, batch: int) -> int:
    """Records to prepare together: a divisor of the batch, so that a batch is made of whole vectors."""
    most = max(1, min(_VECTOR_RECORDS, _VECTOR_BYTES // max(1, self.bytes_each)))
    return max(count for count in range(1, most + 1) if batch % count == 0)

  def batches(
    self, rows: tf.data.Dataset, batch: int, draws: Callable[..., tf.Tensor] | None = None
  ) -> tf.data.Dataset:
    """Single records as batches of prepared examples, made in parallel, in order.

    Args:
      rows: Dataset of (..., serialized string), scalars.
      batch: rows of a batch; what does not fill one is dropped.
      draws: from all columns but the last, [g], to the uniform numbers float32 [g, task.draws] by which random parts of
        images are prepared (`task.cropped`); None: examples are prepared whole.

    Returns:
      Dataset of (... [batch], examples [batch, ...]).
    """
    count = self.vector(batch)
    vectors = rows.batch(count, drop_remainder=True)
    prepared = vectors.map(
      lambda *columns: self._prepare(*columns, draws=draws), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if count == batch:
      return prepared
    joined = prepared.batch(batch // count, drop_remainder=True)
    return joined.map(lambda *columns: tf.nest.map_structure(_flatten, columns))

  def in_order(self, split: Split, ranges: Sequence[tuple[int, int]], padding: int = 0) -> tf.data.Dataset:
    """Records by rows of a split, not prepared yet.

    Args:
      split: where they are.
      ranges: rows [begin, end), one range after the other.
      padding: rows of padding after them: copies of the last example of the split, with index -1.

    Returns:
      Dataset of (index int64, serialized string), deterministic.

    Raises:
      ConfigError: a data file is damaged.
    """
    pieces = split.files.cut_each(ranges, split.num_examples)
    table = records.tensors(pieces)
    begins, ends = tf.unstack(tf.constant(ranges, tf.int64, [len(ranges), 2]), axis=1)
    index = tf.data.Dataset.range(len(ranges)).flat_map(lambda i: tf.data.Dataset.range(begins[i], ends[i]))
    rows = tf.data.Dataset.range(len(pieces.first)).flat_map(lambda piece: records.read(table, piece))
    rows = tf.data.Dataset.zip(index, rows)
    if padding:
      last = records.tensors(split.files.cut(split.num_examples - 1, split.num_examples, 1))
      copies = tf.data.Dataset.range(1).flat_map(lambda piece: records.read(last, piece)).repeat(padding)
      rows = rows.concatenate(
        tf.data.Dataset.zip(tf.data.Dataset.from_tensors(tf.constant(-1, tf.int64)).repeat(), copies)
      )
    return rows

  def _prepare(self, *columns: tf.Tensor, draws: Callable[..., tf.Tensor] | None) -> tuple[Any, ...]:
    """(..., serialized string [g]) -> (..., examples [g, ...])."""
    *others, serialized = columns
    given = (serialized,) if draws is None else (serialized, draws(*others))
    example = self._example if draws is None else self._cropped
    count = serialized.shape[0]
    together = max(each for each in range(1, _UNROLLED + 1) if count % each == 0)

    def several(parts: tuple[tf.Tensor, ...]) -> Any:
      made = [example(*each) for each in zip(*map(tf.unstack, parts), strict=True)]
      return tf.nest.map_structure(lambda *each: tf.stack(each), *made)

    spec = tf.nest.map_structure(lambda part: tf.TensorSpec([together, *part.shape], part.dtype), self.spec)
    grouped = tuple(tf.reshape(part, [count // together, together, *part.shape[1:]]) for part in given)
    return *others, tf.nest.map_structure(_flatten, tf.map_fn(several, grouped, fn_output_signature=spec))

  def load(self, split: Split) -> dict[str, Any]:
    """All examples of a split, prepared, as tensors [N, ...] in row order.

    Raises:
      ConfigError: a data file is damaged; the message names it.
    """
    size = split.num_examples
    padded = -(-size // _VECTOR_RECORDS) * _VECTOR_RECORDS
    rows = self.in_order(split, [(0, size)], padded - size)
    try:
      _, whole = self.batches(rows, padded).get_single_element()
    except tf.errors.DataLossError as error:
      raise corrupt(split, error) from error
    return tf.nest.map_structure(lambda tensor: tensor[:size], whole)

  def kept(self, split: Split, host: int) -> dict[str, Any]:
    """As `load`, for this host; read once, however often a dataset is built on it."""
    if (host, split.name) not in self._kept:
      self._keep(self._kept.setdefault((host, split.name), Future()), split)
    return self._kept[host, split.name].result()

  def keep_ahead(self, split: Split, host: int) -> None:
    """Begins with what `kept` will be asked for, in a thread of its own; it raises what is wrong with the data."""
    reading = self._kept.setdefault((host, split.name), Future())
    threading.Thread(target=self._keep, args=(reading, split), name='split', daemon=True).start()

  @tf.autograph.experimental.do_not_convert
  def _keep(self, reading: Future[dict[str, Any]], split: Split) -> None:
    try:
      with tf.device('CPU:0'):
        reading.set_result(self.load(split))
    except BaseException as error:  # noqa: BLE001  (raised again where somebody waits)
      reading.set_exception(error)


# What reading a record raises where its file is damaged, or has gone.
DATA_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError)


def corrupt(split: Split, error: tf.errors.OpError) -> Exception:
  """What to raise where a record could not be read: a ConfigError that names its file, found by reading all."""
  path = records.damaged_file(split.files.files)
  if path is None:
    return error
  what = 'is corrupt' if isinstance(error, tf.errors.DataLossError) else 'cannot be read any more'
  return ConfigError(f'data file {path} {what}: {error.message.splitlines()[0]}; prepare the dataset again')


def check_spec(name: str, outputs: Any) -> Any:
  """The nest of tf.TensorSpec of one example, from what a task gave.

  Raises:
    ConfigError: a shape is not static, or a tensor is text.
  """
  spec = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), outputs)
  for path, part in _leaves('', spec):
    if not part.shape.is_fully_defined():
      raise ConfigError(
        f'{name}: {path} of an example has the shape {part.shape}: choose task fields that give it a fixed size'
      )
    if part.dtype == tf.string:
      raise ConfigError(
        f'{name}: {path} of an example is text, which no device can hold: choose a task that encodes it'
      )
  return spec


def spec_bytes(spec: Any) -> int:
  """Bytes of the tensors that a nest of tf.TensorSpec describes."""
  return sum(part.shape.num_elements() * part.dtype.size for part in tf.nest.flatten(spec))


def _leaves(prefix: str, spec: Any) -> list[tuple[str, tf.TensorSpec]]:
  if not isinstance(spec, dict):
    return [(prefix, spec)]
  return [leaf for name, part in spec.items() for leaf in _leaves(f'{prefix}/{name}' if prefix else name, part)]


def _flatten(tensor: tf.Tensor) -> tf.Tensor:
  """[a, b, ...] -> [a * b, ...]."""
  return tf.reshape(tensor, [tensor.shape[0] * tensor.shape[1], *tensor.shape[2:]])
