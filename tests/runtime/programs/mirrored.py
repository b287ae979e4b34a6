"""Two logical CPU devices in one process: creates the strategy, agrees with itself, prints what it found as JSON."""

import json

import tensorflow as tf
from settings import config

from trainer.runtime import agreement, cluster, strategy

settings = config(cpu_devices=2)
where = cluster.discover(settings)
distribution = strategy.create(where, settings)
strategy.create(where, settings)  # a second mode in the same process


@tf.function
def numbers():
  return distribution.run(lambda: tf.distribute.get_replica_context().replica_id_in_sync_group)


try:
  tf.random.uniform([1])
  seedless = 'ran'
except RuntimeError as error:
  seedless = str(error)

print(
  json.dumps(
    {
      'strategy': type(distribution).__name__,
      'heard': [agreement.from_chief(distribution, where, word) for word in (7, -(2**63), 2**53 + 1)],
      'flags': [agreement.all_true(distribution, where, flag) for flag in (True, False)],
      'numbers': [int(number) for number in distribution.experimental_local_results(numbers())],
      'first': int(strategy.first(distribution, numbers())),
      'devices': list(distribution.extended.worker_devices),
      'seedless': seedless,
    }
  )
)
