"""Waits for the wish to stop, as its argument says, and tells what came of it.

poll      polls the flag, as the loop does between blocks of steps
busy      sits in one call that runs no Python, as in a compile; the flag must be set all the same
request   a thread asks first
uninstall puts the old handlers back, then waits for a signal
fork      a forked child receives SIGTERM; the parent must not stop
retaken   others take SIGTERM and the wake-up descriptor, and we take them back; then busy
saves     answers each wish to save with a line, until it is to stop

In these nothing has been trained yet, so a stop is an end:

start     busy, as in building the model
early     a thread asks
parting   busy, with last words to say
hanging   busy, with last words that never end
failing   busy, with last words that fail
untold    others take SIGTERM at a lower level than Python's; then busy
watched   others take the wake-up descriptor, as an event loop does, and Python runs
remember  a wish to save comes, then the first step is done
"""

import ctypes
import os
import signal
import sys
import threading
import time

from trainer.runtime.preemption import Stop

libc = ctypes.CDLL(None)


def sit() -> None:
  mutex = ctypes.create_string_buffer(256)
  libc.pthread_mutex_init(mutex, None)
  libc.pthread_mutex_lock(mutex)
  libc.pthread_mutex_lock(mutex)  # waits for ever, through signals, without the interpreter's lock


def ignore_sigterm() -> None:
  """As a library in C would; Python is not told."""
  libc.signal(signal.SIGTERM, ctypes.c_void_p(1))


def sigterm_is_ignored() -> bool:
  action = (ctypes.c_void_p * 64)()
  libc.sigaction(signal.SIGTERM, None, action)
  return action[0] == 1


def take_wakeup() -> None:
  _, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer)


action = sys.argv[1]
stop = Stop()
stop.at_once = action in ('start', 'early', 'parting', 'hanging', 'failing', 'untold', 'watched', 'remember')
if action == 'parting':
  stop.before_exit = lambda: print('last words after', stop.reason, flush=True)
if action == 'hanging':
  stop.before_exit = threading.Event().wait
if action == 'failing':
  stop.before_exit = lambda: print(1 / 0)
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
if action in ('request', 'early'):
  thread = threading.Thread(target=stop.request, args=('the deadline is near',))
  thread.start()
  thread.join()
if action == 'uninstall':
  stop.uninstall()
if action in ('retaken', 'watched'):
  take_wakeup()
if action == 'retaken':
  ignore_sigterm()
  stop.reinstall()
  assert [thread.name for thread in threading.enumerate()].count('stop-signals') == 1
if action == 'untold':
  ignore_sigterm()
  while sigterm_is_ignored():
    time.sleep(0.001)
print('ready', flush=True)
if action == 'uninstall':
  signal.pause()
if action in ('busy', 'retaken', 'start', 'parting', 'hanging', 'failing', 'untold'):
  sit()
if action == 'remember':
  sys.stdin.readline()
  stop.at_once = False
  print(stop.save_requested, stop.take_save_request(), stop.take_save_request(), flush=True)
while not stop.requested:
  if action == 'saves' and stop.take_save_request():
    print('saved', flush=True)
  time.sleep(0.001)
print('stopped by', stop.reason, flush=True)
if len(sys.argv) > 2:  # what still comes changes nothing
  for line in sys.stdin:
    print(line.strip(), stop.reason, flush=True)
