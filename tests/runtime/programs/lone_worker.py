"""A worker whose peers never come: waits as many seconds as its argument says, prints the error, exits 75."""

import sys

from settings import config

from trainer.errors import EXIT_RUN_AGAIN, RunAgain
from trainer.runtime import cluster, strategy

try:
  settings = config(start_timeout_seconds=float(sys.argv[1]))
  strategy.create(cluster.discover(settings), settings)
except RunAgain as error:
  print(error)
  sys.exit(EXIT_RUN_AGAIN)
