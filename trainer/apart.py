"""A function in a process of its own: it has all the memory that there is, and takes no other with it if that is too
little. The two end together.

The process gets a pickle of the function and its arguments on its standard input, and writes one of what came out to a
file that it has inherited.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from trainer.errors import ConfigError, RunAgain

_POLL_SECONDS = 0.1


class EndedEarly(Exception):
  """The process gave no answer. The message says in one line how it ended.

  Attributes:
    killed: whether by SIGKILL, as by a kernel that has no memory left.
  """

  def __init__(self, returncode: int, last: str):
    how = f'signal {-returncode}' if returncode < 0 else f'exit code {returncode}'
    super().__init__(f'its process ended with {how}: {last.strip()[:200]}')
    self.killed = returncode == -signal.SIGKILL


def call(
  function: Callable[..., Any],
  *arguments: Any,
  environment: Mapping[str, str] | None = None,
  between: Callable[[], None] = lambda: None,
) -> Any:
  """What the function returns there.

  Args:
    function: of a module; what it prints is dropped.
    *arguments: its own; like the answer they must be such that pickle can write them.
    environment: variables that the process has beside those of this one, or in their place.
    between: called several times a second; may raise, which ends the process.

  Raises:
    ConfigError: the function raised it; RunAgain likewise.
    EndedEarly: it raised anything else, or the process was killed.
  """
  variables = {**os.environ, **(environment or {}), 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
  with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
    command = [sys.executable, '-m', __name__, str(answer.fileno())]
    with subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      stderr=errors,
      env=variables,
      pass_fds=[answer.fileno()],
    ) as process:
      try:
        assert process.stdin
        # Left open: its end tells the process that this one is gone.
        process.stdin.write(pickle.dumps((function, arguments)))
        process.stdin.flush()
        while process.poll() is None:
          between()
          time.sleep(_POLL_SECONDS)
      except BrokenPipeError:
        process.wait()
      finally:
        process.kill()
    answer.seek(0)
    contents = answer.read()
    if not contents or process.returncode:
      errors.seek(0)
      said = [line for line in errors.read().decode(errors='replace').splitlines() if line.strip()]
      raise EndedEarly(process.returncode, said[-1] if said else 'it said nothing')
  error, result = pickle.loads(contents)
  if error:
    raise error
  return result


def _serve() -> None:
  # Ctrl-C goes to all processes of a terminal; the one that asked says so by its end.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  function, arguments = pickle.load(sys.stdin.buffer)
  threading.Thread(target=_end_with_the_other, daemon=True).start()
  try:
    answer: tuple[Exception | None, Any] = (None, function(*arguments))
  except (ConfigError, RunAgain) as error:
    answer = (error, None)
  except BaseException:  # noqa: BLE001 it is told, and ends the process
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
  with os.fdopen(int(sys.argv[1]), 'wb') as file:
    pickle.dump(answer, file)
  os._exit(0)  # threads of TensorFlow may hang in their own clean-up


def _end_with_the_other() -> None:
  while sys.stdin.buffer.read(1):
    pass
  os._exit(1)


if __name__ == '__main__':
  _serve()
