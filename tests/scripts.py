"""The scripts that have no ending, as modules."""

import importlib.machinery
import importlib.util
import pathlib
import sys
from typing import Any

SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'


def load(name: str) -> Any:
  """A file of scripts/, imported as if it had been started; the search path is as before afterwards."""
  loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
  spec = importlib.util.spec_from_loader(name, loader)
  assert spec
  module, before = importlib.util.module_from_spec(spec), list(sys.path)
  sys.path.insert(0, str(SCRIPTS))
  try:
    loader.exec_module(module)
  finally:
    sys.path[:] = before
  return module
