"""Logits and numbers of parameters are those of others: KerasHub's with the same weights, and the published ones."""

import importlib.util
import json

import numpy as np
import pytest

from tests.models import parity

# Of 1000 classes at 224 x 224 x 3. He et al. give none; these are torchvision's, which has version 1.5, and for ViT
# those of Dosovitskiy et al. and Steiner et al. to the last parameter, as timm has them.
PUBLISHED = [
  ('resnet', {'depth': 18}, 11_689_512),
  ('resnet', {'depth': 34}, 21_797_672),
  ('resnet', {'depth': 50}, 25_557_032),
  ('resnet', {'depth': 101}, 44_549_160),
  ('resnet', {'depth': 152}, 60_192_808),
  ('vit', {'size': 'Ti'}, 5_717_416),
  ('vit', {'size': 'S'}, 22_050_664),
  ('vit', {'size': 'B'}, 86_567_656),
  ('vit', {'size': 'L'}, 304_326_632),
]


@pytest.mark.parametrize(('family', 'changes', 'count'), PUBLISHED)
def test_parameters_are_as_many_as_published(family, changes, count):
  assert parity.parameters(lambda: parity.build(family, (224, 224, 3), 1000, **changes)) == count


@pytest.mark.parametrize('name', parity.CASES)
def test_logits_are_those_that_keras_hub_gave(name):
  model = parity.ours(name)
  expected = np.array(json.loads(parity.GOLDEN.read_text())[name])
  assert np.abs(expected).max() > 0.1
  logits = model(parity.images(parity.CASES[name][1]), training=False)
  np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec('keras_hub'), reason='keras-hub is not installed; golden.json has it')
@pytest.mark.parametrize('name', parity.CASES)
def test_logits_are_those_of_keras_hub(name):
  model = parity.ours(name)
  logits = model(parity.images(parity.CASES[name][1]), training=False)
  np.testing.assert_allclose(logits, parity.theirs(name, model), atol=1e-4)
