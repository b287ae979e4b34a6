"""The entry point: flags, config, mode, exit code; nothing else.

  python -m trainer --config=configs/NAME.py --workdir=DIR [--mode=MODE] [--config.SECTION.FIELD=VALUE ...]

Exit codes: 0 complete; 2 a mistake of the user's, in one line on stderr; 3 training diverged; 75 stopped before the end
with the state saved as far as it could be: run the same command again. Anything else is a bug, and prints a traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.errors import (
  EXIT_COMPLETE,
  EXIT_DIVERGED,
  EXIT_RUN_AGAIN,
  EXIT_USER_MISTAKE,
  CheckpointError,
  ConfigError,
  DivergedError,
  RunAgain,
)
from trainer.report.ledger import Ledger
from trainer.runtime.phases import Phases, process_start
from trainer.runtime.preemption import Stop

if TYPE_CHECKING:
  import ml_collections
  from absl import flags

# Mode -> the module of trainer.modes that has `run(command)`, and what it does.
MODES = {
  'benchmark': 'measure how fast training is, and what stands in its way; keeps nothing but benchmark.json',
  'train': 'train to train.steps with evaluation in between; the same command resumes',
  'eval': 'evaluate one checkpoint on the whole evaluation split and print one JSON object',
  'continuous_eval': 'evaluate each checkpoint of a run that may be under way, once, until training is complete',
  'export': 'write one checkpoint as a SavedModel that takes raw features, checked, with a model card',
  'inspect': 'show a batch as training would see it, augmented, in pictures, texts and sounds',
  'explain': 'say why one checkpoint says what it says of some examples: pictures in explanations/, JSON lines',
  'lr_test': 'train some steps at a rising learning rate, and propose one; keeps nothing but lr_test.json',
  'overfit': 'train some steps on one batch, and say whether it was learnt; keeps nothing but overfit.json',
  'plan': 'start nothing; say what a run would need, and with --target compile its step for TPUs that are not there',
  'samples': 'show what one checkpoint makes of the evaluation split: the first, the worst, the confusions',
  'predict': 'print what one checkpoint makes of files, lines or the evaluation split, a JSON object per example',
}

# Flag -> the modes that it is for.
_FLAGS_OF = {
  'target': ('plan',),
  'search': ('plan', 'benchmark'),
  'input': ('predict',),
  'pictures': ('predict',),
}


@dataclasses.dataclass(frozen=True)
class Command:
  """What the command line says, checked, and the process that is to do it.

  Attributes:
    config: the effective config, locked.
    workdir: directory of the run.
    mode: one of MODES.
    checkpoint: 'latest', 'best' or a step, for the modes that read one.
    target: chips that mode plan is for; empty: this machine.
    search: whether mode plan looks for the largest batch, or mode benchmark for the fastest precision.
    inputs: files that mode predict reads; empty: data.eval_split.
    pictures: whether mode predict also draws what it says.
    stop: the wish to stop, heard since the process began.
    phases: what the process is doing, since it began.
    ledger: writes that down, once it is known where.
    closing: what is to be done last, after the ledger has been closed.
  """

  config: ml_collections.ConfigDict
  workdir: str
  mode: str
  checkpoint: str
  target: str
  search: bool
  inputs: tuple[str, ...]
  pictures: bool
  stop: Stop
  phases: Phases
  ledger: Ledger
  closing: contextlib.ExitStack


def define(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Defines the flags; those of config fields depend on what is given."""
  from absl import flags
  from ml_collections import config_flags

  config_flags.DEFINE_config_file(
    'config', None, 'config file and variant: configs/NAME.py:VARIANT', flag_values=values, sys_argv=list(argv)
  )
  flags.DEFINE_string(
    'workdir', None, 'directory of the run, the only place that it writes to; or gs://BUCKET/RUN', flag_values=values
  )
  modes = '; '.join(f'{name}: {does}' for name, does in MODES.items())
  flags.DEFINE_enum('mode', 'train', list(MODES), modes, flag_values=values)
  flags.DEFINE_string(
    'checkpoint', 'latest', "modes eval, explain and predict: 'latest', 'best' or a step", flag_values=values
  )
  flags.DEFINE_string(
    'target', '', "mode plan: chips as in 'v5e:4x4' or 'v5e:1'; empty: this machine", flag_values=values
  )
  flags.DEFINE_bool(
    'search',
    False,
    'mode plan: look for the largest batch that fits into the target; mode benchmark: look for the fastest '
    'precision.policy and precision.xla, which auto takes from then on',
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'input',
    [],
    "mode predict: a file, a folder or a pattern of pictures, WAV files, texts or CSV files, or '-': lines of stdin; "
    'may be given several times; none: data.eval_split',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'pictures',
    False,
    'mode predict: also draw what is predicted, into predictions/STEP of the work directory',
    flag_values=values,
  )


def parse(argv: Sequence[str], stop: Stop | None = None) -> Command:
  """What the command line says; argv[0] is the program.

  Args:
    argv: the command line.
    stop: installed; None: signals keep the effect that they have.

  Raises:
    ConfigError: the flags or the config are wrong.
  """
  phases = Phases(process_start())
  ledger = Ledger(phases)  # from the first phase on
  from absl import flags

  from trainer import config as config_lib  # imports TensorFlow, which takes seconds

  argv = _with_local_config(argv)
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
  for name, modes in _FLAGS_OF.items():
    if values[name].value and values.mode not in modes:
      known = ' and '.join(f'--mode={mode}' for mode in modes)
      raise ConfigError(f'--{name}={values[name].value} is for {known}: add that, or leave it out')
  config_lib.check(config)
  return Command(
    config,
    values.workdir,
    values.mode,
    values.checkpoint,
    values.target,
    values.search,
    tuple(values.input),
    values.pictures,
    stop or Stop(),
    phases,
    ledger,
    contextlib.ExitStack(),
  )


def _with_local_config(argv: Sequence[str]) -> list[str]:
  """The command line with a config file that is in a bucket fetched, and its copy named instead.

  Raises:
    ConfigError: there is no such object, or the bucket cannot be read.
  """
  found = list(argv)
  for place, argument in enumerate(argv):
    flag, _, value = argument.partition('=')
    if flag in ('--config', '-config') and '://' in value:
      from trainer.storage import bucket

      url, dot, variant = value.rpartition('.py:')
      url, variant = (f'{url}.py', f':{variant}') if dot else (value, '')
      found[place] = f'{flag}={bucket.fetched(url, tempfile.mkdtemp(prefix="tf-trainer-"))}{variant}'
  return found


def run(argv: Sequence[str], stop: Stop | None = None) -> int:
  """Runs one mode; returns the exit code. Bugs pass through as exceptions.

  Args:
    argv: the command line.
    stop: installed; None: signals keep the effect that they have.
  """
  if '--help' in argv or '-h' in argv:
    from absl import flags

    values = flags.FlagValues()
    define(argv, values)
    print(__doc__, values.get_help(), sep='\n')
    return EXIT_COMPLETE
  command = None
  code = 1  # a bug
  try:
    command = parse(argv, stop)
    mode = importlib.import_module(f'trainer.modes.{command.mode}')
    command.phases.enter('build')
    mode.run(command)
    code = EXIT_COMPLETE
  except (ConfigError, CheckpointError) as error:
    _say(f'error: {_one_line(error)}')
    code = EXIT_USER_MISTAKE
  except DivergedError as error:
    _say(f'diverged: {_one_line(error)}')
    code = EXIT_DIVERGED
  except RunAgain as error:
    _say(f'stopped: {_one_line(error)}')
    code = EXIT_RUN_AGAIN
  finally:
    if command:
      command.ledger.close(code)
      command.closing.close()
  return code


def entry() -> None:
  """Console entry point; flushes all output and leaves with the exit code."""
  # Before the seconds that imports take: a notice to stop is heard from here on.
  stop = Stop()
  stop.install()
  from absl import logging

  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  code = run(sys.argv, stop)
  # All is saved. A second notice, or a library that hangs in its own clean-up, must not change the exit code now.
  stop.release()
  with contextlib.suppress(OSError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(code)


def _say(line: str) -> None:
  # The terminal may have gone, which is no reason for another exit code.
  with contextlib.suppress(OSError):
    print(line, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
  # ml_collections hands a KeyError on inside others, line breaks and quotes escaped.
  text = str(error).replace('\\n', ' ').replace('\\', '').replace('\'"', '"').replace('"\'', '"')
  return ' '.join(text.split()) or type(error).__name__
