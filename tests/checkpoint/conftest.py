"""A folder of checkpoints per test, and states to put into it."""

from __future__ import annotations

import contextlib
import logging as python_logging
import pathlib
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import pytest
from absl import logging

from trainer.checkpoint import Checkpoints

Arrays = dict[str, np.ndarray]


def make_state(seed: int) -> Arrays:
  """A small state whose every array differs from that of another seed, where it has room to differ."""
  rng = np.random.default_rng(seed)
  return {
    'model/dense/kernel': rng.standard_normal((7, 5)).astype(np.float32),
    'model/embedding': rng.standard_normal((130, 128)).astype(np.float32),  # the only one that is not packed
    'model/dense': rng.integers(0, 2**32, 3, np.uint32),
    'optimizer/iterations': np.array(seed, np.int64),
    'ema/bfloat16': rng.standard_normal(9).astype(ml_dtypes.bfloat16),
    'empty': np.zeros((0, 3), np.float32),
  }


def assert_equal(found: Arrays, expected: Arrays) -> None:
  """Equal to the byte, dtype and shape included, in the same order."""
  assert list(found) == list(expected)
  for name, array in expected.items():
    assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
    assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'checkpoints'


@pytest.fixture
def open_writer(folder: pathlib.Path) -> Iterator[Callable[..., Checkpoints]]:
  """Opens writers on the test's folder, and ends their saves after the test."""
  with contextlib.ExitStack() as stack:

    def open_one(**settings) -> Checkpoints:
      settings = {'keep': 10, 'keep_best': 0, 'best_mode': 'max', **settings}
      writer = Checkpoints(str(folder), writer=True, **settings)
      stack.callback(writer.close)
      return writer

    yield open_one


@pytest.fixture
def saved(open_writer: Callable[..., Checkpoints]) -> Checkpoints:
  """A writer with steps 10, 20 and 30 saved, of the states of the same seeds."""
  writer = open_writer()
  for step in (10, 20, 30):
    writer.save(step, make_state(step), {'best': step / 7, 'sums': [1.5, None]})
  writer.wait()
  return writer


@pytest.fixture
def log() -> Iterator[list[python_logging.LogRecord]]:
  """What the test logs, at INFO and above."""
  records: list[python_logging.LogRecord] = []

  class Keep(python_logging.Handler):
    def emit(self, record: python_logging.LogRecord) -> None:
      records.append(record)

  logger, verbosity, handler = logging.get_absl_logger(), logging.get_verbosity(), Keep()
  logger.addHandler(handler)
  logging.set_verbosity(logging.INFO)
  yield records
  logging.set_verbosity(verbosity)
  logger.removeHandler(handler)
