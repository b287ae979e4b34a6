"""The wish to stop: one flag with a reason, whatever it comes from.

SIGTERM and SIGINT are sources of it here. Others (notices.py: a metadata server, a file, a deadline) call
`Stop.request`, from any thread. The loop reads the flag and has all processes stop at one agreed step. Nothing here
stops anything by itself, but for the second SIGINT, and for a request that comes while there is nothing to save.

SIGUSR1 is the wish to save and go on, SIGUSR2 the wish to see what a step does with its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from trainer.errors import EXIT_RUN_AGAIN

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALS = (*_STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)
_AT_ONCE = 'a second SIGINT stops at once, without saving'
_END = b'\0'  # no signal has this number
_BEFORE_EXIT_SECONDS = 2.0
_SAY_SECONDS = 1.0
_RETAKE_SECONDS = 0.01  # a SIGTERM that comes in between is TensorFlow's: nobody hears it, and nothing is lost yet
_SIGACTION_BYTES = 512  # more than the struct has anywhere
_libc = ctypes.CDLL(None)


class Stop:
  """The flag.

  A signal sets it at once, even while the main thread is inside a long compile or a block of steps, where Python calls
  no signal handler: a thread reads the numbers that the interpreter's wake-up descriptor receives. Only while somebody
  holds the interpreter's lock all that time, no thread of Python's can hear anything.

  In the life of a process: `install` first of all; `reinstall` when the strategy is made; `at_once = False` when the
  first block of steps has ended; `release` when all is saved and only the exit is left.

  Attributes:
    at_once: whether a request ends the process at once with exit code 75, whatever the main thread is doing. True from
      the start: a process that has trained nothing yet, and may wait for a peer that never comes, has nothing to save.
    before_exit: called before such an end, in a thread, and not waited for longer than 2 s; None: nothing is called.
  """

  def __init__(self) -> None:
    self.at_once = True
    self.before_exit: Callable[[], None] | None = None
    self._reason = ''
    self._requested_at: float | None = None
    self._grace_seconds: float | None = None
    self._first = threading.Lock()  # taken once, by the first request or by `release`, and never given back
    self._save = self._profile = False
    self._previous: dict[signal.Signals, Any] = {}
    self._signals: tuple[signal.Signals, ...] = ()
    self._wakeup = -1
    self._pipe = (-1, -1)
    self._listener: threading.Thread | None = None
    self._ours: dict[signal.Signals, bytes] = {}  # what the system does on our signals, as long as they are ours
    self._taking = threading.Lock()  # held for `_ours`, and never for long
    self._interrupts = 0

  @property
  def requested(self) -> bool:
    return bool(self._reason)

  @property
  def reason(self) -> str:
    """What the first request said, as in 'SIGTERM'; '' as long as there is none."""
    return self._reason

  @property
  def requested_at(self) -> float | None:
    """`time.monotonic()` at the first request; None as long as there is none."""
    return self._requested_at

  def grace_left(self, grace_seconds: float, at: float | None = None) -> float | None:
    """Seconds from now until this machine is gone: less than 0 when they are over, None as long as nobody has asked.

    Args:
      grace_seconds: how long a machine stays after a notice that does not say so itself.
      at: `time.monotonic()` to count from; None: now.
    """
    if self._requested_at is None:
      return None
    grace_seconds = grace_seconds if self._grace_seconds is None else self._grace_seconds
    return self._requested_at + grace_seconds - (time.monotonic() if at is None else at)

  def request(self, reason: str, *, grace_seconds: float | None = None) -> None:
    """Asks to stop at the next agreed step, and says so on stderr. Only the first request counts.

    While `at_once` is True it does not return: the process ends. For any thread: it waits for no lock and uses no
    buffered stream.

    Args:
      reason: who asks, as it is to be told.
      grace_seconds: until this machine is gone; `math.inf`: nobody takes it away; None: not known.
    """
    if not self._first.acquire(blocking=False):
      return
    self._grace_seconds = grace_seconds
    self._requested_at = time.monotonic()
    self._reason = reason
    if self.at_once:
      self._end()
    say(f'{reason}: stopping at the next agreed step' + (f' ({_AT_ONCE})' if reason == 'SIGINT' else ''))

  @property
  def save_requested(self) -> bool:
    """Whether SIGUSR1 has come since `take_save_request` was last called."""
    return self._save

  def take_save_request(self) -> bool:
    """Whether a save was asked for since the last call. For the main thread, which is to save then."""
    if not self._save:
      return False
    self._save = False  # a request that came just before this is served by the save that follows
    return True

  def take_profile_request(self) -> bool:
    """Whether SIGUSR2 has come since the last call. For the main thread."""
    asked, self._profile = self._profile, False
    return asked

  def install(self) -> None:
    """Makes SIGTERM, SIGINT and SIGHUP set the flag, SIGUSR1 ask for a save, and SIGUSR2 for a trace.

    SIGHUP, which comes when a terminal or an ssh connection is closed, stays ignored where nohup says so. A second
    SIGINT ends the process at once, with exit code 130. To be called in the main thread, and early: what arrives before
    has its default effect, and that of SIGUSR1 and SIGUSR2 is to kill.

    Raises:
      ValueError: this is not the main thread.
    """
    assert self._listener is None, 'installed twice'
    self._wakeup = signal.set_wakeup_fd(-1)
    reader, writer = self._pipe = os.pipe()
    os.set_blocking(writer, False)
    self._listener = threading.Thread(target=self._listen, args=(reader,), name='stop-signals', daemon=True)
    self._listener.start()
    os.register_at_fork(after_in_child=self._forget)
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    self._signals = tuple(number for number in _SIGNALS if not (ignored and number == signal.SIGHUP))
    self._previous = {number: signal.getsignal(number) for number in self._signals}
    self.reinstall()

  def reinstall(self) -> None:
    """Takes back what others have taken since `install`; what was heard meanwhile stays heard.

    To be called after the strategy was created: TensorFlow replaces SIGTERM's handler before it waits for the other
    workers, and Python is not told. While `at_once` is True, the listener takes it back every 0.01 s; a SIGTERM in
    between is lost, and with it nothing: there is nothing to save yet. Does nothing where it was not installed.
    """
    if self._listener is None:
      return
    assert self._listener.is_alive(), 'nobody listens'
    self._take_wakeup()
    for number in self._signals:
      signal.signal(number, self._handle)
    with self._taking:
      self._ours = {number: _action(number) for number in self._signals}

  def release(self) -> None:
    """From now on all these signals are ignored, and requests have no effect.

    To be called in the main thread when all is saved and the process is about to leave with its exit code. The
    interpreter's finalization puts back the default effect of signals that have a handler, so that a late SIGTERM would
    turn the exit code into -15; what is ignored stays so. A Ctrl-C is ignored too, since a terminal sends it to all
    processes of a group, and impatient people more than once; should the exit hang, SIGQUIT (Ctrl-\\) ends it.
    """
    self._first.acquire(blocking=False)
    self._give_up()
    for number in _SIGNALS:
      signal.signal(number, signal.SIG_IGN)

  def uninstall(self) -> None:
    """Puts back the handlers that were there before. The flag stays as it is. For tests, whose process lives on."""
    if self._listener is None:
      return
    self._give_up()
    for number, handler in self._previous.items():
      # A handler that C code installed reads as None, and cannot be put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    signal.set_wakeup_fd(self._wakeup)
    reader, writer = self._pipe
    os.write(writer, _END)
    self._listener.join()
    os.close(writer)
    os.close(reader)
    self._previous.clear()
    self._listener = None

  def _take_wakeup(self) -> bool:
    """Has the interpreter write the numbers of signals to our pipe; returns whether it did so before."""
    writer = self._pipe[1]
    return signal.set_wakeup_fd(writer, warn_on_full_buffer=False) == writer

  def _retake(self) -> None:
    """For the listener: Python lets only the main thread set handlers, and that may be waiting inside TensorFlow."""
    with self._taking:
      for number, action in self._ours.items():
        if _action(number) != action:
          _libc.sigaction(number, action, None)

  def _give_up(self) -> None:
    with self._taking:
      self._ours = {}

  def _handle(self, number: int, frame: FrameType | None) -> None:
    """Runs in the main thread, when Python gets round to it; the listener has mostly been first."""
    if number == signal.SIGUSR1:
      # Here and not in the listener: the main thread also takes it, so one signal is never taken twice.
      self._save = True
    elif number == signal.SIGUSR2:
      self._profile = True
    elif not self.at_once:
      self._request_for(number)
    # An event loop that the main thread runs has the descriptor for itself meanwhile (uvloop, which Orbax uses).
    if not self._take_wakeup():
      with contextlib.suppress(BlockingIOError):  # full: the listener has plenty to read
        os.write(self._pipe[1], bytes([number]))

  def _request_for(self, number: int) -> None:
    # Behind a SIGINT is somebody at a terminal, who can wait for the save or send another one.
    self.request(signal.Signals(number).name, grace_seconds=math.inf if number == signal.SIGINT else None)

  def _listen(self, reader: int) -> None:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
      while self.at_once and not poll.poll(1000 * _RETAKE_SECONDS):
        self._retake()
      numbers = os.read(reader, 64)
      for number in numbers:
        if number in _STOP_SIGNALS:
          self._request_for(number)
        if number == signal.SIGUSR1 and not self.requested:
          say('SIGUSR1: saving at the next agreed step, and going on')
        if number == signal.SIGINT:
          self._interrupts += 1
          if self._interrupts == 1 and self._reason != 'SIGINT':
            say(f'already stopping ({_AT_ONCE})')
          elif self._interrupts > 1:
            os._exit(128 + signal.SIGINT)  # the main thread may be inside TensorFlow, where no exception reaches it
      if numbers.endswith(_END):
        return

  def _end(self) -> NoReturn:
    """Ends the process, from whatever thread; nothing that is done here may keep it from that."""
    try:
      if self.before_exit:
        last = threading.Thread(target=self.before_exit, name='before-exit', daemon=True)
        last.start()
        last.join(_BEFORE_EXIT_SECONDS)
    finally:
      _write(f'stopped: {self._reason}; before the first step, nothing to save')
      os._exit(EXIT_RUN_AGAIN)

  def _forget(self) -> None:
    """In a forked child: its signals are not for us, though it has inherited the descriptor."""
    if self._listener is not None:
      signal.set_wakeup_fd(-1)
      for number in self._signals:
        signal.signal(number, signal.SIG_DFL)


def _action(number: signal.Signals) -> bytes:
  """The `struct sigaction` that is in force for a signal, whoever has set it."""
  action = ctypes.create_string_buffer(_SIGACTION_BYTES)
  _libc.sigaction(number, None, action)
  return action.raw


def say(text: str) -> None:
  """Says one line on stderr, from any thread; waits for no lock and uses no buffered stream."""
  _write(f'trainer: {text}')


def _write(line: str) -> None:
  # A line is dropped where nobody reads it: the reader of the pipe has gone, has stalled, or the terminal is held.
  with contextlib.suppress(OSError, ValueError):
    stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
    poll = select.poll()
    poll.register(stderr, select.POLLOUT)
    if poll.poll(1000 * _SAY_SECONDS):
      os.write(stderr, f'{line}\n'.encode())
