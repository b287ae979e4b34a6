"""Kubernetes manifests of a run, as dictionaries and as YAML.

GPUs: an indexed Job with a headless Service. A pod is a worker; its completion index is its place in TF_CONFIG, its
name 'JOB-INDEX.JOB' stays the same when the pod is replaced, and scripts/pod_worker makes TF_CONFIG of it. Inside a pod
scripts/supervise starts the trainer again on 75 and after a crash, so when one worker is lost, the others end with 75
and are back in seconds, in the pods that they have, and wait for the one that is scheduled anew.

TPUs: a JobSet of one Job, on a node of Google's Kubernetes with a whole slice of one host.

What is left for Kubernetes is an end that supervise does not follow with another attempt (exit_codes.py has the table).
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import restarts
import tpu_types
from restarts import place

MOUNT = '/workdir'  # where the claim's volume is
SCRATCH = '/scratch'  # where the copy of a run in a bucket is
PORT = 2222
CONTAINER = 'trainer'
# Beyond --grace_seconds: supervise and the interpreter have to end too.
MARGIN_SECONDS = 15
HEARTBEAT_SECONDS = 300
_WORDS = ('true', 'false', 'yes', 'no', 'on', 'off', 'null', 'y', 'n')  # what YAML takes for something else


@dataclasses.dataclass(frozen=True)
class Values:
  """What a manifest is made from.

  Attributes:
    name: of the Job or JobSet, and of the Service.
    image: of the container.
    args: the trainer's arguments, with a --workdir in a bucket, or below MOUNT.
    namespace: '' for that of kubectl.
    workers: pods.
    gpus: for each pod.
    tpu: type of a TPU of one host; None: GPUs, or none.
    claim: of the volume that all pods write to; '' for a run in a bucket.
    grace_seconds: from SIGTERM to the end of a pod, for a save.
    attempts: fruitless ones in a row after which supervise gives up.
    backoff_limit: ends of pods that count before the Job has failed.
    service_account: of the pods.
    cpu: as in '8'; '': not said.
    memory: as in '32Gi'; '': not said.
    user: id of the user in the image.
  """

  name: str
  image: str
  args: tuple[str, ...]
  namespace: str = ''
  workers: int = 1
  gpus: int = 0
  tpu: tpu_types.TpuType | None = None
  claim: str = ''
  grace_seconds: int = 120
  attempts: int = 10
  backoff_limit: int = 5
  service_account: str = ''
  cpu: str = ''
  memory: str = ''
  user: int = 1000


def render(values: Values) -> list[dict[str, Any]]:
  """The objects, in the order in which they are to be applied."""
  if values.tpu is not None:
    return [_job_set(values)]
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': _metadata(values), 'spec': _job_spec(values)}
  return [_service(values), job] if values.workers > 1 else [job]


def pod_failure_policy() -> dict[str, Any]:
  """What the end of a pod means. The first rule that fits counts.

  A mistake or divergence would only be repeated. A pod that Kubernetes itself takes away (a drained or preempted node,
  an eviction) is replaced and counts for nothing, however it ends. RUN_AGAIN counts: supervise has made its attempts
  without progress, or STOP lies in the work directory, and both would go on for ever. So does what has no rule, such
  as a kill for memory.
  """
  failures = [code for code in restarts.FINAL if code != restarts.COMPLETE]
  return {
    'rules': [
      {'action': 'FailJob', 'onExitCodes': _exit_codes(failures)},
      {'action': 'Ignore', 'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
      {'action': 'Count', 'onExitCodes': _exit_codes([restarts.RUN_AGAIN])},
    ]
  }


def _exit_codes(codes: list[int]) -> dict[str, Any]:
  return {'containerName': CONTAINER, 'operator': 'In', 'values': codes}


def _metadata(values: Values) -> dict[str, Any]:
  named = {'namespace': values.namespace} if values.namespace else {}
  return {'name': values.name, **named, 'labels': {'app.kubernetes.io/name': 'tf-trainer'}}


def _service(values: Values) -> dict[str, Any]:
  """Gives each pod a name; also before it is ready, since the workers meet first."""
  return {
    'apiVersion': 'v1',
    'kind': 'Service',
    'metadata': _metadata(values),
    'spec': {
      'clusterIP': 'None',
      'publishNotReadyAddresses': True,
      'selector': {'batch.kubernetes.io/job-name': values.name},
      'ports': [{'name': 'tensorflow', 'port': PORT}],
    },
  }


def _job_set(values: Values) -> dict[str, Any]:
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': _metadata(values),
    'spec': {
      'failurePolicy': {
        'maxRestarts': values.backoff_limit,
        # The Job says so when a rule of pod_failure_policy has made it fail; what else fails is started again.
        'rules': [{'name': 'mistake', 'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}],
      },
      'replicatedJobs': [{'name': 'slice', 'replicas': 1, 'template': {'spec': _job_spec(values)}}],
    },
  }


def _job_spec(values: Values) -> dict[str, Any]:
  return {
    'completionMode': 'Indexed',
    'completions': values.workers,
    'parallelism': values.workers,
    'backoffLimit': values.backoff_limit,
    'podFailurePolicy': pod_failure_policy(),
    # A pod is replaced when it has ended, not while it still saves.
    'podReplacementPolicy': 'Failed',
    'template': {'metadata': {'labels': {'app.kubernetes.io/name': 'tf-trainer'}}, 'spec': _pod_spec(values)},
  }


def _pod_spec(values: Values) -> dict[str, Any]:
  spec: dict[str, Any] = {
    'restartPolicy': 'Never',  # what a podFailurePolicy needs
    'terminationGracePeriodSeconds': values.grace_seconds + MARGIN_SECONDS,
    'securityContext': {
      'runAsNonRoot': True,
      'runAsUser': values.user,
      'runAsGroup': values.user,
      'fsGroup': values.user,
      'seccompProfile': {'type': 'RuntimeDefault'},
    },
    'containers': [_container(values)],
    'volumes': [_volume(values), {'name': 'shm', 'emptyDir': {'medium': 'Memory'}}],
  }
  if values.workers > 1:
    spec['subdomain'] = values.name
  if values.service_account:
    spec['serviceAccountName'] = values.service_account
  if values.tpu is not None:
    spec['nodeSelector'] = {
      'cloud.google.com/gke-tpu-accelerator': values.tpu.gke,
      'cloud.google.com/gke-tpu-topology': values.tpu.topology,
    }
  return spec


def _container(values: Values) -> dict[str, Any]:
  workdir = restarts.find_workdir(values.args)
  health = ['scripts/healthy', f'--workdir={workdir}', f'--seconds={HEARTBEAT_SECONDS}']
  limits = {
    **({'cpu': values.cpu} if values.cpu else {}),
    **({'memory': values.memory} if values.memory else {}),
    **({'nvidia.com/gpu': str(values.gpus)} if values.gpus else {}),
    **({'google.com/tpu': str(values.tpu.chips)} if values.tpu else {}),
  }
  env = [{'name': 'TRAINER_WORKERS', 'value': str(values.workers)}]
  if values.workers > 1:
    env.append({'name': 'TRAINER_HOSTS', 'value': f'{values.name}-INDEX.{values.name}:{PORT}'})
  if not values.claim:
    env.append({'name': place.SCRATCH, 'value': SCRATCH})
  container = {
    'name': CONTAINER,
    'image': values.image,
    'command': ['scripts/pod_worker'],
    'args': [f'--attempts={values.attempts}', '--', *values.args],
    'env': env,
    'securityContext': {'allowPrivilegeEscalation': False, 'capabilities': {'drop': ['ALL']}},
    'resources': {'requests': dict(limits), 'limits': limits},
    # Not a kill at the first silence: three looks, a minute apart.
    'livenessProbe': {'exec': {'command': health}, 'periodSeconds': 60, 'timeoutSeconds': 20, 'failureThreshold': 3},
    'volumeMounts': [_mount(values), {'name': 'shm', 'mountPath': '/dev/shm'}],
  }
  if values.workers > 1:
    container['ports'] = [{'name': 'tensorflow', 'containerPort': PORT}]
  return container


def _mount(values: Values) -> dict[str, Any]:
  return {'name': 'workdir', 'mountPath': MOUNT} if values.claim else {'name': 'scratch', 'mountPath': SCRATCH}


def _volume(values: Values) -> dict[str, Any]:
  if values.claim:
    return {'name': 'workdir', 'persistentVolumeClaim': {'claimName': values.claim}}
  return {'name': 'scratch', 'emptyDir': {}}


def to_yaml(documents: list[dict[str, Any]]) -> str:
  """Several objects in one file."""
  return '---\n'.join('\n'.join(_lines(document)) + '\n' for document in documents)


def _lines(value: Any) -> list[str]:
  """The lines of an object or a list that is not empty."""
  lines = []
  for key, item in value.items() if isinstance(value, dict) else [(None, item) for item in value]:
    head = '-' if key is None else f'{_scalar(key)}:'
    if not isinstance(item, (dict, list)) or not item:
      lines.append(f'{head} {_scalar(item)}')
      continue
    inner = _lines(item)
    if key is None:
      lines += [f'- {inner[0]}', *(f'  {line}' for line in inner[1:])]
    else:
      lines += [head, *(f'  {line}' for line in inner)]
  return lines


def _scalar(value: Any) -> str:
  """A string without quotes only where it can be nothing else than a string."""
  if isinstance(value, str) and re.fullmatch(r'[A-Za-z][A-Za-z0-9_./-]*', value) and value.lower() not in _WORDS:
    return value
  return json.dumps(value)
