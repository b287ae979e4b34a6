"""What the tests of scripts/launch_tpu say to it, and what the double of gcloud (programs/gcloud) answers."""

from __future__ import annotations

import json

WHERE = ('--zone=us-west4-a', '--project=rain')
RUN = ('--config=configs/digits_cnn.py', '--workdir=gs://bucket/run')
READY = [0, json.dumps({'state': 'READY'}), '']
ABSENT = [1, '', 'ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource projects/rain/... was not found\n']
ACTIVE = [0, json.dumps({'state': {'state': 'ACTIVE'}}), '']
SUSPENDED = [0, json.dumps({'state': {'state': 'SUSPENDED', 'stateInitiator': 'SERVICE'}}), '']
PROVISIONING = [0, json.dumps({'state': {'state': 'PROVISIONING'}}), '']
WAITING = [0, json.dumps({'state': {'state': 'WAITING_FOR_RESOURCES'}}), '']
DEAD = [
  255,
  '',
  'ssh: connect to host 10.0.0.2 port 22: Connection timed out\nERROR: (gcloud...) [/usr/bin/ssh] exited\n',
]
FRESH = [0, '', '']  # nothing of ours is on the machine
QUOTA = "Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 4 in zone us-west4-a"
STOCKOUT = (
  'ERROR: (gcloud.compute.tpus.tpu-vm.create) {\n  "code": 8,\n  "message": "There is no more capacity in the zone '
  '\\"us-west4-a\\"; you can try in another zone where Cloud TPU Nodes are offered [EID: 0x1]"\n}\n'
)


def said(log: str = '', **values) -> list:
  """An answer of tpu_host status."""
  state = {'running': True, 'code': None, 'started': True, 'step': None, 'stopped': False, 'offset': 0, 'more': False}
  return [0, json.dumps({**state, **values}) + '\n' + log, '']


def ended(code: int | None, step: int | None = 10, log: str = '', **values) -> list:
  return said(log, running=False, code=code, step=step, **values)


def start(launch, *options: str, scenario: dict[str, list], args: tuple[str, ...] = RUN):
  options = ('--poll_seconds=0', '--backoff_seconds=0', *options)
  return launch('run', 'demo', *WHERE, *options, '--', *args, scenario=scenario)


def short(asked: list[list[str]]) -> list[str]:
  """Calls as in 'tpu-vm create' and 'tpu-vm ssh start'."""
  names = []
  for argv in asked:
    words = argv[3:5]
    for word in ('setup', 'serve', 'doctor', 'start', 'status', 'stop'):
      if any(argument.startswith('--command=') and f'tpu_host {word}' in argument for argument in argv):
        words = [*words, word]
        break
    names.append(' '.join(words))
  return names
