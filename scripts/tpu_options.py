"""What scripts/launch_tpu can be told, and what of it is wrong before anything is asked of the cloud."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys

import children
import restarts
import tpu_types


class Mistake(Exception):
  """One line with the fix."""


def parse(argv: list[str], description: str) -> tuple[argparse.Namespace, list[str]]:
  """(options of the script, arguments of the trainer). The latter stand after '--'."""
  cut = argv.index('--') if '--' in argv else len(argv)
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage='%(prog)s COMMAND NAME [options] -- ARGS',
  )
  parser.add_argument('command', choices=['run', 'create', 'setup', 'watch', 'logs', 'stop', 'delete'])
  parser.add_argument('name', help='of the TPU (and of its queued resource)')
  parser.add_argument('--zone', default=os.environ.get('CLOUDSDK_COMPUTE_ZONE', ''), help='as in us-west4-a')
  parser.add_argument('--project', default=os.environ.get('CLOUDSDK_CORE_PROJECT', ''), help='id of the project')
  parser.add_argument('--type', default='', help='accelerator type, as in v5litepod-8')
  parser.add_argument(
    '--image', default='', help='runtime version (default: the one for this type without a framework)'
  )
  kind = parser.add_mutually_exclusive_group()
  kind.add_argument('--spot', action='store_true', help='cheaper, may be taken away at any time')
  kind.add_argument('--reserved', action='store_true', help="from the project's reservation")
  parser.add_argument('--queued', action='store_true', help='wait for it in a queue (a queued resource)')
  parser.add_argument('--service_account', default='', help='whom the machines act as')
  parser.add_argument('--internal_ip', action='store_true', help='no external addresses: ssh from inside the network')
  parser.add_argument('--commit', default='HEAD', help='of this project to run (default: HEAD)')
  parser.add_argument('--delete_when_done', action='store_true', help='delete the TPU when the run has ended')
  parser.add_argument('--yes', action='store_true', help='delete without a question')
  parser.add_argument('--dry_run', action='store_true', help='print the commands, run none')
  parser.add_argument('--poll_seconds', type=restarts.seconds, default=20.0, help='between two looks (default: 20)')
  restarts.add_options(parser)
  return parser.parse_args(argv[:cut]), argv[cut + 1 :]


def check(options: argparse.Namespace, args: list[str]) -> None:
  """Raises Mistake for what can be known to be wrong before anything is asked of the cloud."""
  if not re.fullmatch(r'[a-z]([-a-z0-9]{0,61}[a-z0-9])?', options.name):
    raise Mistake(f'the name {options.name!r} has to be small letters, digits and hyphens, and begin with a letter')
  if not options.zone:
    raise Mistake('--zone is missing: name one that has this type (gcloud compute tpus locations list)')
  if not re.fullmatch(r'[a-z]+-[a-z]+[0-9]+-[a-z]', options.zone):
    raise Mistake(f'--zone={options.zone} is no zone: they look like us-west4-a')
  if not options.project:
    raise Mistake('--project is missing: name the project that pays (gcloud projects list)')
  if options.command in ('run', 'create', 'setup'):
    if not options.type:
      raise Mistake('--type is missing: name the accelerator type, as in v5litepod-8')
    try:
      kind = tpu_types.parse(options.type)
    except ValueError as error:
      raise Mistake(str(error)) from None
    if kind.hosts > 1 and kind.family == 'v6e':
      raise Mistake(
        f"--type={kind.name} has {kind.hosts} hosts, and TensorFlow 2.20's server does not know v6e: take v6e-8"
      )
    if kind.hosts > 1 and options.image.startswith('tpu-vm-tf'):
      raise Mistake(f'--image={options.image} runs a TensorFlow server of its own on each host: leave --image out')
    if options.command == 'run':
      check_run(options, args, kind)
    check_commit(options, args)
  if not options.dry_run and not shutil.which('gcloud'):
    raise Mistake('gcloud is not installed: see cloud.google.com/sdk/docs/install, then run gcloud auth login')


def check_run(options: argparse.Namespace, args: list[str], kind: tpu_types.TpuType) -> None:
  workdir = restarts.find_workdir(args)
  if not any(re.match('--?config(=|$)', argument) for argument in args):
    raise Mistake("--config is missing: name the run's config behind '--', as for the trainer")
  if not workdir:
    raise Mistake("--workdir is missing: name the directory of the run behind '--', as in --workdir=gs://BUCKET/RUN")
  if workdir.startswith('gs://'):
    if not restarts.is_in_bucket(workdir):
      raise Mistake(f'--workdir={workdir} needs a bucket and a folder, as in gs://BUCKET/RUN')
    return
  fix = 'name a bucket, as in --workdir=gs://BUCKET/RUN'
  if options.spot:
    raise Mistake(f'--workdir={workdir} is on the disk of a machine that --spot lets be taken away with it: {fix}')
  if options.delete_when_done:
    raise Mistake(f'--workdir={workdir} is on the disk that --delete_when_done deletes: {fix}')
  if not workdir.startswith('/'):
    raise Mistake(f'--workdir={workdir} is relative, but to what on the machine: {fix}, or an absolute path')


def check_commit(options: argparse.Namespace, args: list[str]) -> None:
  """The commit has to be there, and the config in it."""
  if git('rev-parse', '--verify', '--quiet', f'{options.commit}^{{commit}}') is None:
    raise Mistake(f'--commit={options.commit} is no commit of {children.ROOT}: name one (git log)')
  for argument in args:
    match = re.fullmatch(r'--?config=([^:]+\.py)(:.*)?', argument)
    path = match[1] if match else ''
    if path and not path.startswith('/') and git('cat-file', '-e', f'{options.commit}:{path}') is None:
      raise Mistake(f'--config={path} is not in commit {options.commit}, which is what the TPU gets: commit it')
  changed = git('status', '--porcelain', '--untracked-files=no')
  if changed:
    say(f'warning: what is not committed stays here ({len(changed.splitlines())} files); the TPU gets {options.commit}')


def git(*args: str) -> str | None:
  """What git says at the root of this checkout; None if it fails."""
  try:
    done = subprocess.run(['git', '-C', str(children.ROOT), *args], capture_output=True, text=True, check=False)
  except OSError:
    return None
  return done.stdout if done.returncode == 0 else None


def say(text: str) -> None:
  print(f'launch_tpu: {text}', file=sys.stderr, flush=True)
