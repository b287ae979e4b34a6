"""The run that launchers are tried with, and whether two of them have ended the same."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from trainer.report.metrics import TIMES

STEPS, SAVES = 200, 20
RUN = (
  '--config=configs/digits_mlp.py', '--config.model.hidden=(16,)', '--config.precision.policy=float32',
  '--config.optimizer.warmup_steps=10', f'--config.train.steps={STEPS}', '--config.train.log_every_steps=5',
  '--config.train.steps_per_loop=1', '--config.eval.every_steps=100', f'--config.checkpoint.every_steps={SAVES}',
  '--config.checkpoint.every_seconds=0', '--config.faults.metadata_host=',
  '--config.faults.heartbeat_timeout_seconds=300',
)  # fmt: skip


def newest(workdir: pathlib.Path) -> int:
  """The newest complete step; 0 if there is none."""
  return max((int(path.parent.name) for path in workdir.glob('checkpoints/[0-9]*/complete.json')), default=0)


def reached(workdir: pathlib.Path) -> int:
  """The last step that metrics.jsonl tells of, which has a row for every five steps; 0 if there is none."""
  try:
    lines = (workdir / 'metrics.jsonl').read_text().splitlines(keepends=True)
  except FileNotFoundError:
    return 0
  return max((json.loads(line)['step'] for line in lines if line.endswith('\n')), default=0)


def assert_same(workdir: pathlib.Path, whole: pathlib.Path, steps: int = STEPS) -> None:
  """Both runs have ended with the same bytes: the manifests have a hash of each array, and what else was saved."""
  found, expected = (json.loads((path / f'checkpoints/{steps}/complete.json').read_text()) for path in (workdir, whole))
  for part in ('step', 'metric', 'host', 'arrays'):  # the files have names and times of their own
    assert found['manifest'][part] == expected['manifest'][part]
  assert _rows(workdir) == _rows(whole)


def need(missing: str) -> None:
  """Skips tests for which something is not installed, with the reason; where .ci/run has installed it, they fail.

  Args:
    missing: what, in words; '' for nothing.
  """
  if missing and 'CI' in os.environ and 'TRAINER_NO_DAEMONS' not in os.environ:
    pytest.fail(missing)
  if missing:
    pytest.skip(missing)


def _rows(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what depends on the moment."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert len({(row['split'], row['step']) for row in rows}) == len(rows), 'two rows for one split and step'
  return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
