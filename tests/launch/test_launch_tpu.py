"""scripts/launch_tpu against a recording double of gcloud (programs/gcloud): no cloud and no TensorFlow here."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
import shlex

import pytest

from tests.launch.cloud import (
  ABSENT,
  ACTIVE,
  DEAD,
  FRESH,
  PROVISIONING,
  READY,
  RUN,
  SUSPENDED,
  WAITING,
  WHERE,
  ended,
  said,
  short,
  start,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).parent
CASES = {
  'v5litepod-8': ('--type=v5litepod-8',),
  'v5litepod-256': ('--type=v5litepod-256', '--reserved'),
  'spot_queued': ('--type=v5litepod-8', '--spot', '--queued', '--delete_when_done'),
}


def settled(line: str) -> str:
  """A command without what is different on each machine."""
  return re.sub(r'[^ =]*/trainer\.tar\.gz', 'ARCHIVE', line.replace(str(ROOT), 'ROOT'))


# -- command lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', CASES)
def test_dry_run_prints_the_commands_in_order(launch, case):
  """golden/launch_tpu_*.txt are to be read beside Google's reference."""
  code, stdout, _, asked = launch('run', 'demo', *WHERE, *CASES[case], '--dry_run', '--', *RUN)
  assert code == 0
  assert asked == []
  golden = HERE / 'golden' / f'launch_tpu_{case}.txt'
  assert [settled(line) for line in stdout.splitlines()] == golden.read_text().splitlines()


@pytest.mark.parametrize('case', CASES)
def test_what_is_run_is_what_is_printed(launch, case):
  scenario = {
    'tpu-vm describe': [ABSENT, READY] if case != 'spot_queued' else [READY],
    'queued-resources describe': [ABSENT, ACTIVE],
    'tpu-vm ssh status': [FRESH, ended(0)],
  }
  code, _, _, asked = start(launch, *CASES[case], scenario=scenario)
  assert code == 0
  golden = (HERE / 'golden' / f'launch_tpu_{case}.txt').read_text().splitlines()
  printed = [line for line in golden if line.startswith('gcloud')]
  run = [settled(shlex.join(argv)).replace('--backoff_seconds=0', '--backoff_seconds=1') for argv in asked]
  if case == 'spot_queued':  # of a queued resource that is active, the node is looked at too
    run.remove(next(line for line in run if 'tpu-vm describe' in line))
  assert run == printed


def test_a_slice_has_a_server_on_each_host_and_one_program(launch):
  code, stdout, _, _ = launch('run', 'demo', *WHERE, *CASES['v5litepod-256'], '--dry_run', '--', *RUN)
  assert code == 0
  lines = stdout.splitlines()
  serve = next(line for line in lines if 'tpu_host serve' in line)
  assert '--worker=all' in serve
  assert all('--worker=0' in line for line in lines if 'tpu_host start' in line or 'tpu_host doctor' in line)
  assert lines.index(serve) < next(place for place, line in enumerate(lines) if 'doctor' in line)


@pytest.mark.parametrize('queued', [(), ('--queued',)])
def test_every_option_becomes_a_flag_that_gcloud_has(launch, queued):
  options = (
    '--type=v4-8',
    '--reserved',
    '--internal_ip',
    '--service_account=a@rain.iam',
    '--image=tpu-ubuntu2204-base',
  )
  scenario = {
    'tpu-vm describe': [READY] if queued else [ABSENT, READY],
    'queued-resources describe': [ABSENT, ACTIVE],
    'tpu-vm ssh status': [FRESH, ended(0)],
  }
  code, _, _, asked = start(launch, *options, *queued, scenario=scenario)
  assert code == 0  # the double refuses other flags
  create = next(argv for argv in asked if argv[4] == 'create')
  assert {'--reserved', '--internal-ips', '--service-account=a@rain.iam'} <= set(create)
  assert all('--internal-ip' in argv for argv in asked if argv[4] in ('ssh', 'scp'))


def test_the_double_knows_the_flags_of_the_gcloud_that_is_installed_here():
  """Where Google's SDK is, its table of commands is held against gcloud_flags.json."""
  places = (pathlib.Path('/usr/lib/google-cloud-sdk'), pathlib.Path.home() / 'google-cloud-sdk')
  tables = [place / 'data' / 'cli' / 'gcloud_completions.py' for place in places]
  table = next((path for path in tables if path.exists()), None)
  if table is None:
    pytest.skip('no Google Cloud SDK here')
  spec = importlib.util.spec_from_file_location('completions', table)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  tpus = module.STATIC_COMPLETION_CLI_TREE['commands']['compute']['commands']['tpus']['commands']
  for name, flags in json.loads((HERE / 'gcloud_flags.json').read_text())['commands'].items():
    group, verb = name.split()
    own = set(flags) - ({'--version'} if verb == 'create' else set())  # the table leaves it out
    assert own <= set(tpus[group]['commands'][verb]['flags']), name


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_spot_queued_resource_that_is_preempted_twice_goes_on_to_the_end(launch):
  scenario = {
    'queued-resources describe': [
      ABSENT,
      WAITING,
      PROVISIONING,
      ACTIVE,  # the first
      SUSPENDED,
      SUSPENDED,
      PROVISIONING,
      ACTIVE,  # taken away, and the second
      SUSPENDED,
      SUSPENDED,
      ACTIVE,  # and the third
    ],
    'tpu-vm describe': [READY],
    'tpu-vm ssh status': [
      FRESH,
      said('one\n', step=5, offset=4),
      DEAD,
      FRESH,
      said('two\n', step=9, offset=4),
      DEAD,
      FRESH,
      ended(0, step=20, log='three\n', offset=6),
    ],
  }
  code, stdout, stderr, asked = start(launch, *CASES['spot_queued'], scenario=scenario)
  assert code == 0
  assert stdout == 'one\ntwo\nthree\n'
  calls = short(asked)
  assert (
    calls.count('queued-resources create') == calls.count('tpu-vm ssh setup') == calls.count('tpu-vm ssh start') == 3
  )
  assert calls.count('queued-resources delete') == 3  # two that were suspended, and the last one when done
  assert calls[-1] == 'queued-resources delete'
  assert 'launch_tpu: the TPU is gone, newest checkpoint: step 5; going on in 0 s' in stderr
  # Each new machine's log is read from its beginning.
  assert [argv[-1] for argv in asked if 'status --offset=' in argv[-1]][-1].endswith('--offset=0')


def test_a_node_that_is_preempted_is_deleted_and_created_again(launch):
  preempted = [0, json.dumps({'state': 'PREEMPTED'}), '']
  scenario = {
    'tpu-vm describe': [ABSENT, READY, preempted, preempted, READY],
    'tpu-vm ssh status': [FRESH, DEAD, FRESH, ended(0)],
  }
  code, _, _, asked = start(launch, '--type=v5litepod-8', '--spot', scenario=scenario)
  assert code == 0
  calls = short(asked)
  assert calls.count('tpu-vm create') == 2
  assert calls.count('tpu-vm delete') == 1


def test_what_a_new_machine_finds_in_the_bucket_is_no_progress(launch):
  """Its copy of the run is empty until the trainer has begun, and then as far as that of the machine before."""
  scenario = {
    'tpu-vm describe': [READY, ABSENT, ABSENT, READY, ABSENT, ABSENT, READY, ABSENT],
    'tpu-vm ssh status': [FRESH, said(step=5), DEAD, FRESH, said(), DEAD, FRESH, said(), said(step=5), DEAD],
  }
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', '--spot', '--attempts=2', scenario=scenario)
  assert code == 75
  assert short(asked).count('tpu-vm ssh start') == 3
  told = [line for line in stderr if 'the TPU is gone' in line]
  assert told == [
    *['launch_tpu: the TPU is gone, newest checkpoint: step 5; going on in 0 s'] * 2,
    'launch_tpu: giving up: the TPU is gone; no progress in 2 attempts in a row',
  ]


@pytest.mark.parametrize('code', [0, 2, 3])
def test_a_run_that_ends_for_good_is_not_started_again(launch, code):
  scenario = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [FRESH, ended(code)]}
  got, _, stderr, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert got == code
  assert short(asked).count('tpu-vm ssh start') == 1
  assert stderr == [
    'launch_tpu: demo is still there, and costs: scripts/launch_tpu delete demo --zone=us-west4-a --project=rain'
  ]


def test_75_and_a_machine_that_was_down_run_again_and_the_rules_of_restarts_hold(launch):
  scenario = {
    'tpu-vm describe': [READY],
    'tpu-vm ssh status': [FRESH, ended(75, step=4), ended(75, step=4), ended(None, step=4), FRESH, ended(75, step=4)],
  }
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', '--attempts=2', scenario=scenario)
  assert code == 75
  assert short(asked).count('tpu-vm ssh start') == 3
  assert stderr[-2] == 'launch_tpu: giving up: the run ended with exit code 75; no progress in 2 attempts in a row'


def test_the_stop_file_ends_it(launch):
  scenario = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [FRESH, ended(75, stopped=True)]}
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert code == 75
  assert short(asked).count('tpu-vm ssh start') == 1
  assert stderr[0] == 'launch_tpu: STOP is in the work directory: remove it to go on'


def test_the_same_command_follows_a_run_that_is_under_way(launch):
  scenario = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [said(), ended(0, log='the end\n', offset=8)]}
  code, stdout, _, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert code == 0
  assert stdout == 'the end\n'
  assert short(asked) == ['tpu-vm describe', 'tpu-vm ssh status', 'tpu-vm ssh status']


def test_watch_logs_and_stop_start_nothing(launch):
  status = {'tpu-vm ssh status': [said('a\n', offset=2, more=True), ended(3, log='b\n', offset=4)]}
  code, stdout, _, asked = launch('watch', 'demo', *WHERE, '--poll_seconds=0', scenario=status)
  assert (code, stdout) == (3, 'a\nb\n')
  assert short(asked) == ['tpu-vm ssh status'] * 2
  assert asked[1][-1].endswith('--offset=2')
  assert launch('logs', 'demo', *WHERE, scenario=status)[:2] == (0, 'b\n')
  assert launch('stop', 'demo', *WHERE, scenario={'tpu-vm ssh stop': [[0, 'asked\n', '']]})[:2] == (0, 'asked\n')


def test_a_new_machine_may_take_a_while_until_it_answers(launch):
  scenario = {'tpu-vm describe': [ABSENT, READY], 'tpu-vm ssh status': [DEAD, DEAD, FRESH, ended(0)]}
  code, _, _, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert code == 0
  assert short(asked).count('tpu-vm create') == short(asked).count('tpu-vm ssh start') == 1
  never = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [DEAD]}
  code, _, stderr, _ = start(launch, '--type=v5litepod-8', scenario=never)
  assert (code, len(stderr)) == (75, 2)


def test_a_machine_that_is_there_but_silent_does_not_lose_the_run(launch):
  scenario = {'tpu-vm describe': [READY], 'tpu-vm ssh status': [FRESH, DEAD]}
  code, _, stderr, asked = start(launch, '--type=v5litepod-8', scenario=scenario)
  assert code == 75
  assert len(stderr) == 2
  assert stderr[1].endswith('the TPU is there, but silent for 5 looks: give this command again')
  assert 'tpu-vm delete' not in short(asked)
