"""Doubles of the commands of clusters and clouds, for the tests of what is asked of them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HERE = pathlib.Path(__file__).parent
LAUNCHER = HERE.parents[1] / 'scripts' / 'launch_tpu'

# Runs its command once per task; the file `tasks` has their numbers for scancel.
SRUN = """
import os, subprocess, sys
command = sys.argv[1:]
with open('srun', 'a') as file: print(*command, file=file)
while command[0].startswith('--'): del command[0]
ranks = range(int(os.environ['SLURM_NTASKS']))
tasks = [subprocess.Popen(command, env={**os.environ, 'SLURM_PROCID': str(rank)}) for rank in ranks]
with open('tasks.new', 'w') as file: print(*[task.pid for task in tasks], file=file)
os.replace('tasks.new', 'tasks')
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCANCEL = """
import os, signal, sys
with open('scancel', 'a') as file: print(*sys.argv[1:], file=file)
for pid in open('tasks').read().split():
  os.kill(int(pid), signal.SIGTERM)
"""
SCONTROL = """
import os, sys
if sys.argv[1] == 'show':
  print('JobId=7 ' + (open('shown').read() if os.path.exists('shown') else 'JobState=RUNNING Reason=None'))
else:
  with open('scontrol', 'a') as file: print(*sys.argv[1:], file=file)
  sys.exit('requeue is disabled' if os.path.exists('refuse') else 0)
"""
SBATCH = """
import os, sys
if os.path.exists('refuse'): sys.exit('sbatch: error: Batch job submission failed: Invalid account')
open('sbatch', 'w').write(sys.stdin.read())
print('42;cluster')
"""


@pytest.fixture
def here(tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder with doubles of Slurm's commands in bin, which write down what they are asked."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name, text in {'srun': SRUN, 'scancel': SCANCEL, 'scontrol': SCONTROL, 'sbatch': SBATCH}.items():
    (folder / name).write_text(f'#!{sys.executable}{text}')
    (folder / name).chmod(0o755)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  return tmp_path


@pytest.fixture
def launch(tmp_path):
  """A function that runs the launcher in a scenario: (exit code, stdout, lines of stderr, what gcloud was asked)."""

  def run(*args: str, scenario: dict[str, list] | None = None, **variables: str):
    (tmp_path / 'scenario.json').write_text(json.dumps(scenario or {}))
    env = {
      **os.environ,
      'PATH': f'{HERE / "programs"}:{os.environ["PATH"]}',
      'GCLOUD_DOUBLE': str(tmp_path),
      **variables,
    }
    done = subprocess.run(
      [sys.executable, LAUNCHER, *args], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    calls = tmp_path / 'calls.jsonl'
    asked = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
    lines = [line for line in done.stderr.splitlines() if 'warning: what is not committed' not in line]
    return done.returncode, done.stdout, lines, asked

  return run
