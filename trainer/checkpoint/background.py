"""The priority of the threads that write: behind training as long as nobody waits for them.

Linux has a priority per thread, which the threads that it starts inherit: Orbax and TensorStore start up to a hundred
for a save, and all of them want the cores at the moment when the next step does. Elsewhere a priority is that of the
whole process, and nothing is done.

Only a process with CAP_SYS_NICE (or a limit that allows it) can raise a priority again. Without, threads that were
lowered stay so until they end; as training stands still when somebody waits for a save, they have the cores for
themselves then, but for what other programs take.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

# The lowest there is: under full load a thread still has about 1/68 of what one of the usual priority has.
_LOWEST = 19
_usual: int | None = None  # that of the process, once something was lowered


def step_back() -> None:
  """Lowers the calling thread, and what it starts from now on."""
  global _usual
  if sys.platform == 'linux':
    _usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)


def catch_up() -> None:
  """Gives all threads that were lowered the priority of the process again, as far as the system lets it."""
  if _usual is None or _usual == _LOWEST:
    return
  for thread in map(int, os.listdir('/proc/self/task')):
    with contextlib.suppress(ProcessLookupError):
      if os.getpriority(os.PRIO_PROCESS, thread) == _LOWEST:
        try:
          os.setpriority(os.PRIO_PROCESS, thread, _usual)
        except PermissionError:
          return
