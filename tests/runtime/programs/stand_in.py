"""Stands in for the trainer, alone or as one of several workers: does what its first argument says.

show      print what the launcher gave it
codes     exit with this worker's code, of '0,3'
signals   wait for so many signals, print their names, exit 75
peer      worker 1 fails at once; worker 0 sees it gone and exits 75
killed    as peer, but worker 1 dies of SIGKILL
deaf      worker 1 fails at once; worker 0 ignores SIGTERM and waits for ever
plain     wait for SIGTERM, with no word of other signals; exit 75
attempts  a run of several attempts: the n-th one does what the n-th of the next arguments says, the last one for good.
          Each says one or more things, as in 'save:10,signals:1,exit:75': save a checkpoint of this step, exit with
          this code, 'each:75/3' with this worker's, 'die:SIGKILL', or one of the above. WORKDIR/attempts.INDEX has a
          byte per attempt.
"""

import json
import os
import pathlib
import signal
import socket
import sys

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}

rank = int(os.environ.get('SLURM_PROCID', '0'))
task = json.loads(os.environ.get('TF_CONFIG', 'null')) or {'task': {'index': rank}}
index = task['task']['index']


def meet() -> socket.socket:
  """A connection between workers 0 and 1, over the port of worker 1."""
  host, port = task['cluster']['worker'][1].split(':')
  if index == 1:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, int(port)))
    server.listen()
    return server.accept()[0]
  while True:
    try:
      return socket.create_connection((host, int(port)))
    except ConnectionRefusedError:
      continue


def show() -> None:
  own = os.getsid(0) == os.getpid()
  gpus = os.environ.get('CUDA_VISIBLE_DEVICES')
  print(json.dumps({'task': task, 'args': sys.argv[2:], 'gpus': gpus, 'own_session': own, 'stdin': sys.stdin.read()}))
  print('half a line', end='')
  print(f'an error of {index}', file=sys.stderr)


def wait_for_signals(count: str) -> None:
  signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
  print('ready')
  for _ in range(int(count)):
    print(signal.Signals(signal.sigwait(SIGNALS)).name)


def lose(how: str) -> None:
  connection = meet()
  if index == 1:
    connection.sendall(b'x')
    if how == 'killed':
      os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)
  while connection.recv(1):
    pass
  print('the peer has gone')
  sys.exit(75)


def be_deaf() -> None:
  if index == 1:
    sys.exit(1)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  print('ready')
  while True:
    signal.pause()


def be_plain() -> None:
  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
  print('ready')
  signal.sigwait({signal.SIGTERM})
  sys.exit(75)


def attempts(scripts: list[str]) -> None:
  workdir = pathlib.Path(next(argument.partition('=')[2] for argument in sys.argv if argument.startswith('--workdir=')))
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / f'attempts.{index}', 'ab') as file:
    file.write(b'.')
    number = file.tell()
  scripts = [script for script in scripts if not script.startswith('--')]
  for step in scripts[min(number, len(scripts)) - 1].split(','):
    name, _, value = step.partition(':')
    if name == 'save':
      folder = workdir / 'checkpoints' / value
      folder.mkdir(parents=True, exist_ok=True)
      (folder / 'complete.json').touch()
    elif name == 'exit':
      sys.exit(int(value))
    elif name == 'each':
      sys.exit(int(value.split('/')[index]))
    elif name == 'die':
      os.kill(os.getpid(), signal.Signals[value])
    else:
      act(name, value)


def act(name: str, value: str) -> None:
  match name:
    case 'show':
      show()
    case 'signals':
      wait_for_signals(value)
    case 'peer' | 'killed':
      lose(name)
    case 'deaf':
      be_deaf()
    case 'plain':
      be_plain()
    case _:
      raise ValueError(name)


action, rest = sys.argv[1], sys.argv[2:]
if action == 'attempts':
  attempts(rest)
elif action == 'codes':
  sys.exit(int(rest[0].split(',')[index]))
else:
  act(action, rest[0] if rest else '')
  if action == 'signals':
    sys.exit(75)
