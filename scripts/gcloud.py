"""gcloud's command lines for one Cloud TPU, and what its answers mean. No command is run here without being asked for.

Written after the reference of `gcloud compute tpus tpu-vm` and `gcloud compute tpus queued-resources`
(cloud.google.com/sdk/gcloud/reference/compute/tpus). Nothing here reads, holds or prints a credential.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

# tpu/docs/reference: states of a node that it comes out of by itself; all others but READY mean that it is gone.
NODE_WAITING = ('CREATING', 'STARTING', 'RESTARTING', 'REIMAGING', 'REPAIRING', 'UNHIDING')
# States of a queued resource before it has its machines.
QUEUE_WAITING = ('CREATING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'STATE_UNSPECIFIED')
QUEUE_LEAVING = ('DELETING', 'SUSPENDING')


class CloudError(Exception):
  """What gcloud complains of, in one line.

  Attributes:
    kind: 'absent', 'quota', 'capacity', 'silent' or 'other'.
  """

  def __init__(self, text: str, kind: str = 'other'):
    super().__init__(text)
    self.kind = kind


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A TPU by name, and how it is to be had.

  Attributes:
    name: of the node, and of the queued resource where there is one.
    zone: as in 'us-west4-a'.
    project: id of the project.
    type: accelerator type.
    image: runtime version.
    spot: may be taken away.
    reserved: from a reservation of the project.
    queued: asked for through a queued resource.
    internal_ip: ssh to addresses inside the network.
    service_account: whom the machines act as; '': the project's default.
  """

  name: str
  zone: str
  project: str
  type: str = ''
  image: str = ''
  spot: bool = False
  reserved: bool = False
  queued: bool = False
  internal_ip: bool = False
  service_account: str = ''

  def create(self) -> list[str]:
    kind = 'queued-resources' if self.queued else 'tpu-vm'
    argv = self._command(kind, 'create')
    argv += [f'--node-id={self.name}'] if self.queued else []
    argv.append(f'--accelerator-type={self.type}')
    argv.append(f'--{"runtime-version" if self.queued else "version"}={self.image}')
    # A bucket can be written to only with this scope; what is allowed is up to the service account.
    argv.append('--scopes=https://www.googleapis.com/auth/cloud-platform')
    argv += [f'--service-account={self.service_account}'] if self.service_account else []
    argv += ['--spot'] if self.spot else []
    argv += ['--reserved'] if self.reserved else []
    argv += ['--internal-ips'] if self.internal_ip else []
    return argv

  def describe(self) -> list[str]:
    return [*self._command('tpu-vm', 'describe'), '--format=json']

  def describe_queued(self) -> list[str]:
    return [*self._command('queued-resources', 'describe'), '--format=json']

  def delete(self) -> list[str]:
    # --force takes the nodes of a queued resource along, which cannot be deleted otherwise while it is active.
    return [*self._command('queued-resources' if self.queued else 'tpu-vm', 'delete'), *(['--force'] * self.queued)]

  def ssh(self, command: str, worker: str = '0') -> list[str]:
    return [*self._command('tpu-vm', 'ssh'), f'--worker={worker}', *self._inside(), f'--command={command}']

  def scp(self, source: str, target: str, worker: str = 'all') -> list[str]:
    argv = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp', source, f'{self.name}:{target}', *self._where()]
    return [*argv, f'--worker={worker}', *self._inside()]

  def _command(self, kind: str, verb: str) -> list[str]:
    return ['gcloud', 'compute', 'tpus', kind, verb, self.name, *self._where()]

  def _where(self) -> list[str]:
    return [f'--zone={self.zone}', f'--project={self.project}', '--quiet']  # quiet: asks nothing, takes the defaults

  def _inside(self) -> list[str]:
    return ['--internal-ip'] if self.internal_ip else []


class Cloud:
  """Runs command lines, or only prints them."""

  def __init__(self, dry_run: bool, say: Callable[[str], None] = print):
    self.dry_run = dry_run
    self._say = say

  def run(self, argv: list[str], timeout: float | None = None) -> str:
    """Runs a command to its end; returns its stdout ('' if it is only printed).

    Raises:
      CloudError: it failed, or took longer than `timeout` seconds.
    """
    if self.dry_run:
      self._say(shlex.join(argv))
      return ''
    try:
      done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
      )
    except subprocess.TimeoutExpired:
      raise CloudError(f'gcloud {argv[3]} {argv[4]} did not answer within {timeout:g} s') from None
    except OSError as error:
      raise CloudError(f'gcloud cannot be started: {error.strerror}') from error
    if done.returncode:
      raise complaint(argv, done.returncode, done.stderr, done.stdout)
    return done.stdout

  def describe(self, argv: list[str]) -> dict[str, Any] | None:
    """What a describe answers; None: there is no such thing."""
    try:
      text = self.run(argv)
    except CloudError as error:
      if error.kind == 'absent':
        return None
      raise
    try:
      return json.loads(text) if text else {}
    except ValueError:
      raise CloudError(f'gcloud describe answers no JSON: {text[:80]!r}') from None


def complaint(argv: list[str], code: int, stderr: str, stdout: str = '') -> CloudError:
  """The error that a failed command stands for."""
  message = re.findall(r'"message":\s*"((?:[^"\\]|\\.)*)"', stderr)
  errors = re.findall(r'^ERROR: (?:\([\w.-]+\) )?(.*\S)', stderr, re.MULTILINE)
  lines = [line for line in (*stdout.splitlines(), *stderr.splitlines()) if line.strip()]
  faults = [line.removeprefix('FAULT').strip() for line in lines if line.startswith('FAULT')]
  if faults:  # of scripts/doctor
    return CloudError('; '.join(faults))
  ours = [line for line in lines if line.startswith('error: ')]
  if ours:  # of a script of this project, over ssh
    return CloudError(ours[-1].removeprefix('error: '))
  text = message[-1].replace('\\"', '"') if message else errors[-1] if errors else lines[-1] if lines else ''
  text = ' '.join(text.split())[:300].rstrip('.') or f'exit code {code}'
  low = text.lower()
  what = f'gcloud {argv[3]} {argv[4]}: {text}'
  if argv[4] in ('describe', 'delete') and ('not_found' in low or 'not found' in low or 'was not found' in low):
    return CloudError(what, 'absent')
  if 'quota' in low:
    return CloudError(f'{what}; ask for a larger quota, or take another zone or type', 'quota')
  if 'no more capacity' in low or 'insufficient capacity' in low or 'insufficient reserved capacity' in low:
    return CloudError(f'{what}; try later or in another zone, or wait in the queue with --queued', 'capacity')
  if 'permission' in low or 'permission_denied' in low:
    return CloudError(f'{what}; ask for the role roles/tpu.admin in this project')
  if 'gcloud auth login' in stderr or 'active account' in low or 'unauthenticated' in low:
    return CloudError(f'{what}; run: gcloud auth login')
  return CloudError(what)
