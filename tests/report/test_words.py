import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.report import words


@pytest.mark.parametrize(
  ('number', 'text'),
  [
    (0, '0'),
    (7, '7'),
    (0.5, '0.5'),
    (9876, '9,876'),
    (9999.4, '9,999'),
    (9999.6, '10.0 k'),
    (12345, '12.3 k'),
    (999_499, '999 k'),
    (999_600, '1.00 M'),
    (1_234_567, '1.23 M'),
    (1_560_000_000, '1.56 G'),
    (2.5e15, '2,500 T'),
    (None, 'n/a'),
    (math.nan, 'n/a'),
  ],
)
def test_count(number, text):
  assert words.count(number) == text


def test_size():
  assert words.size(9876) == '9,876 B'
  assert words.size(1_234_567) == '1.23 MB'
  assert words.size(None) == 'n/a'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0.00 ms'),
    (0.01234, '12.3 ms'),
    (0.9996, '1.0 s'),
    (3.44, '3.4 s'),
    (9.96, '10 s'),
    (59.4, '59 s'),
    (59.6, '1 min 00 s'),
    (200.4, '3 min 20 s'),
    (3599.6, '1 h 00 min'),
    (7500, '2 h 05 min'),
    (86_399, '1 d 00 h'),
    (97_200, '1 d 03 h'),
    (None, 'n/a'),
    (math.inf, 'n/a'),
  ],
)
def test_duration(seconds, text):
  assert words.duration(seconds) == text


@given(st.floats(0, 1e7))
def test_a_duration_in_words_is_near_the_number(seconds):
  units = {'ms': 1e-3, 's': 1, 'min': 60, 'h': 3600, 'd': 86400}
  pairs = re.findall(r'([\d.]+) (ms|s|min|h|d)\b', words.duration(seconds))
  read = sum(float(number) * units[unit] for number, unit in pairs)
  assert read == pytest.approx(seconds, rel=0.03, abs=1e-5)
  assert not re.search(r'\b60 (s|min)', words.duration(seconds))


@pytest.mark.parametrize(
  ('number', 'text'),
  [
    (0.98061, '0.9806'),
    (1.0, '1.000'),
    (0.0, '0.000'),
    (1234.56, '1235'),
    (1e-3, '0.001000'),
    (1.234e-5, '1.234e-05'),
    (-2.5, '-2.500'),
    (3, '3'),
    (12345, '12,345'),
    (None, 'n/a'),
    (math.nan, 'nan'),
    (math.inf, 'inf'),
  ],
)
def test_value(number, text):
  assert words.value(number) == text


def test_rate():
  assert words.rate(1234.5) == '1,234 examples/s'
  assert words.rate(12.34) == '12.3 examples/s'
  assert words.rate(None) == 'n/a examples/s'
