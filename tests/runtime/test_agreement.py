"""Agreement in one process: the same code path as in many. tests/runtime/test_strategy.py has the real ones."""

from __future__ import annotations

import time

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer.runtime import agreement
from trainer.runtime.cluster import Cluster

CHIEF = Cluster('one', '', 'cpu', 1)
OTHER = Cluster('multi_worker', '', 'cpu', 1, ('a:1', 'b:1'), 1)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_64_bit_number_arrives_whole(value):
  assert agreement.from_chief(tf.distribute.get_strategy(), CHIEF, value) == value


def test_only_the_chief_counts():
  assert agreement.from_chief(tf.distribute.get_strategy(), OTHER, 99) == 0  # a chief is not there to say more


def test_what_does_not_fit_is_refused():
  with pytest.raises(OverflowError):
    agreement.from_chief(tf.distribute.get_strategy(), CHIEF, 2**63)


@pytest.mark.parametrize('where', [CHIEF, OTHER])
@pytest.mark.parametrize('flag', [True, False])
def test_all_true(where, flag):
  agreed = agreement.all_true(tf.distribute.get_strategy(), where, flag)
  assert agreed is flag


def test_it_is_cheap():
  agreement.all_true(tf.distribute.get_strategy(), CHIEF, True)
  seconds = []
  for _ in range(20):
    began = time.perf_counter()
    agreement.from_chief(tf.distribute.get_strategy(), CHIEF, 1)
    seconds.append(time.perf_counter() - began)
  assert min(seconds) < 0.005
