"""One of two worker processes: trains small_run's model under the strategy that TF_CONFIG implies, case by case.

  TF_CONFIG=... python -m tests.distributed.small_worker OUT.npz CASES.json

CASES is {name: arguments of small_run.train}. The chief writes the rows of each case, and its final variables.
"""

import json
import sys

import numpy as np

import trainer  # noqa: F401  (sets the environment before TensorFlow is imported)
from tests.train import small_run
from trainer import config as config_lib
from trainer.runtime import cluster, strategy


def main(out: str, cases: str) -> None:
  config = config_lib.base(task='classification', model='mlp')
  where = cluster.discover(config)
  on = strategy.create(where, config)
  results = {}
  for name, arguments in json.loads(cases).items():
    run = small_run.train(on=on, first=where.worker_index * where.local_devices, **arguments)
    results[f'{name}/rows'] = run.rows.main
    results |= {f'{name}/{variable}': value for variable, value in run.state.snapshot().items()}
    results[f'{name}/held'] = np.array([run.state.held_bytes()[part] for part in ('optimizer', 'ema')])
  if where.is_chief:
    np.savez(out, **results)


main(*sys.argv[1:])
