"""A long run with evaluations and saves: memory, descriptors and threads stay where they are, and files stay small."""

import os
import pathlib
import re

import numpy as np
import pytest

# The allocator has a pool for each of the threads of a save, and it takes a hundred saves until it asks for no more.
STEPS, SETTLED, WINDOW = 48_000, 24_000, 2_000
RUN = [
  '--config=configs/digits_mlp.py', '--config.model.hidden=(32,)', f'--config.train.steps={STEPS}',
  '--config.train.log_every_steps=250', '--config.eval.every_steps=250', '--config.checkpoint.every_steps=250',
  '--config.checkpoint.every_seconds=0', '--config.optimizer.ema_decay=0.99',
]  # fmt: skip


def state(pid):
  """(resident bytes, open descriptors, threads) of a process."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  resident = 1024 * int(re.search(r'VmRSS:\s+(\d+)', status)[1])
  return resident, len(os.listdir(f'/proc/{pid}/fd')), int(re.search(r'Threads:\s+(\d+)', status)[1])


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='reads what Linux says of a process')
def test_nothing_grows(start_trainer, tmp_path):
  process = start_trainer(*RUN, f'--workdir={tmp_path}/run')
  seen = {}
  for line in process.stdout:  # after each evaluation, and so between two saves
    if found := re.match(r'evaluation at step ([\d,]+):', line):
      seen[int(found[1].replace(',', ''))] = state(process.pid)
  assert process.wait() == 0, process.stderr.read()[-3000:]
  assert len(seen) == STEPS // 250
  early = [value for step, value in seen.items() if SETTLED <= step < SETTLED + WINDOW]
  late = [value for step, value in seen.items() if step > STEPS - WINDOW]
  memory, descriptors, threads = ([value[i] for value in early] for i in range(3))
  now_memory, now_descriptors, now_threads = ([value[i] for value in late] for i in range(3))
  # A leak grows all the time. What a busy machine lets the allocator keep on top is a step or two.
  resident = [value[0] for step, value in seen.items() if step > SETTLED]
  quarters = [max(part) for part in np.array_split(resident, 4)]
  grown = np.diff(quarters)
  assert min(grown) <= 0.005 * quarters[0], f'resident memory grew all the time, in bytes: {quarters}'
  assert max(now_memory) <= 1.05 * max(memory), (
    f'resident memory grew from {max(memory):,} to {max(now_memory):,} bytes'
  )
  # A save is under way at some of these moments: with a dozen threads and files of its own, and not one more each time.
  # A pool of TensorFlow's may have met its first moment of need for one more.
  assert min(now_descriptors) <= max(descriptors)
  assert min(now_threads) <= max(threads) + 2
  ledger = (tmp_path / 'run' / 'ledger.jsonl').stat().st_size
  assert ledger < 200 * 4 * STEPS // 250, 'a few lines per event, none per block'
