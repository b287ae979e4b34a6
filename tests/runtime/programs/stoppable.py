"""Waits for the wish to stop, as its argument says, and tells what came of it.

poll      polls the flag, as the loop does between blocks of steps
busy      sits in one call that runs no Python, as in a compile; the flag must be set all the same
request   a thread asks first
uninstall puts the old handlers back, then waits for a signal
fork      a forked child receives SIGTERM; the parent must not stop
"""

import ctypes
import os
import signal
import sys
import threading
import time

from trainer.runtime.preemption import Stop

action = sys.argv[1]
stop = Stop()
if action == 'uninstall':
  signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(42))
stop.install()
if action == 'fork':
  child = os.fork()
  if child == 0:
    print('child ready', flush=True)
    signal.pause()
  _, status = os.waitpid(child, 0)
  print('child died of', signal.Signals(os.WTERMSIG(status)).name, flush=True)
if action == 'request':
  thread = threading.Thread(target=stop.request, args=('the deadline is near',))
  thread.start()
  thread.join()
if action == 'uninstall':
  stop.uninstall()
print('ready', flush=True)
if action == 'uninstall':
  signal.pause()
if action == 'busy':
  libc = ctypes.CDLL(None)
  mutex = ctypes.create_string_buffer(256)
  libc.pthread_mutex_init(mutex, None)
  libc.pthread_mutex_lock(mutex)
  libc.pthread_mutex_lock(mutex)  # waits for ever, through signals, without the interpreter's lock
while not stop.requested:
  time.sleep(0.001)
print('stopped by', stop.reason, flush=True)
if len(sys.argv) > 2:  # what still comes changes nothing
  for line in sys.stdin:
    print(line.strip(), stop.reason, flush=True)
