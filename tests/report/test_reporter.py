from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from trainer import config as config_lib
from trainer.errors import ConfigError, DivergedError, RunAgain
from trainer.report import metrics, run_record
from trainer.report.ledger import Ledger
from trainer.report.reporter import Reporter
from trainer.runtime.phases import Phases


def make_session(*, chief=True, replicas=1, step=0, norm=None):
  config = config_lib.base(task='classification', model='cnn')
  with config.unlocked():
    config.train.steps, config.train.global_batch_size = 100, 64
    if norm:
      config.model.norm = norm
  return SimpleNamespace(
    config=config,
    best_metric='accuracy',
    cluster=SimpleNamespace(
      is_chief=chief,
      strategy='one',
      reason='there is one CPU',
      device_kind='cpu',
      local_devices=replicas,
      num_workers=1,
      replicas=replicas,
    ),
    precision=SimpleNamespace(policy='float32', xla=True, policy_reason='a CPU', xla_reason='it is faster'),
    dataset=SimpleNamespace(train=SimpleNamespace(num_examples=1437)),
    pipeline=SimpleNamespace(
      epochs=lambda steps: 64 * steps / 1437,
      describe=lambda: ['data: digits', 'source: memory, because it fits', 'no label in this: one'],
    ),
    state=SimpleNamespace(
      model=SimpleNamespace(count_params=lambda: 1_234_567),
      progress=SimpleNamespace(step=step, best_step=80, best_value=0.98),
    ),
  )


def make(tmp_path, restored=0, changed=(), **keywords):
  def place(name: str) -> str:
    return os.path.join(tmp_path, name)

  directory = SimpleNamespace(path=str(tmp_path), file=place, shown=place)
  ledger = Ledger(Phases(time.monotonic()))
  if keywords.get('chief', True):
    ledger.open(str(tmp_path), 0)
  return Reporter(
    directory, make_session(**keywords), ledger, restored=restored, changed=changed, started=time.monotonic()
  )


def train(reporter, steps):
  for step in steps:
    reporter.block(step, 10, 0.5)
    reporter.trained(step, {'loss': 1 / step, 'learning_rate': 0.1})


def test_the_banner_says_what_runs_where(tmp_path, capsys):
  make(tmp_path, changed=['train.steps: 50 -> 100'], replicas=2, norm='batch')
  text = capsys.readouterr().out
  for line in (
    'config changed  train.steps: 50 -> 100',
    'devices         2 CPU',
    'strategy        one: there is one CPU',
    'precision       float32: a CPU',
    'XLA             on: it is faster',
    'model           cnn, 1.23 M parameters',
    'data            digits',
    'source          memory, because it fits',
    'no label in this: one',
    'global batch    64 examples = 2 replicas x 1 micro-batches x 32',
    'steps           100, which is 4.45 epochs',
    'dropout masks and batch statistics depend on their number',
    f'metrics         {tmp_path}/metrics.jsonl',
  ):
    assert line in text
  (attempt,) = run_record.read(str(tmp_path / 'run.json'))
  assert attempt['devices'] == {'kind': 'cpu', 'per_worker': 2, 'workers': 1}
  assert attempt['resumed_from_step'] is None


def test_rows_hold_values_and_speed_and_the_first_block_does_not_count(tmp_path):
  reporter = make(tmp_path)
  assert reporter.block(1, 1, 30.0) is False
  reporter.trained(1, {'loss': 2.0})
  assert reporter.block(11, 10, 0.5) is True
  reporter.trained(11, {'loss': 1.0})
  reporter.evaluated(11, {'accuracy': 0.5})
  first, second, third = metrics.read(str(tmp_path / 'metrics.jsonl'))
  assert (first['examples_per_second'], first['step_milliseconds']) == (None, None)
  assert (second['examples_per_second'], second['step_milliseconds']) == (pytest.approx(1280), pytest.approx(50))
  assert (third['split'], third['step'], third['accuracy']) == ('eval', 11, 0.5)
  assert set(second) - {'step', 'split', 'loss'} == set(metrics.TIMES)


def test_resuming_gives_the_rows_of_an_unbroken_run(tmp_path, capsys):
  for name in ('whole', 'broken'):
    (tmp_path / name).mkdir()
  train(make(tmp_path / 'whole'), range(10, 60, 10))
  train(make(tmp_path / 'broken'), range(10, 50, 10))
  train(make(tmp_path / 'broken', restored=20), range(30, 60, 10))

  def rows(name):
    found = metrics.read(str(tmp_path / name / 'metrics.jsonl'))
    return [{key: value for key, value in row.items() if key not in metrics.TIMES} for row in found]

  assert len(rows('whole')) == 5
  assert rows('broken') == rows('whole')
  assert 'going on at step 20 of 100' in capsys.readouterr().out
  assert [attempt['resumed_from_step'] for attempt in run_record.read(str(tmp_path / 'broken' / 'run.json'))] == [
    None,
    20,
  ]


def test_other_workers_say_and_write_nothing(tmp_path, capsys):
  reporter = make(tmp_path, chief=False)
  train(reporter, [10, 20])
  assert reporter.block(30, 10, 0.5) is True
  reporter.evaluated(30, {'accuracy': 1.0})
  reporter.sync()
  reporter.close()
  assert capsys.readouterr().out == ''
  assert os.listdir(tmp_path) == []


def test_rows_that_a_full_disk_does_not_take_are_reported_once_and_written_later(tmp_path, monkeypatch, caplog):
  reporter = make(tmp_path)
  train(reporter, [10])

  def refuse(*args, **keywords):
    raise ConfigError('metrics cannot be written: the disk is full')

  with monkeypatch.context() as patch:
    patch.setattr(metrics.MetricsFile, 'write', refuse)
    train(reporter, [20, 30])
    with pytest.raises(ConfigError, match='disk is full'):
      reporter.sync()
  assert len([record for record in caplog.records if 'rows wait to be written' in record.getMessage()]) == 1
  train(reporter, [40])
  reporter.sync()
  assert [row['step'] for row in metrics.read(str(tmp_path / 'metrics.jsonl'))] == [10, 20, 30, 40]


def test_going_back_takes_back_the_rows(tmp_path):
  reporter = make(tmp_path)
  train(reporter, [10, 20, 30])
  reporter.rewind(10)
  train(reporter, [20, 30])
  assert [row['step'] for row in metrics.read(str(tmp_path / 'metrics.jsonl'))] == [10, 20, 30]


def test_the_summary_comes_at_the_end(tmp_path, capsys):
  reporter = make(tmp_path, step=100)
  train(reporter, [90, 100])
  reporter.evaluated(100, {'accuracy': 0.975})
  reporter.sync()
  reporter.close()
  text = capsys.readouterr().out
  assert 'evaluation at step 100: accuracy 0.9750' in text
  end = text[text.index('Training is complete.') :]
  assert 'accuracy 0.9800 at step 80' in end
  assert '1,280 examples/s, 50.0 ms per step (over 10 steps' in end


@pytest.mark.parametrize(
  ('error', 'says'), [(RunAgain('told'), True), (DivergedError('nan'), False), (KeyError(), False)]
)
def test_the_summary_does_not_speak_over_an_error(tmp_path, capsys, error, says):
  reporter = make(tmp_path, step=20)

  def attempt():
    try:
      raise error
    finally:
      reporter.close()

  with pytest.raises(type(error)):
    attempt()
  assert ('the same command goes on' in capsys.readouterr().out) is says
