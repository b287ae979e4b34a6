"""How many groups a group normalisation gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.models import norms


@given(st.integers(1, 4096))
def test_groups_share_the_channels_evenly(channels):
  groups = norms.groups(channels)
  assert 1 <= groups <= norms.MAX_GROUPS
  assert channels % groups == 0
  assert groups == 1 or channels // groups >= norms.MIN_GROUP_CHANNELS


@pytest.mark.parametrize(('channels', 'groups'), [(4, 1), (16, 2), (32, 4), (48, 6), (64, 8), (256, 32), (1024, 32)])
def test_groups_are_as_many_as_the_rule_allows(channels, groups):
  assert norms.groups(channels) == groups


def test_unknown_kind_is_an_error():
  with pytest.raises(ValueError, match='instance'):
    norms.layer('instance', 8, 'norm')
