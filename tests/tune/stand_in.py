"""Stands for the trainer in a sweep, in no time: how it ends says its learning rate. Standard library only."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import threading

STEPS = 40
# Learning rate -> how it ends.
WELL, DIVERGES, IS_WRONG, CRASHES, CRASHES_ONCE, WAITS = 1.0, 2.0, 3.0, 4.0, 5.0, 6.0


def main() -> int:
  flags = dict(argument.lstrip('-').partition('=')[::2] for argument in sys.argv[1:])
  workdir, rate = pathlib.Path(flags['workdir']), float(flags['config.optimizer.learning_rate'])
  workdir.mkdir(parents=True, exist_ok=True)
  pid = workdir / 'pid'
  again = pid.exists()
  pid.write_text(str(os.getpid()))
  if rate == DIVERGES:
    return end(3, 'diverged: the loss is not finite')
  if rate == IS_WRONG:
    return end(2, 'error: it is wrong')
  if rate == CRASHES:
    return end(1, 'RuntimeError: it is broken')
  if rate == CRASHES_ONCE and not again:
    save(workdir, 10, rate)
    os.kill(os.getpid(), signal.SIGKILL)
  if rate == WAITS and not again:
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    save(workdir, 10, rate)
    told.wait(60)
    save(workdir, 20, rate)
    return end(75, 'stopped: SIGTERM')
  save(workdir, STEPS, rate)
  return 0


def save(workdir: pathlib.Path, step: int, rate: float) -> None:
  with open(workdir / 'metrics.jsonl', 'a') as file:
    file.write(json.dumps({'step': step, 'split': 'eval', 'time': 0.0, 'accuracy': rate / 10 + step / 1000}) + '\n')
  (workdir / 'checkpoints' / str(step)).mkdir(parents=True)
  (workdir / 'checkpoints' / str(step) / 'complete.json').touch()


def end(code: int, line: str) -> int:
  print(line, file=sys.stderr)
  return code


if __name__ == '__main__':
  sys.exit(main())
