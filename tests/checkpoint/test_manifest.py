"""The manifest: it comes back as it was written, or not at all."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import manifest
from trainer.errors import ConfigError

JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=8,
)
SPECS = st.builds(
  manifest.ArraySpec, st.lists(st.integers(0, 9)).map(tuple), st.sampled_from(sorted(manifest.DTYPES)), st.text()
)
MANIFESTS = st.builds(
  manifest.Manifest,
  step=st.integers(0),
  metric=st.none() | st.floats(allow_nan=False),
  host=st.dictionaries(st.text(), JSON, max_size=3),
  arrays=st.dictionaries(st.text(min_size=1), SPECS, max_size=3),
  files=st.dictionaries(st.text(), st.builds(manifest.FileSpec, st.integers(0), st.text()), max_size=3),
  orbax=st.text(),
)
EXAMPLE = manifest.Manifest(
  step=7,
  metric=-0.25,
  host={'best': [0.1, None], 'näme': {}},
  arrays={'a/b': manifest.ArraySpec((2, 3), 'float32', 'ab')},
  files={'state/d': manifest.FileSpec(5, 'cd')},
  orbax='0.12.8',
)


@settings(deadline=None, max_examples=60)
@given(MANIFESTS)
def test_comes_back(contents):
  assert manifest.decode(manifest.encode(contents)) == contents


def test_every_flipped_bit_is_noticed():
  raw = manifest.encode(EXAMPLE)
  for bit in range(8 * len(raw)):
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match='manifest') as raised:
      manifest.decode(bytes(flipped))
    assert not isinstance(raised.value, ConfigError)


@pytest.mark.parametrize('raw', [b'', b'{}', b'[]', b'null', b'\xff', manifest.encode(EXAMPLE)[:-1]])
def test_what_is_not_a_manifest_is_refused(raw):
  with pytest.raises(ValueError, match='manifest'):
    manifest.decode(raw)


def test_another_format_is_a_mistake_of_the_user_and_no_damage(monkeypatch):
  monkeypatch.setattr(manifest, 'FORMAT', 4)
  raw = manifest.encode(EXAMPLE)
  monkeypatch.undo()
  with pytest.raises(ConfigError, match='format 4, this version of the program reads 3'):
    manifest.decode(raw)


@pytest.mark.parametrize(
  ('other', 'words'),
  [
    (np.zeros((2, 3), np.float32), 'has other values'),
    (np.ones((3, 2), np.float32), r'has shape \[3, 2\]'),
    (np.ones((2, 3), np.int32), 'has dtype int32'),
  ],
)
def test_difference(other, words):
  original = np.ones((2, 3), np.float32)
  specs = {'a': manifest.describe(original)}
  assert manifest.difference(specs, {'a': original.copy()}) == ''
  with pytest.raises(AssertionError, match=words):
    assert not manifest.difference(specs, {'a': other})
  assert 'missing' in manifest.difference(specs, {})
  assert 'unexpected' in manifest.difference({}, {'a': other})


def test_negative_zero_and_other_nans_are_different_values():
  zero, nan = np.zeros(1, np.float32), np.array([0x7FC00000], np.uint32).view(np.float32)
  assert manifest.describe(zero) != manifest.describe(-zero)
  assert manifest.describe(nan) != manifest.describe(-nan)


def test_layout_in_memory_does_not_count():
  original = np.arange(24, dtype=np.int16).reshape(4, 6)
  assert manifest.describe(np.asfortranarray(original)) == manifest.describe(original)
  assert manifest.describe(np.repeat(original, 2, axis=1)[:, ::2]) == manifest.describe(original)


@pytest.mark.parametrize(
  'value',
  [
    np.array(['text']),
    np.array([None]),
    np.array([1], '>i4'),
    np.zeros(1, 'M8[s]'),
    np.zeros(1, [('a', 'i4')]),
    np.zeros(1, np.longdouble),
    np.float32(1),
    [1.0],
  ],
)
def test_what_would_not_come_back_is_refused(value):
  with pytest.raises(TypeError, match="'bad'"):
    manifest.check_savable({'good': np.ones(1, ml_dtypes.bfloat16), 'bad': value})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12)), st.integers(1, 12))
def test_groups_cover_each_array_with_elements_once_and_stay_small(sizes, most):
  specs = {f'a{i}': manifest.ArraySpec((size,), 'uint8', '') for i, size in enumerate(sizes)}
  groups = list(manifest.groups(specs, most))
  assert [name for group in groups for name in group] == [name for name, spec in specs.items() if spec.size]
  assert all(len(group) == 1 or sum(specs[name].size for name in group) <= most for group in groups)


def test_a_manifest_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    EXAMPLE.step = 8  # type: ignore[misc]
