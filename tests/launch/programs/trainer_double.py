"""A double of the trainer: says what it was given, waits for `go` in the work directory, exits with its number."""

import json
import os
import pathlib
import signal
import sys
import time

from trainer.storage import place

workdir = pathlib.Path(place.local_copy(next(a.partition('=')[2] for a in sys.argv if a.startswith('--workdir='))))
workdir.mkdir(parents=True, exist_ok=True)
names = ('TPU_NAME', 'TPU_LOAD_LIBRARY')
print(json.dumps({'args': sys.argv[1:], 'cwd': os.getcwd(), 'env': {n: os.environ.get(n) for n in names}}), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
while not (workdir / 'go').exists():
  time.sleep(0.02)
sys.exit(int((workdir / 'go').read_text()))
