"""The emulated bucket at the addresses that TensorFlow's own client has built in: https://*.googleapis.com.

TensorFlow reads gs:// in C++, through libcurl, and knows no other address. So the process is given a proxy and a
certificate authority (https_proxy, CURL_CA_BUNDLE), as behind a company's proxy that looks into what passes. What is
asked of storage.googleapis.com, a plain GET of an object with a range, is translated for the emulator.
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import pathlib
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.storage.emulator import Storage

HOSTS = ('www.googleapis.com', 'storage.googleapis.com')


@contextlib.contextmanager
def proxied(storage: Storage, folder: pathlib.Path) -> Iterator[dict[str, str]]:
  """Variables of a process whose TensorFlow finds `storage` at Google's addresses. `folder` takes the certificate."""
  certificate, key = _certificate(folder)
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate, key)
  proxy = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Proxy)
  proxy.daemon_threads = True
  proxy.storage, proxy.context = storage, context  # type: ignore[attr-defined]
  thread = threading.Thread(target=proxy.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True)
  thread.start()
  try:
    yield {
      'https_proxy': f'http://127.0.0.1:{proxy.server_address[1]}',
      'CURL_CA_BUNDLE': str(certificate),
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'nobody',
    }
  finally:
    proxy.shutdown()
    proxy.server_close()


class _Proxy(http.server.BaseHTTPRequestHandler):
  """One connection: CONNECT, then TLS, then requests until the client leaves."""

  protocol_version = 'HTTP/1.1'

  def do_CONNECT(self) -> None:
    host = self.path.partition(':')[0]
    if host not in HOSTS:
      self.send_error(403)
      return
    self.send_response(200)
    self.end_headers()
    self.close_connection = True
    with contextlib.suppress(OSError):
      inside = self.server.context.wrap_socket(self.connection, server_side=True)  # type: ignore[attr-defined]
      _Inside(inside, self.client_address, self.server, host)

  def log_message(self, *args: object) -> None:
    pass


class _Inside(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def __init__(self, connection: socket.socket, address, server, host: str):
    self._host = host
    super().__init__(connection, address, server)

  def do_GET(self) -> None:
    storage: Storage = self.server.storage  # type: ignore[attr-defined]
    path = self.path
    if self._host == 'storage.googleapis.com':
      _, bucket, name = urllib.parse.urlsplit(path).path.split('/', 2)
      path = f'/download/storage/v1/b/{bucket}/o/{urllib.parse.quote(urllib.parse.unquote(name), safe="")}?alt=media'
    with storage.lock:
      storage.requests[f'GET by TensorFlow from {self._host}'] += 1
    try:
      contents, status = storage.ask('GET', path), 200
    except KeyError:
      contents, status = b'{"error": {"code": 404, "message": "not found"}}', 404
    asked = re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers.get('Range', ''))
    if asked and status == 200:
      first, last = int(asked[1]), int(asked[2])
      status = 206 if first < len(contents) else 416
      contents = contents[first : last + 1]
    self.send_response(status)
    self.send_header('Content-Length', str(len(contents)))
    self.end_headers()
    with contextlib.suppress(OSError):
      self.wfile.write(contents)

  def log_message(self, *args: object) -> None:
    pass


def _certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """A certificate for HOSTS that is its own authority, and its key."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'tests')])
  now = datetime.datetime.now(datetime.UTC)
  certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    .sign(key, hashes.SHA256())
  )
  paths = folder / 'authority.pem', folder / 'key.pem'
  paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
  paths[1].write_bytes(
    key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  )
  return paths
