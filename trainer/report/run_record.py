"""run.json: under what each attempt of a run was made: versions, commit, devices. No environment, no secrets.

{"attempts": [{"started": "2026-01-31T12:00:00+00:00", "host": ..., "versions": {...}, "git": {...}, ...}, ...]}
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from absl import logging

import trainer
from trainer import durable
from trainer.errors import ConfigError

# Distributions; what is not installed is left out. tensorflow-tpu stands in for tensorflow on TPU hosts.
_DISTRIBUTIONS = (
  'tensorflow',
  'tensorflow-tpu',
  'keras',
  'orbax-checkpoint',
  'tensorflow-datasets',
  'numpy',
  'jax',
  'libtpu',
  'protobuf',
)
_GIT_SECONDS = 10
# Where this program lies, for `git_state`.
PACKAGE = os.path.dirname(os.path.abspath(trainer.__file__))
# A run on preemptible machines may have thousands; the first, and the newest, are kept.
_MOST_ATTEMPTS = 200


def append(path: str, facts: Mapping[str, Any]) -> dict[str, Any]:
  """Adds this attempt to the file, which is created if need be.

  Args:
    path: of run.json.
    facts: what only the caller knows, JSON-able: devices, strategy, precision, the step resumed from.

  Returns:
    The record of this attempt.

  Raises:
    ConfigError: the file cannot be written to.
  """
  record = {
    'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'host': socket.gethostname(),
    'platform': platform.platform(),
    'versions': versions(),
    'git': git_state(PACKAGE),
    **facts,
  }
  try:
    attempts = _earlier(path)
    text = json.dumps({'attempts': _bounded([*attempts, record])}, indent=2) + '\n'
    durable.replace(path, text.encode())
  except OSError as error:
    raise ConfigError(
      f'{path} cannot be written to: {error.strerror}: make room or set the permissions, or choose another --workdir'
    ) from error
  return record


def read(path: str) -> list[dict[str, Any]]:
  """The attempts so far, oldest first; [] if there is no file.

  Raises:
    ConfigError: it is not a record of attempts.
  """
  try:
    with open(path, 'rb') as file:
      attempts = json.load(file)['attempts']
    if isinstance(attempts, list):
      return attempts
  except FileNotFoundError:
    return []
  except (ValueError, KeyError, TypeError) as error:
    raise ConfigError(f'{path} is not a record of attempts: mend or remove it') from error
  raise ConfigError(f'{path} is not a record of attempts: mend or remove it')


def versions() -> dict[str, str]:
  """Versions of this program, of Python, and of the packages that decide what is computed, where installed."""
  found = {'python': platform.python_version(), 'trainer': trainer.__version__}
  for name in _DISTRIBUTIONS:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def git_state(folder: str) -> dict[str, Any] | None:
  """{'commit': hash, 'dirty': whether the checkout differs from it}, or None where `folder` is not part of a commit.

  A folder that merely lies in a checkout, such as site-packages in its virtual environment, is no part of it.
  """
  if _git(folder, 'ls-files', '--error-unmatch', '.') is None:
    return None
  commit = _git(folder, 'rev-parse', 'HEAD')
  if commit is None:
    return None
  changed = _git(folder, 'status', '--porcelain')
  return {'commit': commit, 'dirty': None if changed is None else bool(changed)}


def _git(folder: str, *args: str) -> str | None:
  """What git says, or None where there is no git, no checkout, or no answer."""
  try:
    done = subprocess.run(
      ['git', '-C', folder, *args],
      env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      timeout=_GIT_SECONDS,
      text=True,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def _bounded(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
  return attempts if len(attempts) <= _MOST_ATTEMPTS else [attempts[0], *attempts[1 - _MOST_ATTEMPTS :]]


def _earlier(path: str) -> list[dict[str, Any]]:
  """The attempts so far; a file that cannot be read as such is kept under another name, and a new one begun."""
  try:
    return read(path)
  except ConfigError:
    os.replace(path, f'{path}.damaged')
    logging.warning('%s is not a record of attempts: a new one is begun, the old one kept in %s.damaged', path, path)
    return []
