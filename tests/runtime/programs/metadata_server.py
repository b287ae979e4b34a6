"""A metadata server as Google's, in a process of its own or in a test.

As a program it prints its HOST:PORT, and reads lines 'KEY VALUE' that set a value, as in 'instance/preempted TRUE'.
"""

from __future__ import annotations

import dataclasses
import http.server
import sys
import threading
import urllib.parse

PREEMPTED, EVENT, UPCOMING = 'instance/preempted', 'instance/maintenance-event', 'instance/upcoming-maintenance'
NO_NOTICE = '{ "error": "no notifications have been received yet, try again later" }'
LONG = 60  # seconds to wait for what comes at once


@dataclasses.dataclass(frozen=True)
class Request:
  path: str
  query: dict[str, str]
  flavor: str | None


class Metadata(http.server.ThreadingHTTPServer):
  """A metadata server whose values can be set, and whose faults too.

  Attributes:
    requests: what was asked, in this order.
    flavor: the header Metadata-Flavor of its answers; None: it has none, as with other clouds.
    waits: whether it can wait for a change.
    faults: status codes of the next answers, before it does what it should.
    hung: set, and it does not answer.
  """

  daemon_threads = True

  def __init__(self) -> None:
    super().__init__(('127.0.0.1', 0), _Handler)
    self.changed = threading.Condition()
    self.values: dict[str, str | None] = {
      '': 'computeMetadata/',
      PREEMPTED: 'FALSE',
      EVENT: 'NONE',
      UPCOMING: NO_NOTICE,
    }
    self.etags = dict.fromkeys(self.values, 0)
    self.requests: list[Request] = []
    self.flavor: str | None = 'Google'
    self.waits = True
    self.faults: list[int] = []
    self.hung = False
    self.ended = False

  @property
  def host(self) -> str:
    return f'127.0.0.1:{self.server_address[1]}'

  def set(self, key: str, value: str | None) -> None:
    with self.changed:
      self.values[key] = value
      self.etags[key] += 1
      self.changed.notify_all()

  def asked(self, key: str | None = None, waiting: bool = False) -> list[Request]:
    return [
      request
      for request in self.requests
      if (key is None or request.path == key) and (not waiting or 'wait_for_change' in request.query)
    ]

  def wait_for(self, key: str | None, number: int = 1, waiting: bool = False) -> None:
    """Waits until so many requests for a key have come."""
    with self.changed:
      assert self.changed.wait_for(lambda: len(self.asked(key, waiting)) >= number, LONG), self.requests

  def answer(self, request: Request) -> tuple[int, str, str]:
    """(status, text, etag) of an answer, as soon as it is to be given."""
    key = request.path
    with self.changed:
      self.requests.append(request)
      self.changed.notify_all()
      self.changed.wait_for(lambda: not self.hung or self.ended)
      if self.faults:
        return self.faults.pop(0), 'not now', ''
      if request.flavor != 'Google':
        return 403, 'no header', ''
      if request.query.get('wait_for_change') == 'true' and self.waits:
        last = request.query.get('last_etag')
        limit = float(request.query['timeout_sec'])
        self.changed.wait_for(lambda: self.ended or str(self.etags[key]) != last, limit)
      value = self.values.get(key)
      if value is None:
        return 404, 'not here', ''
      return (503 if value == NO_NOTICE else 200), value, str(self.etags[key])

  def handle_error(self, request, client_address) -> None:
    """A client that has gone does not matter."""

  def end(self) -> None:
    with self.changed:
      self.ended = True
      self.changed.notify_all()
    self.shutdown()
    self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Metadata

  def do_GET(self) -> None:
    where = urllib.parse.urlsplit(self.path)
    path = where.path.lstrip('/').removeprefix('computeMetadata/v1/')
    query = dict(urllib.parse.parse_qsl(where.query))
    status, text, etag = self.server.answer(Request(path, query, self.headers.get('Metadata-Flavor')))
    self.send_response(status)
    if self.server.flavor:
      self.send_header('Metadata-Flavor', self.server.flavor)
    if etag:
      self.send_header('ETag', etag)
    self.send_header('Content-Length', str(len(text)))
    self.end_headers()
    self.wfile.write(text.encode())

  def log_message(self, *args) -> None:
    """Says nothing."""


if __name__ == '__main__':
  metadata = Metadata()
  threading.Thread(target=metadata.serve_forever, daemon=True).start()
  print(metadata.host, flush=True)
  for line in sys.stdin:
    metadata.set(*line.rstrip('\n').split(' ', 1))
