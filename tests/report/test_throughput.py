import pytest

from trainer.report.throughput import Rate, Throughput


def test_nothing_measured_is_none_and_never_zero():
  throughput = Throughput(64)
  for rate in (throughput.window, throughput.take_window(), throughput.total, Rate(0, 1.0, 64), Rate(3, 0.0, 64)):
    assert rate.examples_per_second is None
    assert rate.step_milliseconds is None


def test_blocks_that_compile_or_are_traced_do_not_count():
  throughput = Throughput(10)
  assert throughput.add(1, 30.0) is False
  assert throughput.total == Rate(0, 0.0, 10)
  assert throughput.add(5, 0.5) is True
  assert throughput.add(5, 20.0, traced=True) is False
  assert throughput.add(15, 1.5) is True
  assert throughput.total == Rate(20, 2.0, 10)
  assert throughput.total.examples_per_second == pytest.approx(100)
  assert throughput.total.step_milliseconds == pytest.approx(100)


def test_a_window_begins_where_the_last_was_taken():
  throughput = Throughput(8)
  throughput.add(1, 9.0)
  throughput.add(4, 1.0)
  throughput.add(4, 3.0)
  assert throughput.window == Rate(8, 4.0, 8)
  assert throughput.take_window() == Rate(8, 4.0, 8)
  assert throughput.take_window().examples_per_second is None
  throughput.add(2, 0.5)
  assert throughput.take_window() == Rate(2, 0.5, 8)
  assert throughput.total == Rate(10, 4.5, 8)
