"""Run as a program: `killed_saves.py FOLDER`. Saves checkpoints in child processes that end in every possible way.

Each case has a folder of its own, in which step 1 is complete before the process is killed (or ends) during the save
that the case names. One process imports everything and forks, because importing takes seconds and a save milliseconds.
The exit status of each child is written to FOLDER/CASE.status.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np

from trainer.checkpoint import Checkpoints, checkpoints

# The case, the step whose save it interrupts, and the stage at which the process is killed.
STAGES = {
  'begun': (2, 'begun'),
  'written': (2, 'written'),
  'sealed': (2, 'sealed'),
  'before_marker': (2, 'before_marker'),
  'complete': (2, 'complete'),
  'deleting': (2, 'deleting'),
  'collected': (2, 'collected'),
  'replacing': (1, 'replacing'),
  'replacing_before_marker': (1, 'before_marker'),
  'replacing_complete': (1, 'complete'),
}
OTHERS = ('writing', 'exit', 'exception')


def state(seed: int) -> dict[str, np.ndarray]:
  return {'a/b': np.random.default_rng(seed).standard_normal((64, 64)), 'step': np.array(seed)}


def die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def kill_when_data_appear(folder: str) -> None:
  """Kills this process when the data of step 2 begin to reach the disk."""
  while True:
    for root, _, names in os.walk(folder):
      data = [os.path.join(root, name) for name in names if not name.endswith('.lock')]
      if '2.saving' in root and os.path.basename(root) == 'd' and any(map(os.path.getsize, data)):
        die()


def run(case: str, folder: str) -> None:
  writer = Checkpoints(folder, keep=1, keep_best=0, best_mode='max', writer=True)
  writer.save(1, state(1), {'seed': 1})
  writer.wait()
  if case in STAGES:
    step, deadly = STAGES[case]
    checkpoints.on_stage = lambda stage: die() if stage == deadly else None
    writer.save(step, state(2), {'seed': 2})
    writer.wait()
  elif case == 'writing':
    threading.Thread(target=kill_when_data_appear, args=(folder,), daemon=True).start()
    many = {f'large/{i}': np.random.default_rng(i).standard_normal(2**20) for i in range(16)}
    writer.save(2, many, {'seed': 2})
    writer.wait()
  else:
    writer.save(2, state(2), {'seed': 2})
    if case == 'exception':
      raise RuntimeError('the program ends without waiting for its save')


def main(folder: str) -> None:
  for case in (*STAGES, *OTHERS):
    child = os.fork()
    if not child:
      run(case, os.path.join(folder, case))
      return
    _, status = os.waitpid(child, 0)
    with open(os.path.join(folder, f'{case}.status'), 'w') as file:
      file.write(str(os.waitstatus_to_exitcode(status)))


if __name__ == '__main__':
  main(sys.argv[1])
