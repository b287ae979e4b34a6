"""The entry point: flags, config, mode, exit code; nothing else.

  python -m trainer --config=configs/NAME.py --workdir=DIR [--mode=MODE] [--config.SECTION.FIELD=VALUE ...]

Exit codes: 0 complete; 2 a mistake of the user's, in one line on stderr; 3 training diverged; 75 stopped before the end
with the state saved as far as it could be: run the same command again. Anything else is a bug, and prints a traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from trainer import config as config_lib
from trainer.errors import (
  EXIT_DIVERGED,
  EXIT_RUN_AGAIN,
  EXIT_USER_MISTAKE,
  ConfigError,
  DivergedError,
  RunAgain,
)

# Mode -> the module of trainer.modes that has `run(config, workdir, flags) -> exit code`, and what it does.
MODES = {
  'train': 'train to train.steps with evaluation in between; the same command resumes',
  'eval': 'evaluate one checkpoint on the whole evaluation split and print one JSON object',
}

_CONFIG = config_flags.DEFINE_config_file('config', None, 'config file, with an optional variant: configs/NAME.py:VARIANT')
_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run; the only place that it writes to')
_MODE = flags.DEFINE_enum('mode', 'train', list(MODES), '; '.join(f'{name}: {does}' for name, does in MODES.items()))
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "mode eval: 'latest', 'best' or a step")


def parse(argv: Sequence[str]):
  """The checked config that the flags describe.

  Raises:
    ConfigError: the flags or the config are wrong.
  """
  try:
    rest = flags.FLAGS(list(argv))
  except flags.Error as error:
    raise ConfigError(_one_line(error)) from error
  # What a config file raises is its own, whatever it is: a missing file, a typo, an unknown variant.
  except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError, NameError) as error:
    raise ConfigError(f'--config cannot be used: {_one_line(error)}') from error
  if len(rest) > 1:
    raise ConfigError(f'unexpected argument {rest[1]!r}: flags begin with --')
  if _CONFIG.value is None:
    raise ConfigError('--config is missing: name a config file, e.g. --config=configs/digits_cnn.py')
  if not _WORKDIR.value:
    raise ConfigError('--workdir is missing: name the directory of the run')
  config_lib.check(_CONFIG.value)
  return _CONFIG.value


def run(argv: Sequence[str]) -> int:
  """Runs one mode; returns the exit code. Bugs pass through as exceptions."""
  if '--help' in argv or '-h' in argv:
    print(__doc__, flags.FLAGS.module_help(__name__), sep='\n')
    return 0
  try:
    config = parse(argv)
    mode = importlib.import_module(f'trainer.modes.{_MODE.value}')
    mode.run(config, _WORKDIR.value, _CHECKPOINT.value)
    return 0
  except ConfigError as error:
    print(f'error: {_one_line(error)}', file=sys.stderr)
    return EXIT_USER_MISTAKE
  except DivergedError as error:
    print(f'diverged: {_one_line(error)}', file=sys.stderr)
    return EXIT_DIVERGED
  except RunAgain as error:
    print(f'stopped: {_one_line(error)}', file=sys.stderr)
    return EXIT_RUN_AGAIN


def entry() -> None:
  """Console entry point; flushes all output and leaves with the exit code."""
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  sys.exit(run(sys.argv))


def _one_line(error: BaseException) -> str:
  text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
  return ' '.join(str(text).split()) or type(error).__name__
