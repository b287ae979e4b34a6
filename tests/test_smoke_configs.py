"""Every experiment as it would run on an accelerator, but for its size: with XLA, in bfloat16 on two devices.

The variant `smoke` of a config makes its model small enough for a processor, and leaves in place the shapes of its
inputs, its kinds of layers and its other fields. For time, this is tried with one config of each model and task whose
model tests/distributed/test_every_task.py does not train, and the other combinations of precision and devices, and a
restart of what was saved, with ALL_WAYS. TRAINER_SMOKE=all tries each config in all ways: about half an hour on two
cores that do nothing else.
"""

import os

import pytest

from tests.distributed import test_every_task
from tests.faults.attempts import Site
from tests.tasks.test_experiments import NAMES, load

RUN = (
  '--config.precision.xla=on', '--config.train.log_every_steps=1', '--config.eval.every_steps=3',
  '--config.checkpoint.every_seconds=0', '--config.faults.metadata_host=',
)  # fmt: skip
# Statistics of a batch and dropout, and weights per token.
ALL_WAYS = NAMES if os.environ.get('TRAINER_SMOKE') == 'all' else ('digits_cnn',)
ELSEWHERE = {load(file.partition('.')[0]).get_config().model.name for file, *_ in test_every_task.RUNS.values()}
ONE_OF_EACH = {
  (config.model.name, config.task.name): name for name in reversed(NAMES) for config in [load(name).get_config()]
}
ONE_OF_EACH = {kind: name for kind, name in ONE_OF_EACH.items() if kind[0] not in ELSEWHERE}
RUNS = [(name, 'mixed_bfloat16', 'two devices') for name in sorted({*ONE_OF_EACH.values(), *ALL_WAYS})]
RUNS += [(name, 'float32', 'one device') for name in ALL_WAYS]
_ONE_MORE = [] if ALL_WAYS is NAMES else [pytest.mark.thorough]
RUNS += [pytest.param(name, 'float32', 'two devices', marks=_ONE_MORE) for name in ALL_WAYS]
RUNS += [(name, 'mixed_bfloat16', 'one device') for name in ALL_WAYS]


@pytest.mark.slow
@pytest.mark.usefixtures('fork_server')
@pytest.mark.parametrize(('name', 'policy', 'topology'), RUNS)
def test_steps_evaluation_and_save(name, policy, topology, tmp_path, data_dir, monkeypatch):
  # Otherwise half of the time goes into the speed of machine code that runs for three steps. Level 0 would be faster
  # still, but on some models gives numbers that are not finite.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false')
  expected = [('train', 1), ('train', 2), ('train', 3), ('eval', 3), ('train', 4), ('eval', 4)]
  for steps in (3, 4) if name in ALL_WAYS else (3,):
    run = (f'--config=configs/{name}.py:smoke', f'--config.precision.policy={policy}', f'--config.train.steps={steps}')
    site = Site(topology, tmp_path / f'to{steps}', data_dir, run=(*run, *RUN), workdir=tmp_path / 'run', static=True)
    (ended,) = site.attempt()
    assert ended.code == 0, ended.stderr[-6000:]
    assert site.newest() == steps
    assert [(row['split'], row['step']) for row in site.rows()] == expected[: 4 if steps == 3 else 6]
    begun = [line['step'] for line in ended.trail if (line['kind'], line['name']) == ('phase', 'compile')]
    assert begun[0] == (0 if steps == 3 else 3), 'a restart goes on from the checkpoint'
