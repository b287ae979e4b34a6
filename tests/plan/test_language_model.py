"""What the compiler for TPUs makes of a small GPT-2: how much it moves and holds beside its arguments."""

import ml_collections
import pytest

from configs import gpt2_124m
from tests.plan.test_compiler import needs_tpu
from trainer import config as config_lib
from trainer.plan import making


def target(**model):
  config: ml_collections.ConfigDict = gpt2_124m.get_config()
  config.data.update({'pack_tokens': 512, 'pack_vocabulary': 8192})
  config.model.update({'layers': 1, 'width': 256, 'heads': 4, **model})
  config.optimizer.clip_norm = 0.0
  config.train.global_batch_size = config.eval.global_batch_size = 8
  config_lib.check(config)
  return making.make(config, 'v5e:1')['target']


@pytest.mark.slow
@needs_tpu
@pytest.mark.parametrize(
  ('model', 'moved', 'temporaries'),
  [
    ({}, 1.40e9, 150e6),  # with scores in float32 and an argmax: 1.68e9, 153e6
    # with the table in float32: 1.11e9, 40e6
    pytest.param({'attention': 'blockwise', 'head_chunks': 4}, 1.00e9, 20e6, marks=pytest.mark.thorough),
  ],
)
def test_a_step_moves_and_holds_no_more(model, moved, temporaries):
  found = target(**model)
  assert found['accessed_bytes_loops_once'] < moved
  assert found['temporary_bytes'] < temporaries
