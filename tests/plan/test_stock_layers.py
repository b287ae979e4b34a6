"""What is held against each other is the same work: networks of stock layers and ours have the same model FLOPs."""

import pytest

from scripts import stock_layers
from tests.plan.test_flops import of_step
from trainer import models

SMALL = {'data': {'pack_tokens': 16, 'pack_vocabulary': 300}, 'task': {'image_size': (32, 32)}}


@pytest.mark.parametrize('network', ['gpt2', 'vit', 'bert'])
def test_stock_layers_are_as_much_work(network, monkeypatch):
  monkeypatch.setattr(models, 'FAMILIES', dict(models.FAMILIES))
  found = []
  for way in ('stock', 'ours'):
    config = stock_layers.config_of(network, way)
    with config.unlocked():
      config.model.update({'layers': 1, 'width': 32, 'heads': 4})
      section = 'task' if network == 'vit' else 'data'
      config[section].update(SMALL[section])
    found.append(of_step(config, 2))
  assert found[0].flops > 0 and not found[0].not_counted and len(set(found)) == 1
