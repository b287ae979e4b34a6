"""Launchers run on a Python that has none of the packages: on a machine before its set-up, and in a batch script."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LAUNCHERS = (
  'detached.py', 'exit_codes.py', 'healthy', 'launch_k8s', 'launch_local', 'launch_slurm', 'launch_ssh', 'launch_tpu',
  'pod_worker', 'slurm_job', 'ssh_worker', 'supervise', 'tpu_host',
)  # fmt: skip


@pytest.mark.parametrize('name', LAUNCHERS)
def test_a_launcher_is_loaded_without_packages(name):
  python = pathlib.Path(sys.base_prefix) / 'bin' / f'python{sys.version_info[0]}.{sys.version_info[1]}'
  scripts = ROOT / 'scripts'
  program = f'import runpy, sys; sys.path.insert(0, {str(scripts)!r}); runpy.run_path({str(scripts / name)!r})'
  ended = subprocess.run(
    [python, '-S', '-c', program], capture_output=True, text=True, check=False, env={'PATH': os.environ['PATH']}
  )
  assert ended.returncode == 0, ended.stderr
