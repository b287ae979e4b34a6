"""A real Slurm on this machine: munged, slurmctld and a slurmd per node, with everything in one folder.

The nodes are called 127.0.0.2, 127.0.0.3, ...: the trainer takes the nodes' names for the workers' addresses, and these
resolve everywhere without an entry in /etc/hosts, since all of 127.0.0.0/8 is the loopback interface on Linux.

Needs the packages slurm-wlm and munge of Debian or Ubuntu. Root is not needed: all daemons run as who starts them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.launch import processes
from tests.launch.processes import wait

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'scancel', 'squeue', 'sinfo')
PLACES = ('/usr/sbin', '/usr/local/sbin')  # where daemons lie, which PATH need not name
_CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldDebug=debug
SlurmdDebug=debug
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillOnBadExit=1
KillWait=30
ReturnToService=2
SlurmctldTimeout=300
SlurmdTimeout={node_seconds}
"""


def missing() -> str:
  """What of Slurm is not installed here, in words; '' for nothing."""
  lacking = [name for name in PROGRAMS if not _which(name)]
  if sys.platform != 'linux':
    return 'Slurm runs on Linux'
  return f'no {", ".join(lacking)} here: apt install slurm-wlm munge' if lacking else ''


@dataclasses.dataclass
class Slurm:
  """A running cluster.

  Attributes:
    folder: with its configuration, state and logs.
    nodes: their names.
    environment: in which Slurm's commands mean this cluster.
    daemons: name of a daemon ('slurmd.NODE') -> its process.
  """

  folder: pathlib.Path
  nodes: list[str]
  environment: dict[str, str]
  daemons: dict[str, subprocess.Popen[bytes]]

  def run(self, *command: str | os.PathLike[str], check: bool = True) -> str:
    """What a command prints on stdout; with `check` it must succeed."""
    ended = subprocess.run(
      [*map(str, command)], env=self.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert not check or ended.returncode == 0, f'{command}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}'
    return ended.stdout

  def job(self, number: str) -> dict[str, str]:
    """What Slurm knows of a job, by the names of `scontrol show job`."""
    pairs = (word.partition('=') for word in self.run('scontrol', 'show', 'job', '--oneliner', number).split())
    return {name: value for name, _, value in pairs}

  def wait_for_end(self, number: str, seconds: float = 120) -> dict[str, str]:
    """What Slurm knows of a job that has ended for good."""
    found: dict[str, str] = {}

    def ended() -> bool:
      found.update(self.job(number))
      return found['JobState'] in ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL', 'PREEMPTED')

    wait(ended, seconds, lambda: f'job {number} has not ended: {found}')
    return found


@contextlib.contextmanager
def running(
  folder: pathlib.Path, nodes: int, cpus: int = 2, node_seconds: int = 300, **variables: str
) -> Iterator[Slurm]:
  """Starts a cluster, and ends all of it.

  Args:
    folder: an empty one, with a short path: sockets of munge lie in it.
    nodes: how many. All are in the partitions 'main', 'notice' and 'high', which preempts jobs of the other two: those
      of 'notice' are told a minute before.
    cpus: that each node claims to have.
    node_seconds: a node that is silent for so long is down.
    **variables: of the environment of all daemons, and so of the jobs.
  """
  with contextlib.ExitStack() as stack:
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    names = [f'127.0.0.{2 + index}' for index in range(nodes)]
    ports = _free_ports(1 + nodes)
    text = _CONFIG.format(
      host=socket.gethostname().partition('.')[0],
      user=getpass.getuser(),
      folder=folder,
      ports=ports,
      node_seconds=node_seconds,
    )
    for name, port in zip(names, ports[1:], strict=True):
      text += f'NodeName={name} NodeHostname={socket.gethostname()} NodeAddr={name} Port={port} CPUs={cpus}\n'
    for partition in ('main Default=YES', 'notice GraceTime=60', 'high PriorityTier=10 PreemptMode=OFF'):
      text += f'PartitionName={partition} Nodes={",".join(names)} State=UP\n'
    (folder / 'state').mkdir()
    (folder / 'slurm.conf').write_text(text)
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o755)  # munge trusts no folder that others may write to
    path = os.pathsep.join((os.environ.get('PATH', os.defpath), *PLACES))
    environment = {**os.environ, 'PATH': path, 'SLURM_CONF': str(folder / 'slurm.conf'), **variables}
    slurm = Slurm(folder, names, environment, {})
    munged = (
      'munged', '--foreground', '--force', '--num-threads=2', f'--socket={folder}/munge.socket', f'--key-file={key}',
      f'--pid-file={folder}/munged.pid', f'--log-file={folder}/munged.log', f'--seed-file={folder}/munge.seed',
    )  # fmt: skip
    stack.callback(_end, slurm)
    _start(slurm, 'munged', *munged)
    wait((folder / 'munge.socket').exists, 20, lambda: logs(folder))
    _start(slurm, 'slurmctld', 'slurmctld', '-D', '-c')
    for name in names:
      start_node(slurm, name)

    def idle() -> bool:
      states = slurm.run('sinfo', '--noheader', '--Node', '--partition=main', '--format=%T', check=False)
      return states.split() == ['idle'] * nodes

    wait(idle, 30, lambda: logs(folder))
    yield slurm


def start_node(slurm: Slurm, name: str) -> None:
  _start(slurm, f'slurmd.{name}', 'slurmd', '-D', '-N', name)


def logs(folder: pathlib.Path) -> str:
  """The last words of all daemons."""
  return '\n'.join(
    f'--- {path.name}\n{path.read_text(errors="replace")[-3000:]}' for path in sorted(folder.glob('*.log'))
  )


def _start(slurm: Slurm, name: str, *command: str) -> None:
  with (slurm.folder / f'{name}.out.log').open('ab') as log:
    slurm.daemons[name] = subprocess.Popen(
      command, env=slurm.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _end(slurm: Slurm) -> None:
  """Kills what belongs to this cluster: its jobs, their shepherds, its daemons. All of them have its configuration."""
  for _ in range(50):  # what is being started just now may be missed the first time
    found = processes.having('SLURM_CONF', slurm.environment['SLURM_CONF'])
    if not found:
      break
    for pid in found:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for daemon in slurm.daemons.values():
      daemon.poll()
    time.sleep(0.05)
  for daemon in slurm.daemons.values():
    daemon.kill()
    daemon.wait()


def _which(name: str) -> str | None:
  return shutil.which(name) or next((path for place in PLACES if (path := shutil.which(name, path=place))), None)


def _free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [each.getsockname()[1] for each in sockets]
