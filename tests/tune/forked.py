"""What a sweep of the tests starts as its runs: asks the process of the tests for a trainer, and stands for it.

Importing TensorFlow takes seconds, so the trainer is forked from a server that has done so (tests/tune/runs.py). This
process hands signals on to it, ends as it ends, and takes it along when it is killed. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

SOCKET = 'TUNE_TEST_SOCKET'


def main() -> int:
  with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ[SOCKET])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      signal.signal(number, lambda received, frame: connection.sendall(f'{received}\n'.encode()))
    asked = {'argv': sys.argv[1:], 'env': dict(os.environ), 'parent': os.getppid()}
    connection.sendall(json.dumps(asked).encode() + b'\n')
    with connection.makefile('rb') as answers:
      code = int(answers.readline() or b'1')
  if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
  return code


if __name__ == '__main__':
  sys.exit(main())
