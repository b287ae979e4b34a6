"""One of two worker processes: trains small_run's model under the strategy that TF_CONFIG implies, case by case.

  TF_CONFIG=... python -m tests.distributed.small_worker OUT.npz CASES.json

CASES is {name: arguments of small_run.train}. The chief writes the rows of each case, and its final variables.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np

import trainer  # noqa: F401  (sets the environment before TensorFlow is imported)
from tests.data import small
from tests.train import small_run
from trainer import config as config_lib
from trainer.runtime import cluster, strategy


def _input(on: Any, folder: pathlib.Path) -> tuple[int, int]:
  """How many collectives it takes to get a batch, and how often that is traced by the empty input and the real one."""
  import tensorflow as tf

  small.shard(folder, 2)
  made = small.pipeline(small.config(folder), replicas=2, workers=2)
  take = tf.function(lambda iterator: next(iterator)['index'])
  graph = take.get_concrete_function(iter(made.empty(on))).graph.as_graph_def()
  take(iter(made.train(on, 0)))
  nodes = [node for function in graph.library.function for node in function.node_def] + list(graph.node)
  return sum(node.op.startswith('Collective') for node in nodes), take.experimental_get_tracing_count()


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
  results['input/asks'], results['input/traces'] = _input(on, pathlib.Path(out).parent / str(where.worker_index))
  if where.is_chief:
    np.savez(out, **results)


main(*sys.argv[1:])
