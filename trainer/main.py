"""The entry point: flags, config, mode, exit code; nothing else.

  python -m trainer --config=configs/NAME.py --workdir=DIR [--mode=MODE] [--config.SECTION.FIELD=VALUE ...]

Exit codes: 0 complete; 2 a mistake of the user's, in one line on stderr; 3 training diverged; 75 stopped before the end
with the state saved as far as it could be: run the same command again. Anything else is a bug, and prints a traceback.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from trainer import config as config_lib
from trainer.checkpoint import CheckpointError
from trainer.errors import (
  EXIT_COMPLETE,
  EXIT_DIVERGED,
  EXIT_RUN_AGAIN,
  EXIT_USER_MISTAKE,
  ConfigError,
  DivergedError,
  RunAgain,
)

# Mode -> the module of trainer.modes that has `run(config, workdir, checkpoint)`, and what it does.
MODES = {
  'train': 'train to train.steps with evaluation in between; the same command resumes',
  'eval': 'evaluate one checkpoint on the whole evaluation split and print one JSON object',
}


@dataclasses.dataclass(frozen=True)
class Command:
  """What the command line says, checked.

  Attributes:
    config: the effective config, locked.
    workdir: directory of the run.
    mode: one of MODES.
    checkpoint: 'latest', 'best' or a step, for the modes that read one.
  """

  config: ml_collections.ConfigDict
  workdir: str
  mode: str
  checkpoint: str


def define(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Defines the flags; those of config fields depend on what is given."""
  config_flags.DEFINE_config_file(
    'config', None, 'config file and variant: configs/NAME.py:VARIANT', flag_values=values, sys_argv=list(argv)
  )
  flags.DEFINE_string('workdir', None, 'directory of the run, the only place that it writes to', flag_values=values)
  modes = '; '.join(f'{name}: {does}' for name, does in MODES.items())
  flags.DEFINE_enum('mode', 'train', list(MODES), modes, flag_values=values)
  flags.DEFINE_string('checkpoint', 'latest', "mode eval: 'latest', 'best' or a step", flag_values=values)


def parse(argv: Sequence[str]) -> Command:
  """What the command line says; argv[0] is the program.

  Raises:
    ConfigError: the flags or the config are wrong.
  """
  values = flags.FlagValues()
  define(argv, values)
  try:
    rest = values(list(argv))
    config = values.config
    if config is not None:
      config.keys()  # a file that could not be loaded says so only when it is used
  except flags.Error as error:
    raise ConfigError(_one_line(error)) from error
  # What a config file raises is its own, whatever it is: a missing file, a typo, an unknown variant.
  except Exception as error:
    raise ConfigError(f'--config cannot be used: {_one_line(error)}') from error
  if len(rest) > 1:
    raise ConfigError(f'unexpected argument {rest[1]!r}: flags begin with --')
  if config is None:
    raise ConfigError('--config is missing: name a config file, e.g. --config=configs/digits_cnn.py')
  if not values.workdir:
    raise ConfigError('--workdir is missing: name the directory of the run')
  config_lib.check(config)
  return Command(config, values.workdir, values.mode, values.checkpoint)


def run(argv: Sequence[str]) -> int:
  """Runs one mode; returns the exit code. Bugs pass through as exceptions."""
  if '--help' in argv or '-h' in argv:
    values = flags.FlagValues()
    define(argv, values)
    print(__doc__, values.get_help(), sep='\n')
    return 0
  try:
    command = parse(argv)
    importlib.import_module(f'trainer.modes.{command.mode}').run(command.config, command.workdir, command.checkpoint)
    return EXIT_COMPLETE
  except (ConfigError, CheckpointError) as error:
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
  # ml_collections hands a KeyError on inside others, line breaks and quotes escaped.
  text = str(error).replace('\\n', ' ').replace('\\', '').replace('\'"', '"').replace('"\'', '"')
  return ' '.join(text.split()) or type(error).__name__
