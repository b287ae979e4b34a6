"""One of several workers: meets the others, agrees with them, and prints what it found as JSON.

Argument: number of logical CPU devices per worker.
"""

import json
import os
import signal
import sys
import time

import keras
import tensorflow as tf
from settings import config

from trainer.runtime import agreement, cluster, strategy
from trainer.runtime.preemption import Stop

settings = config(cpu_devices=int(sys.argv[1]))
where = cluster.discover(settings)
distribution = strategy.create(where, settings)
me = where.worker_index

words = [7, 2**53, -1, 2**63 - 1, 1234567890123456789]
heard = [agreement.from_chief(distribution, where, word if where.is_chief else 99) for word in words]
flags = [agreement.all_true(distribution, where, flag) for flag in (True, False, me == 0, me != 0)]
began = time.perf_counter()
for _ in range(20):
  agreement.all_true(distribution, where, True)
seconds = (time.perf_counter() - began) / 20

# Different seeds: the chief's weights must arrive on all.
keras.utils.set_random_seed(me)
with distribution.scope():
  layer = keras.layers.Dense(3, name='dense')
  layer.build((None, 2))


@tf.function
def replicas():
  def on_replica():
    replica = tf.distribute.get_replica_context()
    number = replica.replica_id_in_sync_group
    return number, replica.all_reduce('SUM', tf.cast(number, tf.float32))

  return distribution.run(on_replica)


numbers, total = replicas()

# TensorFlow has taken SIGTERM by now; ours is installed after it and must win.
stop = Stop()
stop.install()
stop.at_once = False
os.kill(os.getpid(), signal.SIGTERM)
stopped = stop.reason
stop.uninstall()

print(
  json.dumps(
    {
      'heard': heard,
      'flags': flags,
      'seconds': seconds,
      'weights': layer.kernel.numpy().tolist(),
      'numbers': [int(number) for number in distribution.experimental_local_results(numbers)],
      'total': float(strategy.first(distribution, total)),
      'replicas': [where.replicas, distribution.num_replicas_in_sync],
      'chief': where.is_chief,
      'reason': where.reason,
      'stopped': stopped,
    }
  )
)
