"""Leaves with exit code 75, and is sent signals while it does so: at exit by whoever started it, and by itself when the
interpreter has put all handlers away. With the argument 'release' it does not mind.
"""

import atexit
import os
import signal
import sys

from trainer.runtime.preemption import Stop

LATE = [signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]


class Last:
  """Deleted with this module, at the very end, when other modules may be gone."""

  def __del__(self, say=os.write, kill=os.kill, own=os.getpid(), late=tuple(map(int, LATE))):  # noqa: B008
    say(1, b'finalizing\n')
    for number in late:
      kill(own, number)
    say(1, b'done\n')


def at_exit() -> None:
  print('at exit', flush=True)
  sys.stdin.readline()


last = Last()
atexit.register(at_exit)
stop = Stop()
stop.install()
stop.at_once = False
if sys.argv[1] == 'release':
  stop.release()
  stop.request('somebody who is late')
  assert not stop.requested
sys.exit(75)
