"""A real sshd on this machine, with keys, configuration and port of its own: 'hosts' are addresses of the loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

from tests.launch.processes import wait

_SSHD = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""
_SSH = """\
Host *
  Port {port}
  User {user}
  IdentityFile {folder}/user
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


def missing() -> str:
  """What is not there for this, in words; '' for nothing."""
  lacking = [name for name in ('sshd', 'ssh', 'ssh-keygen') if not _which(name)]
  return f'no {", ".join(lacking)} here: apt install openssh-server' if lacking else ''


@dataclasses.dataclass
class Server:
  """A running sshd.

  Attributes:
    ssh: the command that reaches it, whatever 127.x.x.x the host is called.
    process: it.
  """

  ssh: str
  process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Server]:
  """Starts an sshd with its files in a folder, and ends it."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  for name in ('host', 'user'):
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', folder / name], check=True)
  (folder / 'sshd_config').write_text(_SSHD.format(port=port, folder=folder))
  (folder / 'ssh_config').write_text(_SSH.format(port=port, folder=folder, user=getpass.getuser()))
  pathlib.Path('/run/sshd').mkdir(exist_ok=True)  # where sshd locks itself in, which its service makes
  with (folder / 'log').open('wb') as log:
    process = subprocess.Popen([str(_which('sshd')), '-D', '-e', '-f', folder / 'sshd_config'], stderr=log)
  try:
    wait(lambda: _answers(port), 20, (folder / 'log').read_text)
    yield Server(f'ssh -F {folder}/ssh_config', process)
  finally:
    process.kill()
    process.wait()


def _answers(port: int) -> bool:
  with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=5):
    return True
  return False


def _which(name: str) -> str | None:
  return shutil.which(name) or shutil.which(name, path='/usr/sbin')
