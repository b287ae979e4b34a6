"""A worker whose signals are ours from the first line on: meets the others, then prints what it heard of a SIGTERM."""

import os
import signal

from trainer.runtime.preemption import Stop

stop = Stop()
stop.install()


def meet() -> None:
  from settings import config

  from trainer.runtime import cluster, strategy

  strategy.create(cluster.discover(config()), config())


meet()
stop.reinstall()
stop.at_once = False
os.kill(os.getpid(), signal.SIGTERM)
print(stop.reason)
