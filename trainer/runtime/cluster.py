"""Who this process is, who the others are, and what each of them computes on.

`discover` asks, in this order: the config, a TPU that is named or built in, TF_CONFIG, Slurm, the visible GPUs, the
CPU. It changes no TensorFlow setting (strategy.py does), but has to connect to a remote TPU to count its cores.

Slurm is read here and not by TensorFlow's SlurmClusterResolver, which sorts the hosts as text (rank 9 on node10), uses
port 8888 in every job, overrules Slurm's own binding of GPUs, and fails where there is no nvidia-smi.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import re
import socket
from typing import Any

from trainer.errors import ConfigError

PROBE_SECONDS = 5.0  # how long a TPU's host may take to answer at all
# Below the ports that Linux gives to outgoing connections (32768 and up), a block of ports for each job step.
_SLURM_PORTS, _SLURM_STEPS, _PORTS_PER_STEP = 12288, 1248, 16


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The processes and devices of one run.

  Attributes:
    strategy: 'one', 'mirrored', 'multi_worker' or 'tpu'.
    reason: why, in one sentence for the banner.
    device_kind: 'cpu', 'gpu' or 'tpu'.
    local_devices: GPUs or logical CPU devices of this process; on a TPU all cores, of all hosts.
    workers: 'host:port' of each worker, the chief first; empty when there is one process.
    worker_index: this process' place in `workers`.
    tpu: address of the TPU as TPUClusterResolver takes it; empty where there is none.
    gpus: which of the GPUs that TensorFlow lists belong to this process.
  """

  strategy: str
  reason: str
  device_kind: str
  local_devices: int
  workers: tuple[str, ...] = ()
  worker_index: int = 0
  tpu: str = ''
  gpus: tuple[int, ...] = ()

  @property
  def is_chief(self) -> bool:
    return self.worker_index == 0

  @property
  def num_workers(self) -> int:
    return max(1, len(self.workers))

  @property
  def replicas(self) -> int:
    """Number of replicas over all workers."""
    return self.local_devices * self.num_workers


@dataclasses.dataclass(frozen=True)
class Peers:
  """The worker processes that the environment names.

  Attributes:
    source: who names them, as a noun for messages.
    workers: 'host:port' of each, the chief first.
    index: this process' place in `workers`.
    sharers: how many of them share the GPUs that this process sees, itself included.
    share: this process' place among those.
  """

  source: str
  workers: tuple[str, ...]
  index: int
  sharers: int = 1
  share: int = 0


def discover(config: Any) -> Cluster:
  """The cluster that the config and the machine make.

  Args:
    config: the run's config; reads `cluster.strategy`, `cluster.cpu_devices` and `cluster.tpu`.

  Raises:
    ConfigError: TF_CONFIG or Slurm's variables make no sense, or the machine cannot serve what the config asks for.
  """
  want, cpu_devices, tpu = config.cluster.strategy, config.cluster.cpu_devices, config.cluster.tpu
  asked = '' if want == 'auto' else f'cluster.strategy={want!r} asks for it, and '
  peers = from_tf_config() or from_slurm(needed=want in ('auto', 'multi_worker'))
  workers, source = (len(peers.workers), peers.source) if peers else (1, '')
  if tpu and want not in ('auto', 'tpu'):
    raise ConfigError(f'cluster.tpu={tpu!r} is of no use to cluster.strategy={want!r}: clear one of them')
  if want == 'tpu' or (want == 'auto' and _tpu_address(tpu)):
    if workers > 1:
      raise ConfigError(f'{source} names {workers} workers, but one process drives a TPU: start one, without {source}')
    if cpu_devices > 1:
      raise ConfigError(f'cluster.cpu_devices={cpu_devices} splits a CPU, but this run is on a TPU: set it to 1')
    return _tpu_cluster(_tpu_address(tpu) or 'local', asked)
  gpus = _own_gpus(_count('GPU'), peers)
  kind, own = ('gpu', _number(len(gpus), 'GPU')) if gpus else ('cpu', _number(cpu_devices, 'CPU device'))
  if gpus and cpu_devices > 1:
    raise ConfigError(
      f'cluster.cpu_devices={cpu_devices} splits the CPU, but this process would use {own}: set it to 1, '
      'or hide the GPUs with CUDA_VISIBLE_DEVICES=-1'
    )
  if want in ('one', 'mirrored') and workers > 1:
    raise ConfigError(
      f'cluster.strategy={want!r} is for one process, but {source} names {workers} workers, each of which would train '
      "alone: set cluster.strategy='auto', or start one process"
    )
  if want == 'one' and cpu_devices > 1:
    raise ConfigError(f"cluster.strategy='one' has one device, but cluster.cpu_devices={cpu_devices}: set it to 1")
  if want == 'multi_worker' and workers == 1:
    names = f'{source} names one' if source else 'neither TF_CONFIG nor Slurm names any'
    raise ConfigError(
      f"cluster.strategy='multi_worker' needs several workers, but {names}: start them with srun or, on one machine, "
      "with scripts/launch_local, or set cluster.strategy='auto'"
    )
  gpus = gpus[:1] if want == 'one' else gpus
  devices = len(gpus) or cpu_devices
  if want == 'mirrored' and devices == 1:
    fix = '' if gpus else 'cluster.cpu_devices=2, or '
    raise ConfigError(f"cluster.strategy='mirrored' needs several devices, here is {own}: set {fix}it to 'auto'")
  if peers is not None and workers > 1:
    reason = f'{asked}{source} names {workers} workers, each with {own}'
    return Cluster('multi_worker', reason, kind, devices, peers.workers, peers.index, gpus=gpus)
  if devices > 1:
    reason = f'this process has {own}' if gpus else f'cluster.cpu_devices splits the CPU into {cpu_devices} devices'
    return Cluster('mirrored', asked + reason, kind, devices, gpus=gpus)
  return Cluster('one', f'{asked}this process has {own}{"" if gpus else _idle_gpu()}', kind, 1, gpus=gpus)


def from_tf_config() -> Peers | None:
  """The workers that the environment variable TF_CONFIG names; None where it is not set.

  A chief, where there is one, becomes worker 0: the tasks of type 'worker' follow it.

  Raises:
    ConfigError: the variable is set, but is not what TensorFlow defines, or names tasks of no use here.
  """
  text = os.environ.get('TF_CONFIG', '').strip()
  if not text:
    return None
  try:
    parsed = json.loads(text)
  except json.JSONDecodeError as error:
    raise ConfigError(f'TF_CONFIG is not JSON ({error.msg} at character {error.pos}): mend it or unset it') from None
  example = 'as in {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
  for part in ('cluster', 'task'):
    if not isinstance(parsed, dict) or not isinstance(parsed.get(part), dict):
      raise ConfigError(f'TF_CONFIG has no object {part!r}: write it {example}')
  cluster = {kind: tasks for kind, tasks in parsed['cluster'].items() if tasks}
  kind, index = parsed['task'].get('type'), parsed['task'].get('index')
  for other in [*cluster, kind]:
    if other in ('ps', 'evaluator'):
      fix = 'training is synchronous' if other == 'ps' else '--mode=continuous_eval in a process of its own evaluates'
      raise ConfigError(f'TF_CONFIG has a task of type {other!r}, which has no place here ({fix}): take it out')
    if other not in ('chief', 'worker'):
      raise ConfigError(f"TF_CONFIG has a task of type {other!r}: the types are 'chief' and 'worker'")
  for name, tasks in cluster.items():
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
      raise ConfigError(f"TF_CONFIG's cluster.{name} is {tasks!r}: make it a list of 'host:port'")
  chiefs, workers = cluster.get('chief', []), cluster.get('worker', [])
  if len(chiefs) > 1:
    raise ConfigError(f'TF_CONFIG names {len(chiefs)} chiefs: leave one')
  own = cluster.get(kind, [])
  if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(own):
    raise ConfigError(f"TF_CONFIG's task is {kind} {index!r}, but its cluster names {_number(len(own), kind)}, from 0")
  everyone = (*chiefs, *workers)
  for address in everyone:
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise ConfigError(f"TF_CONFIG has the address {address!r}: write it 'host:port', with a port from 1 to 65535")
    if everyone.count(address) > 1:
      raise ConfigError(f'TF_CONFIG has the address {address!r} twice: each worker needs its own')
  index += len(chiefs) if kind == 'worker' else 0
  if 'CUDA_VISIBLE_DEVICES' in os.environ:  # whoever set it has shared the GPUs out already
    return Peers('TF_CONFIG', everyone, index)
  hosts = [address.rpartition(':')[0] for address in everyone]
  return Peers('TF_CONFIG', everyone, index, hosts.count(hosts[index]), hosts[:index].count(hosts[index]))


def from_slurm(needed: bool = True) -> Peers | None:
  """The tasks of the Slurm step that this process belongs to; None where srun started a single task, or nothing.

  Each step has its own ports, derived from the ids of job and step. The tasks of a node share the GPUs that they see,
  unless Slurm has bound them to tasks already.

  Args:
    needed: whether to refuse a process outside of srun in a job of several tasks, which it would not use.

  Raises:
    ConfigError: a variable makes no sense, or the process is refused.
  """
  tasks = _slurm_number('SLURM_STEP_NUM_TASKS', 0)
  if tasks == 0 and needed and _slurm_number('SLURM_NTASKS', 1) > 1:
    raise ConfigError(
      f'Slurm gave this job {os.environ["SLURM_NTASKS"]} tasks, but srun did not start this process: '
      "start it with 'srun python -m trainer ...', or set cluster.strategy='one' or 'mirrored'"
    )
  if tasks < 2:
    return None
  rank, job = _slurm_number('SLURM_PROCID'), _slurm_number('SLURM_JOB_ID')
  nodes = expand_nodes(_slurm('SLURM_STEP_NODELIST', 'SLURM_JOB_NODELIST'))
  counts = expand_counts(_slurm('SLURM_STEP_TASKS_PER_NODE', 'SLURM_TASKS_PER_NODE'))
  if len(counts) != len(nodes) or sum(counts) != tasks or not 0 <= rank < tasks:
    raise ConfigError(
      f"Slurm's variables disagree: task {rank} of {tasks}, on {len(nodes)} nodes with {counts} tasks: start with srun"
    )
  distribution = re.split('[:,]', os.environ.get('SLURM_DISTRIBUTION', 'block'))[0]
  if distribution == 'cyclic':
    places = [(node, turn) for turn in range(max(counts)) for node, count in enumerate(counts) if turn < count]
  else:
    places = [(node, turn) for node, count in enumerate(counts) for turn in range(count)]
  node, turn = places[rank]
  here = os.environ.get('SLURMD_NODENAME', nodes[node])
  if here != nodes[node] or _slurm_number('SLURM_LOCALID', turn) != turn:
    raise ConfigError(
      f'Slurm put task {rank} on {here}, where --distribution={distribution} would put it on {nodes[node]}: '
      'start with srun --distribution=block'
    )
  step = (job * 31 + _slurm_number('SLURM_STEP_ID', 0)) % _SLURM_STEPS
  first_port = _SLURM_PORTS + _PORTS_PER_STEP * step
  # Several nodes may be one machine, where workers need ports of their own; a large job has no number for each.
  apart = tasks <= _PORTS_PER_STEP
  workers = tuple(
    f'{nodes[place]}:{first_port + (number if apart else offset)}' for number, (place, offset) in enumerate(places)
  )
  if _slurm_bound_gpus(counts[node]):
    return Peers('Slurm', workers, rank)
  return Peers('Slurm', workers, rank, counts[node], turn)


def expand_nodes(text: str) -> list[str]:
  """The host names of a Slurm node list, in its order: 'node[01-03,7],gpu5' -> node01, node02, node03, node7, gpu5.

  Several brackets in a name are multiplied out, the last one fastest: 'r[1-2]n[3-4]' -> r1n3, r1n4, r2n3, r2n4.

  Raises:
    ConfigError: this is not such a list.
  """
  span = r'\d+(?:-\d+)?'
  name = rf'(?:[^\[\],\s]|\[{span}(?:,{span})*\])+'
  if not re.fullmatch(f'{name}(?:,{name})*', text):
    raise ConfigError(f'Slurm node list {text!r} is not of the form node[01-03,7],gpu5')
  names = []
  for part in re.findall(name, text):
    pieces = re.split(r'\[([^\]]*)\]', part)  # text, ranges, text, ranges, ..., text
    choices = [_numbers(piece, text) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    names += [''.join(choice) for choice in itertools.product(*choices)]
  return names


def expand_counts(text: str) -> list[int]:
  """Slurm's tasks per node: '3(x2),1' -> [3, 3, 1].

  Raises:
    ConfigError: this is not such a list.
  """
  counts: list[int] = []
  for part in text.split(','):
    match = re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part)
    if not match:
      raise ConfigError(f"Slurm's tasks per node {text!r} is not of the form 3(x2),1")
    counts += [int(match[1])] * int(match[2] or 1)
  return counts


def _numbers(ranges: str, text: str) -> list[str]:
  """'01-03,7' -> ['01', '02', '03', '7']; the width of a range is that of its first number."""
  numbers: list[str] = []
  for part in ranges.split(','):
    low, _, high = part.partition('-')
    if int(high or low) < int(low):
      raise ConfigError(f'Slurm node list {text!r} has the range {part!r}')
    numbers += [str(number).zfill(len(low)) for number in range(int(low), int(high or low) + 1)]
  return numbers


def _slurm(*names: str) -> str:
  """The first of these variables that is set."""
  for name in names:
    if os.environ.get(name):
      return os.environ[name]
  raise ConfigError(f'{names[0]} is not set, though SLURM_STEP_NUM_TASKS is: start with srun')


def _slurm_number(name: str, default: int | None = None) -> int:
  text = _slurm(name) if default is None else os.environ.get(name) or str(default)
  if not re.fullmatch(r'-?\d+', text):
    raise ConfigError(f'{name}={text!r} is not a number')
  return int(text)


def _slurm_bound_gpus(tasks: int) -> bool:
  """Whether each of the `tasks` on this node sees GPUs of its own already, and not all those of the node."""
  if tasks == 1:
    return True
  seen = os.environ.get('CUDA_VISIBLE_DEVICES')
  visible = len(seen.split(',')) if seen else _count('GPU')
  # 'gres/gpu=1', 'gres:gpu:a100:2', 'cpu=4,gres/gpu:1'
  per_task = re.search(r'gpu(?::[A-Za-z][^:=,]*)?[:=](\d+)', os.environ.get('SLURM_TRES_PER_TASK', ''))
  asked = per_task[1] if per_task else os.environ.get('SLURM_GPUS_PER_TASK', '').rpartition(':')[2]
  if asked:
    return visible == int(asked)
  return visible < _slurm_number('SLURM_GPUS_ON_NODE', 0)


def _own_gpus(count: int, peers: Peers | None) -> tuple[int, ...]:
  """The indices of this process' GPUs, of `count` that it sees."""
  if count == 0 or peers is None or peers.sharers == 1:
    return tuple(range(count))
  each = count // peers.sharers
  if each == 0:
    raise ConfigError(
      f'{peers.sharers} workers share {_number(count, "GPU")} of this host: start at most one worker per GPU, '
      'or hide the GPUs with CUDA_VISIBLE_DEVICES=-1'
    )
  return tuple(range(peers.share * each, (peers.share + 1) * each))


def _count(kind: str) -> int:
  """Number of the devices of this kind ('GPU', 'TPU') that TensorFlow can use here."""
  import tensorflow as tf

  return len(tf.config.list_physical_devices(kind))


def _number(count: int, noun: str) -> str:
  return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def _idle_gpu() -> str:
  """What to tell the owner of a GPU that TensorFlow cannot use."""
  hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1')
  if pathlib.Path('/proc/driver/nvidia/gpus').is_dir() and not hidden:
    return "; TensorFlow cannot use this machine's NVIDIA GPU: pip install 'tf-trainer[gpu]'"
  return ''


def _tpu_address(named: str) -> str:
  """The TPU that the config or the environment names, or 'local' for one in this machine; '' for none."""
  named = named or os.environ.get('KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS') or os.environ.get('TPU_NAME', '')
  return named or ('local' if _count('TPU') else '')


def _tpu_cluster(address: str, asked: str) -> Cluster:
  """Connects to the TPU and counts its cores.

  TensorFlow itself waits for ever for an address where nothing answers, so the address is tried first.
  """
  fix = "; set cluster.strategy='auto', or cluster.tpu to its name or to grpc://HOST:PORT"
  if address == 'local':
    if not _count('TPU'):
      raise ConfigError(f"no TPU found: TensorFlow sees none in this machine (is 'tf-trainer[tpu]' installed?){fix}")
    hosts = [host for host in os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',') if host]
    if len(hosts) > 1:
      raise ConfigError(
        f'this machine is one of {len(hosts)} hosts of a TPU slice, driven by one process: start it with '
        'scripts/launch_tpu, or set cluster.tpu to the addresses of their servers, grpc://IP:8470,grpc://IP:8470,...'
      )
  elif re.fullmatch(r'[^/\s]+:\d+', address):
    address = f'grpc://{address}'
  import tensorflow as tf

  before = socket.getdefaulttimeout()
  socket.setdefaulttimeout(PROBE_SECONDS)  # a name is looked up at the metadata server, with no time limit of its own
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
    jobs = resolver.cluster_spec().as_dict()
  except Exception as error:  # the look-up goes through libraries that raise what they please; all of it means this
    line = ' '.join(str(error).split())[:200]
    raise ConfigError(f'no TPU found: {address!r} cannot be looked up ({line}){fix}') from error
  finally:
    socket.setdefaulttimeout(before)
  for server in jobs.get('worker', []):
    complaint = _probe(server)
    if complaint:
      raise ConfigError(f'no TPU found: {server} {complaint}{fix}')
  tf.config.experimental_connect_to_cluster(resolver)
  cores = len(tf.config.list_logical_devices('TPU'))
  if not cores:
    raise ConfigError(f'no TPU found: TensorFlow answers at {address!r}, but has no TPU{fix}')
  return Cluster('tpu', f'{asked}the TPU {address!r} has {_number(cores, "core")}', 'tpu', cores, tpu=address)


def _probe(server: str) -> str:
  """What is wrong with a gRPC server at 'host:port', or ''. HTTP/2 (RFC 9113, 3.4): both sides begin with SETTINGS."""
  host, _, port = server.rpartition(':')
  settings = b'\x00\x00\x00\x04\x00\x00\x00\x00\x00'
  try:
    with socket.create_connection((host.strip('[]'), int(port)), timeout=PROBE_SECONDS) as connection:
      connection.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + settings)
      answer = connection.recv(9)
  except (OSError, ValueError) as error:
    return f'does not answer ({error})'
  return '' if answer[3:4] == b'\x04' else 'answers, but not as a TensorFlow server'
