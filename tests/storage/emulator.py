"""Google Cloud Storage on this machine: the emulator from PyPI behind a door that counts, refuses, delays and drops.

The emulator takes any upload, whatever its precondition; the door holds `ifGenerationMatch=0` as the real service does.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import http.server
import json
import logging
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator

from gcp_storage_emulator.server import create_server

BUCKET = 'runs'
_HOP = ('host', 'connection', 'transfer-encoding', 'content-length')


@dataclasses.dataclass
class Fault:
  """What becomes of the next requests that match.

  Attributes:
    kind: 'refuse' (503), 'forbid' (403), 'drop' (the connection ends without an answer), 'slow' (answered late), 'lose'
      (done, and then the connection ends without an answer), 'spoil' (a bit in the middle of the body is another).
    pattern: of method, a space, the path and the body's first bytes.
    times: how many requests; each takes one.
    seconds: of 'slow'.
  """

  kind: str
  pattern: str
  times: int = 1
  seconds: float = 0.5


class Storage:
  """What the tests see. `requests` counts by method and kind; `faults` may be appended to at any time."""

  def __init__(self, port: int, inner: int):
    self.url, self.inner = f'http://127.0.0.1:{port}', inner
    self.requests: collections.Counter[str] = collections.Counter()
    self.faults: list[Fault] = []
    self.met: list[str] = []  # the kinds of the faults that have happened
    self.lock = threading.Lock()

  @property
  def environment(self) -> dict[str, str]:
    return {'STORAGE_EMULATOR_HOST': self.url}

  def names(self, prefix: str = '') -> list[str]:
    found = self.ask('GET', f'/storage/v1/b/{BUCKET}/o?prefix={urllib.parse.quote(prefix, safe="")}')
    return sorted(item['name'] for item in json.loads(found).get('items', []))

  def read(self, name: str) -> bytes:
    return self.ask('GET', f'/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe="")}?alt=media')

  def write(self, name: str, contents: bytes) -> None:
    path = f'/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={urllib.parse.quote(name, safe="")}'
    self.ask('POST', path, contents)

  def delete(self, name: str) -> None:
    self.ask('DELETE', f'/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe="")}')

  def ask(self, method: str, path: str, body: bytes = b'') -> bytes:
    """Asks the emulator itself, which no fault stands before. Raises a KeyError where it answers with a fault."""
    connection = http.client.HTTPConnection('127.0.0.1', self.inner, timeout=60)
    connection.request(method, path, body, {'Content-Type': 'application/octet-stream'})
    answer = connection.getresponse()
    contents = answer.read()
    connection.close()
    if answer.status >= 400:
      raise KeyError(f'{method} {path}: {answer.status}')
    return contents


@contextlib.contextmanager
def storage() -> Iterator[Storage]:
  """An empty bucket, `BUCKET`, for as long as the context lasts."""
  logging.getLogger('gcp_storage_emulator').setLevel(logging.CRITICAL)
  inner = create_server('127.0.0.1', _free_port(), in_memory=True, default_bucket=BUCKET)
  inner.start()
  door = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Door)
  door.daemon_threads = True
  door.storage = Storage(door.server_address[1], inner._api._httpd.server_address[1])  # type: ignore[attr-defined]
  thread = threading.Thread(target=door.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True)
  thread.start()
  try:
    yield door.storage  # type: ignore[attr-defined]
  finally:
    door.shutdown()
    door.server_close()
    inner.stop()


class _Door(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: http.server.ThreadingHTTPServer

  def _handle(self) -> None:
    kept: Storage = self.server.storage  # type: ignore[attr-defined]
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    if 'chunked' in self.headers.get('Transfer-Encoding', ''):
      body = self._chunks()
    fault = self._fault(kept, f'{self.command} {self.path} '.encode() + body[:300])
    with kept.lock:
      kept.requests[f'{self.command} {_kind(self.path)}'] += 1
    if fault and fault.kind == 'refuse':
      self._answer(503, b'{"error": {"code": 503, "message": "try again"}}', {'Content-Type': 'application/json'})
      return
    if fault and fault.kind == 'forbid':
      self._answer(403, b'{"error": {"code": 403, "message": "no access"}}', {'Content-Type': 'application/json'})
      return
    if fault and fault.kind == 'drop':
      self.close_connection = True
      self.connection.shutdown(socket.SHUT_RDWR)
      return
    if fault and fault.kind == 'spoil':
      middle = len(body) // 2
      body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    if fault and fault.kind == 'slow':
      time.sleep(fault.seconds)
    with kept.lock:  # the precondition and the upload are one
      if 'ifGenerationMatch=0' in self.path and self._exists(kept, body):
        self._answer(
          412, b'{"error": {"code": 412, "message": "conditionNotMet"}}', {'Content-Type': 'application/json'}
        )
        return
      connection = http.client.HTTPConnection('127.0.0.1', kept.inner, timeout=60)
      headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
      connection.request(self.command, self.path, body, headers)
      answer = connection.getresponse()
      contents = answer.read()
      connection.close()
    if fault and fault.kind == 'lose':
      self.close_connection = True
      self.connection.shutdown(socket.SHUT_RDWR)
      return
    moved = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
    if 'Location' in moved:  # of a resumable upload: through the door too
      moved['Location'] = re.sub(r'^http://[^/]*', kept.url, moved['Location'])
    self._answer(answer.status, contents, moved)

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle  # noqa: N815

  def _fault(self, kept: Storage, text: bytes) -> Fault | None:
    with kept.lock:
      for fault in kept.faults:
        if fault.times > 0 and re.search(fault.pattern, urllib.parse.unquote(text.decode(errors='replace')), re.DOTALL):
          fault.times -= 1
          kept.met.append(fault.kind)
          return fault
    return None

  def _exists(self, kept: Storage, body: bytes) -> bool:
    named = re.search(rb'"name": *"([^"]*)"', body)
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
    name = named[1].decode() if named else query.get('name', [''])[0]
    try:
      kept.ask('GET', f'/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe="")}')
    except KeyError:
      return False
    return True

  def _chunks(self) -> bytes:
    found = b''
    while size := int(self.rfile.readline().split(b';')[0], 16):
      found += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return found

  def _answer(self, status: int, contents: bytes, headers: dict[str, str]) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(contents)))
    self.end_headers()
    if self.command != 'HEAD':
      with contextlib.suppress(ConnectionError):  # gcsfs does not read what a refusal says
        self.wfile.write(contents)

  def log_message(self, *args: object) -> None:
    pass


def _kind(path: str) -> str:
  """'upload', 'download', 'list', 'object' or 'other'."""
  plain = urllib.parse.urlsplit(path).path
  if '/upload/' in plain:
    return 'upload'
  if '/download/' in plain or 'alt=media' in path:
    return 'download'
  return 'list' if plain.endswith('/o') else 'object' if '/o/' in plain else 'other'


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]
