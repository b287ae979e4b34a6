"""Numbers and spans of time as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_MEASURED = 'n/a'


def count(number: float | None) -> str:
  """1234567 -> '1.23 M'; below ten thousand in full: '9,876'."""
  if number is None or not math.isfinite(number):
    return NOT_MEASURED
  if abs(number) < 9999.5:
    return f'{number:,.0f}' if number == int(number) or abs(number) >= 100 else f'{number:.3g}'
  for factor, unit in ((1e3, 'k'), (1e6, 'M'), (1e9, 'G'), (1e12, 'T')):
    if abs(number) < 999.5 * factor or unit == 'T':
      return f'{_three_digits(number / factor)} {unit}'
  raise AssertionError('the last unit takes all')


def size(number: float | None) -> str:
  """Bytes, in powers of 1000: 1234567 -> '1.23 MB'; below ten thousand '9,876 B'."""
  words = count(number)
  if words == NOT_MEASURED:
    return words
  return f'{words}B' if words[-1].isalpha() else f'{words} B'


def duration(seconds: float | None) -> str:
  """200.4 -> '3 min 20 s'; shorter '12 ms' and '3.4 s', from an hour '2 h 05 min', from a day '1 d 03 h'."""
  if seconds is None or not math.isfinite(seconds):
    return NOT_MEASURED
  if seconds < 0.9995:
    return milliseconds(seconds * 1000)
  if seconds < 9.95:
    return f'{seconds:.1f} s'
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02d} s'
  minutes = round(seconds / 60)
  if minutes < 24 * 60:
    return f'{minutes // 60} h {minutes % 60:02d} min'
  hours = round(seconds / 3600)
  return f'{hours // 24} d {hours % 24:02d} h'


def milliseconds(number: float | None) -> str:
  """12.345 -> '12.3 ms'."""
  if number is None or not math.isfinite(number):
    return NOT_MEASURED
  return f'{_three_digits(number)} ms' if number < 9999.5 else duration(number / 1000)


def rate(examples_per_second: float | None) -> str:
  """1234.5 -> '1,234 examples/s'."""
  if examples_per_second is None or not math.isfinite(examples_per_second):
    return f'{NOT_MEASURED} examples/s'
  digits = ',.0f' if examples_per_second >= 100 else '.3g'
  return f'{examples_per_second:{digits}} examples/s'


def value(number: Any) -> str:
  """A metric with four significant digits, no trailing zeros cut: 0.9806, 1.234e-05; whole numbers in full."""
  if number is None:
    return NOT_MEASURED
  if isinstance(number, int):
    return f'{number:,}'
  if number and math.isfinite(number) and not 1e-4 <= abs(number) < 1e6:
    return f'{number:.3e}'
  return f'{number:#.4g}'.rstrip('.')


def values(numbers: Mapping[str, Any]) -> str:
  """{'loss': 0.1234, 'accuracy': 0.98} -> 'loss 0.1234, accuracy 0.9800'."""
  return ', '.join(f'{name} {value(number)}' for name, number in numbers.items())


def _three_digits(number: float) -> str:
  digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
  return f'{number:,.{digits}f}'
