"""Gets stuck in a phase, as its arguments say; the watchdog is to end it.

stuck.py WORKDIR PHASE [save]     save: a save is under way, and ends when the watchdog has begun to wait for it
"""

import sys
import threading
import time
from types import SimpleNamespace

from trainer.runtime.phases import Phases
from trainer.runtime.watchdog import Watchdog

workdir, phase, *rest = sys.argv[1:]
names = ('start', 'restore', 'compile', 'step', 'eval', 'save', 'barrier')
faults = SimpleNamespace(**{f'{name}_timeout_seconds': 0.2 for name in names}, step_timeout_factor=2.0)
phases = Phases(time.monotonic())
watchdog = Watchdog(phases, faults, poll_seconds=0.05)
watchdog.workdir = workdir
watchdog.before_exit = lambda: print('closed', flush=True)
watchdog.others = lambda: [
  {'worker': 0, 'name': 'step', 'begin': 5.0, 'last': 7, 'age': 0.2},
  {'worker': 1, 'name': 'step', 'begin': 5.0, 'last': 7, 'age': 60.0},
]
if rest:
  asked = []
  watchdog.saving = lambda: asked.append(1) or len(asked) < 4
if phase == 'step':
  phases.enter('compile')
  phases.progress(7, 0.1, 0.0)
phases.enter(phase)
if phase == 'step':
  watchdog.block(1)
watchdog.start()


def wait_for_ever():
  threading.Event().wait()


wait_for_ever()
