"""scripts/launch_k8s: its manifests against the schemas of the API, and its programs in a pod. No cluster here."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch import pages
from trainer import errors
from trainer.report import ledger
from trainer.storage import place

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).parent
LAUNCHER = ROOT / 'scripts' / 'launch_k8s'
VERSIONS = ('1.31', '1.37')
ARGS = ('--', '--config=configs/digits_cnn.py', '--workdir=/workdir/digits')
GPUS = (
  'digits',
  '--image=registry.example/t:1',
  '--workers=4',
  '--gpus=8',
  '--claim=runs',
  '--memory=200Gi',
  '--cpu=32',
)
TPU = ('digits', '--image=registry.example/t:1', '--tpu=v5litepod-8', '--service_account=trainer')
IN_BUCKET = ('--', '--config=configs/digits_cnn.py', '--workdir=gs://my-bucket/digits')
PODS = ('digits', '--image=registry.example/t:1', '--workers=2')
ONE = ('digits', '--image=registry.example/t:1', '--claim=runs', '--namespace=training')

sys.path.insert(0, str(ROOT / 'scripts'))
import exit_codes  # noqa: E402
import manifests  # noqa: E402
import restarts  # noqa: E402

sys.path.remove(str(ROOT / 'scripts'))


def launch(*args: str, **variables: str) -> tuple[int, str, str]:
  done = subprocess.run(
    [sys.executable, LAUNCHER, *args], env={**os.environ, **variables}, capture_output=True, text=True, check=False
  )
  return done.returncode, done.stdout, done.stderr


def objects(*args: str) -> list[dict]:
  code, stdout, stderr = launch(*args)
  assert (code, stderr) == (0, '')
  return list(yaml.safe_load_all(stdout))


def job_of(made: list[dict]) -> dict:
  """The Job, also out of a JobSet."""
  last = made[-1]
  if last['kind'] == 'Job':
    return last
  template = last['spec']['replicatedJobs'][0]['template']
  return {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'inner'}, 'spec': template['spec']}


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize(
  'options',
  [(*GPUS, *ARGS), (*TPU, *IN_BUCKET), (*ONE, *ARGS), (*PODS, *IN_BUCKET)],
  ids=['gpus', 'tpu', 'one', 'pods'],
)
def test_manifests_have_what_the_schemas_of_the_api_want_and_nothing_else(options, version):
  made = objects(*options)
  for thing in made:
    if thing['kind'] == 'JobSet':
      jsonschema.validate(thing, json.loads((HERE / 'jobset_schema.json').read_text()))
      thing = job_of(made)
    kubernetes_validate.validate(thing, version, strict=True)


def test_the_schemas_do_refuse(tmp_path):
  (job,) = objects(*ONE, *ARGS)
  job['spec']['podFailurePolicy']['rules'][0]['onExitCode'] = {}
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(job, '1.37', strict=True)


def test_yaml_says_what_was_meant():
  things = [
    {
      'a': ['on', 'yes', '1', 1, True, None, '', 'x: y', '- z', {'b': [], 'c': {}}, [1, [2]]],
      'k/l.m-n': '0x1',
      'n': -1,
    },
    {'text': 'two\nlines "quoted" #', '~': '*x', 'date': '2026-11-27', 'no': 'NO', 'e': '1e3'},
  ]
  assert list(yaml.safe_load_all(manifests.to_yaml(things))) == things


def test_workers_with_gpus():
  service, job = objects(*GPUS, *ARGS)
  assert service['spec']['clusterIP'] == 'None'
  assert service['spec']['publishNotReadyAddresses'] is True
  spec, pod = job['spec'], job['spec']['template']['spec']
  assert (spec['completionMode'], spec['completions'], spec['parallelism']) == ('Indexed', 4, 4)
  assert pod['subdomain'] == service['metadata']['name']
  assert pod['terminationGracePeriodSeconds'] > 120
  assert pod['securityContext']['runAsNonRoot'] is True
  (container,) = pod['containers']
  assert container['securityContext'] == {'allowPrivilegeEscalation': False, 'capabilities': {'drop': ['ALL']}}
  assert container['resources']['limits'] == {'cpu': '32', 'memory': '200Gi', 'nvidia.com/gpu': '8'}
  assert container['args'][-3:] == [*ARGS[1:], '--config.faults.grace_seconds=120']
  assert (ROOT / container['command'][0]).exists()
  assert (ROOT / container['livenessProbe']['exec']['command'][0]).exists()


def test_a_tpu_of_one_host():
  (job_set,) = objects(*TPU, *IN_BUCKET)
  pod = job_of([job_set])['spec']['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '2x4',
  }
  assert pod['containers'][0]['resources']['limits'] == {'google.com/tpu': '8'}
  assert '--config.cluster.strategy=tpu' in pod['containers'][0]['args']
  assert job_set['spec']['failurePolicy']['rules'][0]['action'] == 'FailJobSet'


def test_a_run_in_a_bucket_needs_no_volume_but_room_for_its_copy():
  _, job = objects(*PODS, *IN_BUCKET)
  pod = job['spec']['template']['spec']
  (container,) = pod['containers']
  assert pod['volumes'] == [{'name': 'scratch', 'emptyDir': {}}, {'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]
  assert container['volumeMounts'][0] == {'name': 'scratch', 'mountPath': '/scratch'}
  assert {'name': 'TRAINER_SCRATCH', 'value': '/scratch'} in container['env']
  assert IN_BUCKET[2] in container['args'] and IN_BUCKET[2] in container['livenessProbe']['exec']['command']
  (job,) = objects(*ONE, *ARGS)
  pod = job['spec']['template']['spec']
  assert pod['volumes'][0] == {'name': 'workdir', 'persistentVolumeClaim': {'claimName': 'runs'}}
  assert 'TRAINER_SCRATCH' not in str(job)


def test_a_grace_of_the_user_is_kept():
  args = (*ARGS, '--config.faults.grace_seconds=50')
  (job,) = objects(*ONE, '--grace_seconds=60', *args)
  assert job['spec']['template']['spec']['containers'][0]['args'][-1] == '--config.faults.grace_seconds=50'


# -- exit codes --------------------------------------------------------------------------------------------------------


def test_the_codes_are_the_trainers():
  assert (restarts.COMPLETE, restarts.USER_MISTAKE, restarts.DIVERGED, restarts.RUN_AGAIN) == (
    errors.EXIT_COMPLETE,
    errors.EXIT_USER_MISTAKE,
    errors.EXIT_DIVERGED,
    errors.EXIT_RUN_AGAIN,
  )


def test_the_page_is_the_table():
  assert (ROOT / 'docs' / 'exit_codes.md').read_text() == exit_codes.page(), (
    'python3 scripts/exit_codes.py > docs/exit_codes.md'
  )
  for platform in exit_codes.PLATFORMS:
    assert platform.actions.keys() == exit_codes.CODES.keys()


def test_the_policy_of_pods_is_the_table():
  """The first rule that fits, as Kubernetes reads them, is what the table says."""
  (job,) = objects(*ONE, *ARGS)
  rules = job['spec']['podFailurePolicy']['rules']
  platform = next(platform for platform in exit_codes.PLATFORMS if 'launch_k8s' in platform.name)

  def action(code: int, disrupted: bool = False) -> str:
    for rule in rules:
      exits, conditions = rule.get('onExitCodes'), rule.get('onPodConditions')
      if exits and exits['operator'] == 'In' and code in exits['values']:
        return rule['action']
      if conditions and disrupted and conditions[0]['type'] == 'DisruptionTarget':
        return rule['action']
    return 'Count'

  for code in (restarts.USER_MISTAKE, restarts.DIVERGED, restarts.RUN_AGAIN):
    assert platform.actions[code].startswith(f'{action(code)}:')
  assert action(137) == action(1) == action(restarts.RUN_AGAIN) == 'Count'
  assert action(restarts.RUN_AGAIN, disrupted=True) == action(143, disrupted=True) == 'Ignore'
  assert action(restarts.USER_MISTAKE, disrupted=True) == 'FailJob'
  assert all(0 not in rule.get('onExitCodes', {}).get('values', []) for rule in rules)  # the API refuses it


@pytest.fixture
def free_ports() -> int:
  """N, where the ports N0 and N1 are free."""
  for first in range(1500, 2700):
    with (
      contextlib.suppress(OSError),
      socket.create_server(('', 10 * first)),
      socket.create_server(('', 10 * first + 1)),
    ):
      return first
  raise AssertionError('no two free ports')


# -- in a pod ----------------------------------------------------------------------------------------------------------


def test_a_pod_becomes_its_worker(tmp_path):
  """scripts/pod_worker with the environment of a manifest, down to a trainer that says what it was given."""
  _, job = objects(*GPUS, *ARGS)
  container = job['spec']['template']['spec']['containers'][0]
  variables = {entry['name']: entry['value'] for entry in container['env']}
  show = 'import os, sys; print(os.environ["TF_CONFIG"], sys.argv[1:])'
  (tmp_path / 'show.py').write_text(show)
  done = subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'pod_worker', '--module=show', '--', '--workdir=w'],
    env={**os.environ, **variables, 'JOB_COMPLETION_INDEX': '2', 'PYTHONPATH': str(tmp_path)},
    capture_output=True, text=True, check=False, cwd=tmp_path,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  config = json.loads(done.stdout[: done.stdout.rindex('[')])
  assert config['task'] == {'type': 'worker', 'index': 2}
  assert config['cluster']['worker'] == [f'digits-{index}.digits:2222' for index in range(4)]


@pytest.mark.parametrize(
  ('variables', 'line'),
  [
    ({'TRAINER_WORKERS': 'two'}, 'TRAINER_WORKERS=two has to be the number of pods'),
    ({'TRAINER_WORKERS': '2', 'JOB_COMPLETION_INDEX': '2'}, 'JOB_COMPLETION_INDEX=2 is none of 2 pods'),
    ({'TRAINER_WORKERS': '2', 'JOB_COMPLETION_INDEX': '1'}, 'TRAINER_HOSTS= needs the word INDEX'),
  ],
)
def test_a_pod_whose_environment_makes_no_sense(variables, line):
  done = subprocess.run(
    [sys.executable, ROOT / 'scripts' / 'pod_worker'],
    env={**os.environ, **variables},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(f'error: {line}')
  assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('named', ['', 'gs://bucket{}', 'gs://bucket{}/'])
def test_health_is_a_fresh_heartbeat(tmp_path, monkeypatch, named):
  """With a process that is called as the trainer is."""
  (tmp_path / 'trainer').mkdir()
  (tmp_path / 'trainer' / '__main__.py').write_text('print(flush=True); import signal; signal.pause()')
  monkeypatch.setenv('TRAINER_SCRATCH', str(tmp_path))
  named = named.format(tmp_path)  # of this test alone: processes are looked for by it
  workdir = named or f'{tmp_path}/run'
  folder = pathlib.Path(f'{place.local_copy(named)}.worker-3' if named else workdir)
  folder.mkdir()
  beat = folder / ledger.heartbeat_name(3)

  def healthy(*options: str) -> int:
    command = [sys.executable, ROOT / 'scripts' / 'healthy', f'--workdir={workdir}', '--seconds=0.5', *options]
    env = {**os.environ, 'JOB_COMPLETION_INDEX': '3'}
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode

  command = [sys.executable, '-P', '-m', 'trainer', f'--workdir={workdir}']
  env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
  trainer = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
  try:
    trainer.stdout.readline()
    assert healthy() == 0  # no heartbeat yet, but it has only begun
    beat.touch()
    assert healthy('--seconds=60') == 0
    os.utime(beat, (time.time() - 9000, time.time() - 9000))
    assert healthy() == 0  # of an earlier attempt
    assert healthy('--start_seconds=0') == 1
    now = time.time()
    os.utime(beat, (now - 0.01, now - 0.01))
    assert healthy('--start_seconds=0', '--seconds=0') == 1
  finally:
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
  assert healthy('--start_seconds=0', '--seconds=0') == 0  # between two attempts


@pytest.mark.slow
@pytest.mark.thorough
def test_two_pods_one_of_which_is_lost_and_made_anew(tmp_path, free_ports):
  """The real trainer in two pods of this machine: killed, one is replaced, and the other starts again by itself."""
  first = free_ports
  variables = {'TRAINER_WORKERS': '2', 'TRAINER_HOSTS': f'127.0.0.1:{first}INDEX', 'TF_CPP_MIN_LOG_LEVEL': '2'}
  args = ['--config=configs/digits_mlp.py', f'--workdir={tmp_path}/run', '--config.train.steps=3000']
  args += ['--config.checkpoint.every_steps=200', '--config.faults.metadata_host=']

  def pod(index: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
      [sys.executable, ROOT / 'scripts' / 'pod_worker', '--', *args],
      env={**os.environ, **variables, 'JOB_COMPLETION_INDEX': str(index)},
      stderr=open(tmp_path / f'pod{index}', 'a'),
      stdout=subprocess.DEVNULL,
      cwd=ROOT,
    )

  pods = [pod(0), pod(1)]
  try:
    deadline = time.monotonic() + 120
    while not list((tmp_path / 'run' / 'checkpoints').glob('*/complete.json')):
      assert time.monotonic() < deadline, (tmp_path / 'pod0').read_text()[-2000:]
      assert pods[0].poll() is None
      time.sleep(0.05)
    pods[1].kill()  # and with it its trainer
    pods[1].wait()
    pods[1] = pod(1)
    assert [process.wait(timeout=240) for process in pods] == [0, 0]
  finally:
    for process in pods:
      process.kill()
      process.wait()
  assert 'supervise: attempt 1 ended with exit code 75' in (tmp_path / 'pod0').read_text()


# -- mistakes, kubectl and the page ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('options', 'args', 'line'),
  [
    (('Digits', *ONE[1:]), ARGS, "the name 'Digits' has to be"),
    (('d' * 53, *ONE[1:]), ARGS, "the name 'ddd"),
    (('digits', '--claim=runs'), ARGS, '--image is missing'),
    ((*ONE, '--workers=0'), ARGS, '--workers=0 must be at least 1'),
    ((*ONE, '--gpus=-1'), ARGS, '--gpus=-1 must be at least 0'),
    ((*ONE, '--memory=much'), ARGS, '--memory=much is malformed: write it as in 32Gi'),
    ((*ONE, '--cpu=8 cores'), ARGS, '--cpu=8 cores is malformed'),
    ((*ONE, '--namespace=A'), ARGS, '--namespace=A is malformed'),
    (
      ONE,
      IN_BUCKET,
      '--workdir=gs://my-bucket/digits needs no --claim=runs: leave that out, or write --',
    ),
    (PODS, ARGS, '--workdir=/workdir/digits would go with its pod: write --workdir=gs://BUCKET/digits, or --workdir='),
    (PODS, ARGS[:2], '--workdir is missing: write --workdir=gs://BUCKET/digits, or --workdir=/workdir/digits and --'),
    (PODS, (*ARGS[:2], '--workdir=gs://bucket'), '--workdir=gs://bucket needs a bucket and a folder, as in gs://'),
    (ONE, ('--', '--config=c.py', '--workdir=runs/a'), '--workdir=runs/a is not on the volume'),
    (ONE, ('--', '--config=c.py', '--workdir=/workdir/../a'), '--workdir=/workdir/../a is not on the volume'),
    (ONE, ('--', '--workdir=/workdir/a'), '--config is missing'),
    ((*ONE, '--tpu=v5litepod-7'), ARGS, '--tpu=v5litepod-7 does not exist'),
    ((*ONE, '--tpu=v5litepod-256'), ARGS, '--tpu=v5litepod-256 has 64 hosts'),
    ((*ONE, '--tpu=v3-8'), ARGS, "--tpu=v3-8 is not to be had on Google's Kubernetes"),
    ((*ONE, '--tpu=v5p-8'), ARGS, '--topology= is missing or malformed'),
    ((*ONE, '--tpu=v5p-8', '--topology=2x2x2'), ARGS, '--topology=2x2x2 is 8 chips, but v5p-8 has 4'),
    ((*ONE, '--tpu=v5litepod-8', '--gpus=1'), ARGS, '--tpu=v5litepod-8 has one pod and no GPUs'),
    ((*ONE, '--output=/no/such/place'), ARGS, '--output=/no/such/place cannot be written'),
  ],
)
def test_mistakes_are_one_line(options, args, line):
  code, stdout, stderr = launch(*options, *args)
  assert (code, stdout) == (2, '')
  assert stderr.startswith(f'error: {line}')
  assert stderr.count('\n') == 1


def test_apply_hands_the_manifests_to_kubectl(tmp_path):
  kubectl = tmp_path / 'kubectl'
  kubectl.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/argv\ncat >{tmp_path}/stdin\necho job.batch/digits created\n')
  kubectl.chmod(0o755)
  path = f'{tmp_path}:{os.environ["PATH"]}'
  code, stdout, _ = launch(*ONE, '--apply', f'--output={tmp_path}/file', *ARGS, PATH=path)
  assert (code, stdout) == (0, 'job.batch/digits created\n')
  assert (tmp_path / 'argv').read_text() == 'apply --filename=-\n'
  assert (tmp_path / 'stdin').read_text() == (tmp_path / 'file').read_text() == launch(*ONE, *ARGS)[1]
  kubectl.write_text('#!/bin/sh\necho \'error: no matches for kind "JobSet" in version "x"\' >&2\nexit 1\n')
  code, _, stderr = launch(*TPU, '--apply', *IN_BUCKET, PATH=path)
  assert code == 2
  assert re.fullmatch('error: kubectl apply: no matches for kind "JobSet".*; is JobSet installed there.*\n', stderr)
  code, _, stderr = launch(*ONE, '--apply', *ARGS, PATH='/nowhere')
  assert (code, stderr.count('\n')) == (2, 1)


def test_each_command_of_the_page_makes_manifests():
  found = [line for line in pages.commands('kubernetes') if line.startswith('scripts/launch_k8s')]
  assert len(found) == 2
  for line in found:
    assert objects(*shlex.split(line)[1:])
