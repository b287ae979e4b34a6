"""The course of the learning rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.optim.test_optimizers import settings
from trainer.errors import ConfigError
from trainer.optim import schedules


@given(
  name=st.sampled_from(schedules.NAMES),
  total=st.integers(1, 300),
  warmup=st.integers(0, 300),
  end=st.floats(0, 1),
)
def test_rises_to_the_peak_and_never_above(name, total, warmup, end):
  warmup = min(warmup, total)
  config = settings(
    schedule=name, warmup_steps=warmup, end_factor=end, boundaries=(5, 9) if name == 'piecewise' else ()
  )
  schedule = schedules.create(config, total)
  rates = np.array([float(schedule(step)) for step in sorted({0, 1, warmup - 1, warmup, total - 1, total} - {-1})])
  assert (rates >= 0).all() and (rates <= 0.01 * (1 + 1e-5)).all()
  if warmup:
    assert float(schedule(0)) == pytest.approx(0.01 / warmup, rel=1e-5), 'the first step is not spent at 0'
    # A drop inside the warm-up has happened when it ends.
    drops = sum(step <= warmup for step in config.boundaries)
    if warmup < total:
      assert float(schedule(warmup)) == pytest.approx(0.01 * 0.1**drops, rel=1e-4)


def test_cosine_ends_at_the_end_factor():
  schedule = schedules.create(settings(warmup_steps=10, end_factor=0.1), 110)
  assert float(schedule(60)) == pytest.approx(0.01 * (0.1 + 0.9 * 0.5), rel=1e-4)
  assert float(schedule(110)) == pytest.approx(0.001, rel=1e-4)


def test_piecewise_drops_at_the_named_steps():
  schedule = schedules.create(settings(schedule='piecewise', warmup_steps=2, boundaries=(10, 20)), 30)
  assert [round(float(schedule(step)), 6) for step in (2, 9, 10, 19, 20, 29)] == [
    0.01,
    0.01,
    0.001,
    0.001,
    0.0001,
    0.0001,
  ]


@pytest.mark.parametrize(
  ('boundaries', 'complaint'), [((), 'is empty'), ((5, 3), 'must rise'), ((0,), 'from 1 on'), ((1.5,), 'whole numbers')]
)
def test_bad_boundaries(boundaries, complaint):
  with pytest.raises(ConfigError, match=complaint):
    schedules.check(settings(schedule='piecewise', boundaries=boundaries))


def test_warmup_survives_serialisation():
  schedule = schedules.create(settings(warmup_steps=4), 20)
  again = schedules.Warmup.from_config(schedule.get_config())
  assert [float(again(s)) for s in range(20)] == [float(schedule(s)) for s in range(20)]
