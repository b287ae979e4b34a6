"""Where a run that is kept in a bucket has its copy on this machine. Standard library only: launchers read it too."""

from __future__ import annotations

import hashlib
import os
import re

SCRATCH = 'TRAINER_SCRATCH'  # environment: the folder of all local copies


def is_remote(path: str) -> bool:
  """Whether a path names a bucket: gs://bucket/run, s3://bucket/run."""
  return '://' in path


def scratch() -> str:
  """The folder of all local copies: $TRAINER_SCRATCH, or tf-trainer in the user's cache."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return os.environ.get(SCRATCH) or os.path.join(home, 'tf-trainer')


def local_copy(path: str) -> str:
  """The directory that the chief of a run works on: `path` itself, where it is on a file system of this machine."""
  if not is_remote(path):
    return path
  url = path.rstrip('/')
  name = re.sub(r'[^A-Za-z0-9._-]', '_', url.rpartition('/')[2])
  return os.path.join(scratch(), f'{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}')
