"""What can end a run, and the exit code that says so."""

EXIT_COMPLETE = 0
EXIT_USER_MISTAKE = 2
EXIT_DIVERGED = 3
EXIT_RUN_AGAIN = 75


class ConfigError(ValueError):
  """A mistake that the user can mend: in the config, the flags, the data, the checkpoint or the machine.

  The message is one line: what is wrong, the value, and the fix. `main` prints it without a traceback and exits 2.
  """


class CheckpointError(RuntimeError):
  """A checkpoint could not be written, or its files are whole and yet cannot be read. Nothing was deleted.

  Exit code 2: somebody has to make room, or bring back the version that wrote it.
  """


class DivergedError(RuntimeError):
  """Training produced a loss or a gradient that is not finite, and the config says to stop then. Exit code 3."""


class RunAgain(RuntimeError):
  """The run stopped before its end, on purpose or for loss of a peer; started again, it goes on. Exit code 75."""
