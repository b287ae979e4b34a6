"""What goes wrong with scripts/launch_tpu: in the cloud, which is a double of gcloud here, or in what it was told."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from tests.launch import pages
from tests.launch.cloud import ABSENT, DEAD, FRESH, QUOTA, READY, RUN, STOCKOUT, WAITING, WHERE, ended, short, start


def test_quota_and_stockout_are_one_line_each(launch):
  quota = {'tpu-vm describe': [ABSENT], 'tpu-vm create': [[1, '', f'ERROR: (gcloud.x) RESOURCE_EXHAUSTED: {QUOTA}.\n']]}
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', scenario=quota)
  assert code == 2
  assert stderr[1:] == [
    f'error: gcloud tpu-vm create: RESOURCE_EXHAUSTED: {QUOTA}; ask for a larger quota, or take another zone or type'
  ]
  assert short(asked) == ['tpu-vm describe', 'tpu-vm create']


def test_stockout_is_one_line_and_75(launch):
  stockout = {'tpu-vm describe': [ABSENT], 'tpu-vm create': [[1, '', STOCKOUT]]}
  code, _, stderr, _ = start(launch, '--type=v5litepod-8', scenario=stockout)
  assert code == 75
  assert stderr[1:] == [
    'error: gcloud tpu-vm create: There is no more capacity in the zone "us-west4-a"; you can try in another zone '
    'where Cloud TPU Nodes are offered [EID: 0x1]; try later or in another zone, or wait in the queue with --queued'
  ]


def test_after_a_preemption_capacity_is_waited_for(launch):
  scenario = {
    'tpu-vm describe': [ABSENT, READY, ABSENT, ABSENT, ABSENT, READY],
    'tpu-vm create': [[0, '', ''], [1, '', STOCKOUT], [0, '', '']],
    'tpu-vm ssh status': [FRESH, DEAD, FRESH, ended(0)],
  }
  code, _, _, asked = start(launch, '--type=v5litepod-8', '--spot', scenario=scenario)
  assert code == 0
  assert short(asked).count('tpu-vm create') == 3


def test_a_request_that_fails_in_the_queue_is_cleared_away_and_said_in_one_line(launch):
  failed = [0, json.dumps({'state': {'state': 'FAILED', 'failedData': {'error': {'code': 8, 'message': QUOTA}}}}), '']
  scenario = {'queued-resources describe': [ABSENT, WAITING, failed]}
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', '--queued', scenario=scenario)
  assert code == 2
  assert stderr[-1].startswith(f'error: gcloud queued-resources create: {QUOTA}')
  assert short(asked)[-1] == 'queued-resources delete'


def test_a_fault_that_doctor_finds_is_one_line(launch):
  text = 'ok     versions: fine\nFAULT  clock: this clock is +90 s off that of ...: start its time service\n'
  doctor = [2, text, 'error: doctor found 1 fault, marked FAULT above\n']
  scenario = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [FRESH], 'tpu-vm ssh doctor': [doctor]}
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert code == 2
  assert stderr[0].startswith('launch_tpu: demo is still there, and costs: scripts/launch_tpu delete demo')
  assert stderr[1:] == ['error: clock: this clock is +90 s off that of ...: start its time service']
  assert 'tpu-vm ssh start' not in short(asked)


@pytest.mark.parametrize(
  ('options', 'args', 'line'),
  [
    (('--zone=', '--project=rain', '--type=v5litepod-8'), RUN, '--zone is missing: name one'),
    (('--zone=west', '--project=rain', '--type=v5litepod-8'), RUN, '--zone=west is no zone: they look like us-west4-a'),
    (('--zone=us-west4-a', '--project=', '--type=v5litepod-8'), RUN, '--project is missing: name the project'),
    (WHERE, RUN, '--type is missing: name the accelerator type'),
    ((*WHERE, '--type=v5e-8'), RUN, '--type=v5e-8 is no type of TPU that is known here: name one such as'),
    ((*WHERE, '--type=v5litepod-12'), RUN, '--type=v5litepod-12 does not exist: after v5litepod- stands one of'),
    ((*WHERE, '--type=v6e-16'), RUN, '--type=v6e-16 has 4 hosts'),
    (
      (*WHERE, '--type=v5litepod-16', '--image=tpu-vm-tf-2.18.0-pod-pjrt'),
      RUN,
      '--image=tpu-vm-tf-2.18.0-pod-pjrt runs',
    ),
    ((*WHERE, '--type=v5litepod-8'), RUN[:1], '--workdir is missing: name the directory'),
    ((*WHERE, '--type=v5litepod-8'), RUN[1:], "--config is missing: name the run's config"),
    ((*WHERE, '--type=v5litepod-8'), (RUN[0], '--workdir=gs://bucket'), '--workdir=gs://bucket needs a bucket and a'),
    ((*WHERE, '--type=v5litepod-8'), (RUN[0], '--workdir=runs/a'), '--workdir=runs/a is relative'),
    ((*WHERE, '--type=v5litepod-8', '--spot'), (RUN[0], '--workdir=/a'), '--workdir=/a is on the disk of a machine'),
    (
      (*WHERE, '--type=v5litepod-8', '--delete_when_done'),
      (RUN[0], '--workdir=/a'),
      '--workdir=/a is on the disk that',
    ),
    ((*WHERE, '--type=v5litepod-8', '--commit=nonesuch'), RUN, '--commit=nonesuch is no commit of'),
    (
      (*WHERE, '--type=v5litepod-8'),
      ('--config=configs/no.py', RUN[1]),
      '--config=configs/no.py is not in commit HEAD',
    ),
  ],
)
def test_mistakes_are_one_line_before_the_cloud_is_asked(launch, options, args, line):
  code, stdout, stderr, asked = launch('run', 'demo', *options, '--', *args)
  assert (code, stdout, asked) == (2, '', [])
  assert len(stderr) == 1
  assert stderr[0].startswith(f'error: {line}')


def test_without_gcloud_and_with_a_bad_name(launch, tmp_path):
  args = ('run', 'demo', *WHERE, '--type=v5litepod-8', '--', *RUN)
  (tmp_path / 'git').symlink_to(
    subprocess.run(['which', 'git'], capture_output=True, text=True, check=True).stdout.strip()
  )
  code, _, stderr, _ = launch(*args, PATH=str(tmp_path))
  assert code == 2
  assert stderr == ['error: gcloud is not installed: see cloud.google.com/sdk/docs/install, then run gcloud auth login']
  code, _, stderr, _ = launch('watch', 'Demo_1', *WHERE)
  assert (code, len(stderr)) == (2, 1)


def test_delete_asks_or_needs_yes(launch):
  code, _, stderr, asked = launch('delete', 'demo', *WHERE)
  assert (code, asked) == (2, [])
  assert stderr == ['error: delete asks before it deletes, and nobody is there to answer: add --yes']
  code, _, _, asked = launch('delete', 'demo', *WHERE, '--yes')
  assert (code, short(asked)) == (0, ['tpu-vm delete'])
  gone = {'queued-resources delete': [[1, '', 'ERROR: (gcloud.x) NOT_FOUND: was not found\n']]}
  assert launch('delete', 'demo', *WHERE, '--yes', '--queued', scenario=gone)[0] == 0


def test_each_command_of_the_page_does_what_it_says(launch):
  found = [line for line in pages.commands('cloud_tpu') if line.startswith('scripts/launch_tpu')]
  assert len(found) >= 4
  for line in found:
    words = shlex.split(line)[1:]
    cut = words.index('--') if '--' in words else len(words)
    code, stdout, stderr, _ = launch(*words[:cut], '--dry_run', *words[cut:])
    assert code == 0, (line, stderr)
    assert stdout.startswith('gcloud')
