"""The wish to stop: one flag with a reason, whatever it comes from.

SIGTERM and SIGINT are sources of it here. Others (a metadata server, a file, a deadline) call `Stop.request`, from any
thread. The loop reads the flag and has all processes stop at one agreed step; nothing here stops anything by itself,
but for the second SIGINT.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AT_ONCE = 'a second SIGINT stops at once, without saving'
_END = b'\0'  # no signal has this number


class Stop:
  """The flag.

  A signal sets it at once, even while the main thread is inside a long compile or a block of steps, where Python calls
  no signal handler: a thread reads the numbers that the interpreter's wake-up descriptor receives.
  """

  def __init__(self) -> None:
    self._reason = ''
    self._first = threading.Lock()  # taken once, by the first request, and never given back
    self._previous: dict[signal.Signals, Any] = {}
    self._wakeup = -1
    self._pipe = (-1, -1)
    self._listener: threading.Thread | None = None
    self._interrupts = 0

  @property
  def requested(self) -> bool:
    return bool(self._reason)

  @property
  def reason(self) -> str:
    """What the first request said, as in 'SIGTERM'; '' as long as there is none."""
    return self._reason

  def request(self, reason: str) -> None:
    """Asks to stop at the next agreed step, and says so on stderr. Only the first request counts.

    Safe in a signal handler and in any thread: it waits for no lock and uses no buffered stream.
    """
    if self._first.acquire(blocking=False):
      self._reason = reason
      _say(f'{reason}: stopping at the next agreed step' + (f' ({_AT_ONCE})' if reason == 'SIGINT' else ''))

  def install(self) -> None:
    """Makes SIGTERM and SIGINT set the flag; a second SIGINT ends the process at once, with exit code 130.

    To be called in the main thread, after the strategy was created: that replaces SIGTERM's handler.

    Raises:
      ValueError: this is not the main thread.
    """
    assert self._listener is None, 'installed twice'
    for number in _SIGNALS:
      self._previous[number] = signal.signal(number, self._handle)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    self._pipe = (reader, writer)
    self._wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    self._listener = threading.Thread(target=self._listen, args=(reader,), name='stop-signals', daemon=True)
    self._listener.start()
    os.register_at_fork(after_in_child=self._forget)

  def uninstall(self) -> None:
    """Puts back the handlers that were there before. The flag stays as it is."""
    if self._listener is None:
      return
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

  def _handle(self, number: int, frame: FrameType | None) -> None:
    """Runs in the main thread, when Python gets round to it; the listener has mostly been first."""
    self.request(signal.Signals(number).name)

  def _listen(self, reader: int) -> None:
    while numbers := os.read(reader, 64):
      for number in numbers:
        if number in _SIGNALS:
          self.request(signal.Signals(number).name)
        if number == signal.SIGINT:
          self._interrupts += 1
          if self._interrupts == 1 and self._reason != 'SIGINT':
            _say(f'already stopping ({_AT_ONCE})')
          elif self._interrupts > 1:
            os._exit(128 + signal.SIGINT)  # the main thread may be inside TensorFlow, where no exception reaches it
      if numbers.endswith(_END):
        return

  def _forget(self) -> None:
    """In a forked child: its signals are not for us, though it has inherited the descriptor."""
    if self._listener is not None:
      signal.set_wakeup_fd(-1)
      for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _say(text: str) -> None:
  os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f'trainer: {text}\n'.encode())
