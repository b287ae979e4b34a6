"""What can go wrong with a checkpoint, and how it is put in one line."""

from __future__ import annotations

import errno

from trainer.errors import CheckpointError, ConfigError


class DamagedCheckpoint(CheckpointError):
  """The bytes on disk are not those that were saved.

  Attributes:
    step: the step of the checkpoint.
    what: what differs, in one line: the file or array, and how.
  """

  def __init__(self, step: int, what: str):
    super().__init__(f'checkpoint of step {step} is damaged: {what}')
    self.step = step
    self.what = what


class NoSuchCheckpoint(ConfigError):
  """There is no complete checkpoint of the step that was asked for; the message lists those that there are."""


def reason(error: BaseException | None) -> str:
  """An error as a part of one line."""
  if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
    return f'the disk is full ({error.strerror})'
  if isinstance(error, CheckpointError):
    return str(error)
  lines = str(error).strip().splitlines()
  return f'{type(error).__name__}: {lines[0][:300]}' if lines else type(error).__name__
