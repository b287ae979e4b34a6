"""From a Cluster to the tf.distribute strategy that serves it, with the TensorFlow settings that must come before it.

One CPU runs under TensorFlow's default strategy, which is no strategy at all: OneDeviceStrategy's iterator costs 0.2
ms per step there. One GPU has OneDeviceStrategy, whose iterator fetches the next batch to the device ahead. The
others are MirroredStrategy, MultiWorkerMirroredStrategy and TPUStrategy.

A strategy over several workers takes SIGTERM's handler for itself, before the workers have met: the caller has to take
it back (preemption.py).
"""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context

from trainer.errors import RunAgain
from trainer.runtime.cluster import Cluster
from trainer.runtime.unlocked import unlocked_start


def create(cluster: Cluster, config: Any) -> tf.distribute.Strategy:
  """The strategy of this cluster. To be called once, before anything runs on a device.

  It also makes ops deterministic where `config.deterministic` says so (a random op without a seed is an error then),
  splits the CPU into logical devices, hides the GPUs that are not this process', and lets GPU memory grow.

  Several workers meet here. TensorFlow's own limit for that is an hour on the workers and none on the chief, which
  would wait for ever for a worker that never comes; here both wait `faults.start_timeout_seconds`: nodes of one job may
  boot, and import TensorFlow from a shared file system, minutes apart. From then on a worker that is silent for
  `faults.heartbeat_timeout_seconds` counts as lost: what the others wait for raises an error.

  Args:
    cluster: what `discover` found.
    config: the run's config; reads `deterministic` and `faults`.

  Raises:
    RunAgain: a worker did not come in time, or this one's port is taken. The process has to be started again:
      TensorFlow cannot start a second time to talk to others.
  """
  if config.deterministic:
    tf.config.experimental.enable_op_determinism()
  _configure_devices(cluster)
  if cluster.strategy == 'tpu':
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=cluster.tpu)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
  elif cluster.strategy == 'multi_worker':
    strategy = _multi_worker(cluster, config.faults)
  elif cluster.strategy == 'mirrored':
    strategy = tf.distribute.MirroredStrategy(
      [f'{cluster.device_kind.upper()}:{device}' for device in range(cluster.local_devices)]
    )
  elif cluster.device_kind == 'gpu':
    strategy = tf.distribute.OneDeviceStrategy('GPU:0')
  else:
    strategy = tf.distribute.get_strategy()
  assert strategy.num_replicas_in_sync == cluster.replicas, (strategy.num_replicas_in_sync, cluster)
  return strategy


def first(strategy: tf.distribute.Strategy, value: Any) -> Any:
  """The value of this process' first replica, of one that `strategy.run` returned per replica."""
  return strategy.experimental_local_results(value)[0]


def _configure_devices(cluster: Cluster) -> None:
  if cluster.device_kind == 'gpu':
    listed = tf.config.list_physical_devices('GPU')
    own = [listed[index] for index in cluster.gpus]
    tf.config.set_visible_devices(own, 'GPU')
    for gpu in own:
      tf.config.experimental.set_memory_growth(gpu, True)
  elif cluster.device_kind == 'cpu' and cluster.local_devices > 1:
    cpu = tf.config.list_physical_devices('CPU')[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) != cluster.local_devices:
      tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cluster.local_devices)


def _multi_worker(cluster: Cluster, faults: Any) -> tf.distribute.Strategy:
  """MultiWorkerMirroredStrategy over all workers, each as task `worker_index` of one job 'worker'."""
  on_gpus = cluster.device_kind == 'gpu'
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({'worker': list(cluster.workers)}),
    task_type='worker',
    task_id=cluster.worker_index,
    num_accelerators={'GPU': cluster.local_devices} if on_gpus else {},
    rpc_layer='grpc',
  )
  implementation = tf.distribute.experimental.CommunicationImplementation
  options = tf.distribute.experimental.CommunicationOptions(
    implementation=implementation.NCCL if on_gpus else implementation.RING
  )
  _limit_waiting(cluster, faults)
  try:
    with unlocked_start():
      if not on_gpus and cluster.local_devices > 1:
        return _LogicalCpus(resolver, options, cluster.local_devices)
      return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
  except tf.errors.OpError as error:
    raise RunAgain(_start_failure(cluster, error, faults.start_timeout_seconds)) from error


def _limit_waiting(cluster: Cluster, faults: Any) -> None:
  """Has the strategy's coordination service wait for all workers at its start, but not longer than the config says.

  There is no public setting; the strategy keeps what it finds configured in TensorFlow's context.
  """
  ctx = context.context()
  ctx.configure_coordination_service(
    service_type='standalone',
    service_leader='/job:worker/replica:0/task:0',
    coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name='worker', num_tasks=cluster.num_workers)],
    cluster_register_timeout_in_ms=int(faults.start_timeout_seconds * 1000),
    heartbeat_timeout_in_ms=int(faults.heartbeat_timeout_seconds * 1000),
  )
  ctx.coordination_service.cluster_register_with_barrier = True


def _start_failure(cluster: Cluster, error: tf.errors.OpError, timeout_seconds: float) -> str:
  """Why the workers did not meet, in one line."""
  own = cluster.workers[cluster.worker_index]
  if not isinstance(error, tf.errors.DeadlineExceededError):
    return (
      f'worker {cluster.worker_index} ({own}) could not start to talk to the others: {error.message.splitlines()[0]}'
    )
  late = sorted({int(task) for task in re.findall(r'/job:worker/replica:0/task:(\d+)$', error.message, re.MULTILINE)})
  late = late if cluster.is_chief else [0]
  names = ', '.join(f'{task} ({cluster.workers[task]})' for task in late) or 'somebody'
  return (
    f'worker {cluster.worker_index} ({own}) waited {timeout_seconds:g} s in vain for worker {names}: '
    'is it running, and does its port answer?'
  )


class _LogicalCpus(tf.distribute.MultiWorkerMirroredStrategy):
  """MultiWorkerMirroredStrategy with several logical CPU devices per worker.

  TensorFlow's own takes several GPUs of a worker, but never more than one CPU device. This one serves to run on CPUs
  what several hosts with several GPUs each will do.
  """

  def __init__(self, resolver: Any, options: Any, local_devices: int):
    tf.distribute.Strategy.__init__(self, _LogicalCpusExtended(self, resolver, options, local_devices))


class _LogicalCpusExtended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
  def __init__(self, strategy: tf.distribute.Strategy, resolver: Any, options: Any, local_devices: int):
    self._logical_cpus = local_devices
    super().__init__(strategy, cluster_resolver=resolver, communication_options=options)

  def _initialize_local_devices(self, cluster_resolver: Any, worker_device: str) -> tuple[tuple[str, ...], str]:
    return tuple(f'{worker_device}/device:CPU:{device}' for device in range(self._logical_cpus)), 'CPU'
