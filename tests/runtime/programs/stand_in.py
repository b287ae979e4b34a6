"""Stands in for a worker: does what its first argument says.

show     print what the launcher gave it
codes    exit with this worker's code, of '0,3'
signals  wait for so many signals, print their names, exit 75
peer     worker 1 fails at once; worker 0 sees it gone and exits 75
killed   as peer, but worker 1 dies of SIGKILL
deaf     worker 1 fails at once; worker 0 ignores SIGTERM and waits for ever
"""

import json
import os
import signal
import socket
import sys

task = json.loads(os.environ['TF_CONFIG'])
index = task['task']['index']
host, port = task['cluster']['worker'][index].split(':')
action = sys.argv[1]


def meet() -> socket.socket:
  """A connection between workers 0 and 1, over the port of worker 1."""
  if index == 1:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, int(port)))
    server.listen()
    return server.accept()[0]
  other = task['cluster']['worker'][1].split(':')
  while True:
    try:
      return socket.create_connection((other[0], int(other[1])))
    except ConnectionRefusedError:
      continue


if action == 'codes':
  sys.exit(int(sys.argv[2].split(',')[index]))
if action == 'show':
  print(json.dumps({'task': task, 'args': sys.argv[2:], 'gpus': os.environ.get('CUDA_VISIBLE_DEVICES')}))
  print('half a line', end='')
  print(f'an error of {index}', file=sys.stderr)
if action == 'signals':
  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
  print('ready')
  for _ in range(int(sys.argv[2])):
    print(signal.Signals(signal.sigwait({signal.SIGTERM, signal.SIGINT})).name)
  sys.exit(75)
if action in ('peer', 'killed'):
  connection = meet()
  if index == 1:
    connection.sendall(b'x')
    if action == 'killed':
      os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)
  while connection.recv(1):
    pass
  print('the peer has gone')
  sys.exit(75)
if action == 'deaf':
  if index == 1:
    sys.exit(1)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  while True:
    signal.pause()
