"""Every task, under the real program: two devices give what one gives, and a run that was stopped ends the same.

A task has an entry in RUNS: a small config without dropout, whose masks differ between replicas, and without
statistics of a batch.
"""

import numpy as np
import pytest

from tests.faults import checks, matrix
from tests.faults.attempts import Link, Site
from tests.faults.program import Hit
from trainer.tasks import TASKS

STEPS = 6
COMMON = (
  '--config.precision.policy=float32', f'--config.train.steps={STEPS}', '--config.train.log_every_steps=1',
  '--config.train.steps_per_loop=1', '--config.eval.every_steps=3', '--config.checkpoint.every_seconds=0',
  '--config.faults.metadata_host=',
)  # fmt: skip
# Task -> config file, and what is changed of it. Variants `smoke` evaluate one and a half batches.
RUNS: dict[str, tuple[str, ...]] = {
  'audio_classification': ('spoken_digits_cnn.py:smoke', '--config.model.dropout=0.0'),
  'classification': (
    'digits_mlp.py', '--config.model.hidden=(16,)', '--config.model.dropout=0.0', '--config.optimizer.warmup_steps=2',
  ),
  'ctc': (
    'librispeech_conformer.py:smoke', '--config.model.dropout=0.0', '--config.task.seconds=4.0',
    '--config.task.max_characters=64',
  ),
  'detection': ('bccd_detector.py:smoke',),
  'forecasting': ('earth_orientation_mlp.py:smoke',),
  'language_modeling': ('shakespeare_gpt.py:smoke',),
  'masked_language_modeling': ('shakespeare_bert.py:smoke',),
  'regression': ('diabetes_linear.py',),
  'segmentation': ('pets_unet.py:smoke',),
  'seq2seq': ('cmudict_lstm.py:smoke', '--config.model.dropout=0.0'),
  'text_classification': ('language_id.py:smoke',),
  'text_regression': ('splice_sites_cnn.py:smoke', '--config.model.dropout=0.0'),
}  # fmt: skip


def test_no_task_is_left_out():
  assert RUNS.keys() == TASKS.keys()


@pytest.mark.slow
@pytest.mark.usefixtures('fork_server')
@pytest.mark.parametrize('task', matrix.some(RUNS, *(task for task in RUNS if task != 'segmentation')))
def test_topologies_and_a_stop(task, tmp_path, data_dir):
  config, *changes = RUNS[task]
  run = (f'--config=configs/{config}', *COMMON, *changes)
  alone, pair, stopped = (
    Site(topology, tmp_path / name, data_dir, run=run)
    for name, topology in (('alone', 'one device'), ('pair', 'two devices'), ('stopped', 'one device'))
  )
  stop = Link((Hit('SIGTERM', 'step', STEPS // 2 + 1),), 75)
  for site, link in ((alone, Link()), (pair, Link()), (stopped, stop), (stopped, Link())):
    (ended,) = site.attempt(link)
    assert ended.code == link.code, ended.stderr[-6000:]
  checks.assert_same(stopped, alone, STEPS)
  rows = alone.rows()
  assert len(rows) == STEPS + 2
  for row, other in zip(rows, pair.rows(), strict=True):
    assert other.keys() == row.keys()
    numbers = [(name, value) for name, value in row.items() if isinstance(value, int | float)]
    for name, value in numbers:
      # An average precision sums over ranks, of which those of equal scores hang on the last bit.
      nearly = 1e-3 if name.startswith('map') else 1e-6
      np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=nearly, err_msg=f'{name} of {row}')
