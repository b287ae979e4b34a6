"""Modes lr_test and overfit: what they say of a config that works, and of one that does not."""

import json
import math

import pytest

from trainer.modes import lr_test

RUN = ('--config=configs/digits_mlp.py', '--config.diagnose.steps=120')


def test_the_curve_of_a_bowl_gives_its_steepest_place():
  rates = [10 ** (-5 + i / 20) for i in range(120)]
  smooth = [1 / (1 + math.exp(4 * (math.log10(rate) + 2.5))) + max(0.0, math.log10(rate)) for rate in rates]
  found = lr_test.proposal(rates, smooth)
  assert found['rate_of_fastest_fall'] == pytest.approx(10**-2.5, rel=0.15)
  assert found['proposal'] <= found['rate_of_lowest_loss'] / 10
  lines = lr_test.table(rates, smooth)
  assert len(lines) == 16 and lines[0].startswith(' 1.0e-05')


def test_a_rate_is_proposed_that_the_config_could_have(run_trainer, tmp_path):
  done = run_trainer(*RUN, f'--workdir={tmp_path}/new', '--mode=lr_test', check=True)
  found = json.loads((tmp_path / 'new/lr_test.json').read_text())
  assert f'--config.optimizer.learning_rate={found["proposal"]:.2g}' in done.stdout
  assert 1e-4 < found['proposal'] < 0.1
  assert found['rates'] == sorted(found['rates']) and found['rates'][0] == pytest.approx(1e-6, rel=0.2)
  assert len(found['rates']) == len(found['losses']) == len(found['smoothed'])
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['lr_test.json']


@pytest.mark.parametrize(
  ('more', 'learnt', 'says'),
  [((), True, 'learnt: model'), (('--config.optimizer.learning_rate=1e-7',), False, 'not learnt')],
)
def test_one_batch_is_learnt_or_not(run_trainer, tmp_path, more, learnt, says):
  done = run_trainer(*RUN, *more, f'--workdir={tmp_path}/new', '--mode=overfit', check=True)
  found = json.loads((tmp_path / 'new/overfit.json').read_text())
  assert found['learnt'] is learnt and len(found['losses']) == 120 and says in done.stdout


def test_a_rate_that_is_too_high_from_the_start_is_one_line(run_trainer, tmp_path):
  rates = ('--config.diagnose.lowest_rate=1e6', '--config.diagnose.highest_rate=1e9')
  done = run_trainer(*RUN, *rates, f'--workdir={tmp_path}/new', '--mode=lr_test')
  assert done.returncode == 2 and 'lower diagnose.lowest_rate=1e+06' in done.stderr.splitlines()[-1]
