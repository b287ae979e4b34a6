"""A browser without a window, spoken to by the DevTools protocol through a pipe; it can reach no network."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time
from typing import Any

SECONDS = 60.0  # for an answer
_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


def find() -> str | None:
  """A browser that speaks this protocol, if there is one."""
  return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
  """One page of one browser; what goes wrong in it, and what it asks of the network, is kept.

  Attributes:
    errors: exceptions and errors of the console since the page was opened.
    requests: addresses that were asked for since then.
  """

  def __init__(self, program: str, profile: pathlib.Path):
    self.errors: list[str] = []
    self.requests: list[str] = []
    self._buffer, self._number = b'', 0
    there_read, self._write = os.pipe()
    self._read, there_write = os.pipe()
    # Out of the way of 3 and 4, which is where the browser looks for them.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (there_read, there_write)]
    options = [
      '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--hide-scrollbars',
      '--disable-background-networking', '--disable-component-update',
      '--host-resolver-rules=MAP * ~NOTFOUND',
      '--proxy-server=127.0.0.1:9', f'--user-data-dir={profile}', '--remote-debugging-pipe', 'about:blank',
    ]  # fmt: skip
    self._process = subprocess.Popen(
      ['bash', '-c', f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}', program, *options],
      pass_fds=high,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    for end in (there_read, there_write, *high):
      os.close(end)
    self._session = ''
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
    for domain in ('Page', 'Runtime', 'Network', 'Log'):
      self.call(f'{domain}.enable')

  def call(self, method: str, **params: Any) -> dict[str, Any]:
    """Asks, and returns the answer; what is heard meanwhile is kept."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._write, json.dumps(message).encode() + b'\0')
    while True:
      heard = self._hear()
      if heard.get('id') == self._number:
        assert 'error' not in heard, f'{method}: {heard["error"]}'
        return heard['result']

  def open(self, page: pathlib.Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
    """Loads a file, in a window of that size."""
    self.errors, self.requests = [], []
    self.size(width, height)
    features = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
    self.call('Emulation.setEmulatedMedia', features=features)
    self.call('Page.navigate', url=page.as_uri())
    self.until('document.readyState === "complete" && location.protocol === "file:"')

  def size(self, width: int, height: int = 900) -> None:
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

  def js(self, expression: str) -> Any:
    """The value of an expression in the page."""
    answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
    assert 'exceptionDetails' not in answer, answer['exceptionDetails']
    return answer['result'].get('value')

  def until(self, expression: str) -> None:
    """Returns when an expression has become true."""
    end = time.monotonic() + SECONDS
    while not self.js(expression):
      assert time.monotonic() < end, expression
      time.sleep(0.05)

  def press(self, key: str) -> None:
    """A key, such as 'Tab', 'ArrowLeft' or ' '."""
    codes = {'Tab': 9, 'ArrowLeft': 37, 'ArrowRight': 39, 'Home': 36, 'End': 35, 'Escape': 27, 'Enter': 13, ' ': 32}
    text = {'text': ' '} if key == ' ' else {'text': '\r'} if key == 'Enter' else {}
    common = {'key': key, 'code': 'Space' if key == ' ' else key, 'windowsVirtualKeyCode': codes[key]}
    self.call('Input.dispatchKeyEvent', type='keyDown', **common, **text)
    self.call('Input.dispatchKeyEvent', type='keyUp', **common)

  def point(self, x: float, y: float) -> None:
    self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

  def picture(self, path: pathlib.Path, *, whole: bool = True) -> None:
    """A screenshot as a PNG file."""
    answer = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
    path.write_bytes(base64.b64decode(answer['data']))

  def close(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    for end in (self._read, self._write):
      os.close(end)

  def _hear(self) -> dict[str, Any]:
    while b'\0' not in self._buffer:
      ready, _, _ = select.select([self._read], [], [], SECONDS)
      assert ready, 'the browser does not answer'
      more = os.read(self._read, 1 << 20)
      assert more, 'the browser has ended'
      self._buffer += more
    text, _, self._buffer = self._buffer.partition(b'\0')
    message = json.loads(text)
    params = message.get('params', {})
    if message.get('method') == 'Runtime.exceptionThrown':
      self.errors.append(str(params['exceptionDetails']))
    elif message.get('method') == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
      self.errors.append(str(params['args']))
    elif message.get('method') == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
      self.errors.append(str(params['entry']))
    elif message.get('method') == 'Network.requestWillBeSent':
      self.requests.append(params['request']['url'])
    return message
