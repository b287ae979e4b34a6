"""Objects by import path, 'package.module:name': what a user writes outside this package, and names in the config."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import Any

from trainer.errors import ConfigError
from trainer.fields import nearest

_PATH = re.compile(r'[a-zA-Z_]\w*(\.[a-zA-Z_]\w*)*:[a-zA-Z_]\w*')


def is_path(name: str) -> bool:
  """Whether a name is meant as an import path: the names of our own tables have no colon."""
  return ':' in name


def load(field: str, path: str) -> Any:
  """The object at an import path, found from the current directory or among the installed packages.

  The module is imported as `import` does: what it does at its top level happens, once in a process.

  Args:
    field: the config field that names it, for messages.
    path: 'package.module:name'.

  Raises:
    ConfigError: the path is malformed, there is no such module or name (the message has the nearest), or the module
      raises while it is imported.
  """
  if not _PATH.fullmatch(path):
    raise ConfigError(
      f"{field}={path!r} is no import path: must look like 'package.module:name', without slashes or .py"
    )
  module_name, _, name = path.partition(':')
  with _current_directory():
    try:
      module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
      if error.name is None or not (module_name == error.name or module_name.startswith(f'{error.name}.')):
        raise ConfigError(f'{field}={path!r}: {module_name} cannot be imported: {_one_line(error)}') from error
      raise ConfigError(
        f'{field}={path!r}: there is no module {error.name!r}{nearest(error.name, _siblings(error.name))} '
        f'(looked in {os.getcwd()} and among the installed packages)'
      ) from error
    # Whatever a module raises while it is imported is its own; none of it is dropped.
    except Exception as error:
      raise ConfigError(
        f'{field}={path!r}: {module_name} cannot be imported: {type(error).__name__}: {_one_line(error)}'
      ) from error
  if not hasattr(module, name):
    public = [known for known in vars(module) if not known.startswith('_')]
    raise ConfigError(f'{field}={path!r}: {module_name} ({module.__file__}) has no {name!r}{nearest(name, public)}')
  return getattr(module, name)


@contextlib.contextmanager
def _current_directory() -> Iterator[None]:
  """Lets modules be found from the current directory, where Python was not started with `-m`."""
  here = os.getcwd()
  added = here not in sys.path and '' not in sys.path
  if added:
    sys.path.insert(0, here)
  try:
    yield
  finally:
    if added and here in sys.path:
      sys.path.remove(here)


def _siblings(module: str) -> list[str]:
  """The modules that lie where `module` was looked for."""
  parent, _, _ = module.rpartition('.')
  folders = sys.modules[parent].__path__ if parent else [*sys.path, os.getcwd()]
  prefix = f'{parent}.' if parent else ''
  # A folder without __init__.py is a package too, which pkgutil does not list.
  folders = [folder or '.' for folder in folders if os.path.isdir(folder or '.')]
  plain = [entry for folder in folders for entry in os.listdir(folder) if os.path.isdir(os.path.join(folder, entry))]
  return [prefix + name for name in [*(found.name for found in pkgutil.iter_modules(folders)), *plain]]


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
