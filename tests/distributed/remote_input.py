"""A program, FOLDER TASK...: input pipelines on a server of TensorFlow's in another process, as on a slice's hosts.

The server runs `tf.distribute.Server` and none of our code, so whatever of a pipeline is Python fails there. One JSON
object per line says what came of each task and source: {"task", "source", "error"}; "error" is empty where the batches
are those that this process makes, to the byte, and were made over there.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.testing import mocking

from tests.conftest import ROOT
from tests.distributed.test_every_task import COMMON, RUNS
from trainer import main, tasks
from trainer.data.pipeline import Pipeline
from trainer.data.source import open_dataset

SERVER = """
import sys
import tensorflow as tf
sys.path[:] = []
server = tf.distribute.Server({'worker': ['127.0.0.1:0']}, job_name='worker', task_index=0)
print(server.target, flush=True)
sys.stdin.read()
"""
EXAMPLES = 64


class Host:
  """What of a strategy builds the input of one host, at a device of that host."""

  def __init__(self, device: str):
    self.device = device

  def distribute_datasets_from_function(self, build: Any) -> tf.data.Dataset:
    with tf.device(self.device):
      return build(tf.distribute.InputContext(1, 0, 1))

  def batches(self, pipeline: Pipeline) -> list[list[tf.Tensor]]:
    """Two training batches from step 3 on, and one of the evaluation."""
    with tf.device(self.device):
      training = iter(pipeline.train(self, 3))  # type: ignore[arg-type]
      found = [next(training), next(training)]
      found.append(next(iter(pipeline.evaluate(self)[0])))  # type: ignore[arg-type]
    return [tf.nest.flatten(batch) for batch in found]


def made_up(task: str, config: Any) -> tuple[Any, list[dict[str, Any]]]:
  """Features as those of the task's set, and examples of them."""
  rng = np.random.default_rng(0)
  if config.data.pack_tokens:
    texts = [''.join(chr(letter) for letter in rng.integers(97, 123, 300)) for _ in range(EXAMPLES)]
    return tfds.features.FeaturesDict({'text': tfds.features.Text()}), [{'text': text} for text in texts]
  features = open_dataset(config).features
  if task not in ('detection', 'segmentation'):
    return features, list(mocking.RandomFakeGenerator(features, num_examples=EXAMPLES))
  images = rng.integers(0, 256, (EXAMPLES, 40, 48, 3), np.uint8)
  image = tfds.features.Image(shape=(None, None, 3))
  if task == 'segmentation':
    masks = rng.integers(1, 4, (EXAMPLES, 40, 48, 1), np.uint8)
    features = tfds.features.FeaturesDict({'image': image, 'segmentation_mask': features['segmentation_mask']})
    return features, [{'image': i, 'segmentation_mask': m} for i, m in zip(images, masks, strict=True)]
  # Boxes at random would have their corners the wrong way round.
  one = {'bbox': tfds.features.BBox(0.1, 0.2, 0.5, 0.7), 'label': 1}
  parts = {'bbox': tfds.features.BBoxFeature(), 'label': features['objects']['label']}
  features = tfds.features.FeaturesDict({'image': image, 'objects': tfds.features.Sequence(parts)})
  return features, [{'image': image, 'objects': [one] * int(rng.integers(1, 4))} for image in images]


def store(task: str, config: Any, folder: str) -> str:
  """Writes such a set as TFDS does; returns its name."""
  features, examples = made_up(task, config)
  name = f'made_up_{task}'
  rows = list(enumerate(examples))
  tfds.dataset_builders.store_as_tfds_dataset(
    name=name, version='1.0.0', features=features, split_datasets={'train': rows, 'test': rows}, data_dir=folder
  )
  return name


def compare(config: Any, hosts: list[Host]) -> None:
  """Raises an error where the hosts make different batches, or not where they should."""
  dataset = open_dataset(config)
  task = tasks.create(config, dataset.features, lambda: dataset.examples(dataset.train), None)
  here, there = (host.batches(Pipeline(config, dataset, task, replicas=1, workers=1)) for host in hosts)
  for batch, other in zip(here, there, strict=True):
    for own, remote in zip(batch, other, strict=True):
      assert '/job:worker/' in remote.device, remote.device
      assert '/job:worker/' not in own.device, own.device
      np.testing.assert_array_equal(own.numpy(), remote.numpy())


def run(folder: str, chosen: list[str]) -> None:
  server = subprocess.Popen(
    [sys.executable, '-c', SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd='/', text=True
  )
  assert server.stdout is not None
  address = server.stdout.readline().strip().removeprefix('grpc://').replace('localhost', '127.0.0.1')
  tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({'worker': [address]}), job_name='coordinator')
  hosts = [Host('/job:coordinator/task:0/device:CPU:0'), Host('/job:worker/task:0/device:CPU:0')]
  for task in chosen:
    file, *changes = RUNS[task]
    argv = ['trainer', f'--config={ROOT}/configs/{file}', '--workdir=none', *COMMON, *changes]
    name = ''
    for source in ('memory', 'lanes'):
      error = ''
      try:
        name = name or store(task, main.parse([*argv, '--config.data.source=synthetic']).config, folder)
        data = [f'--config.data.source={source}', f'--config.data.dataset={name}', f'--config.data.data_dir={folder}']
        data += ['--config.data.train_split=train', '--config.data.eval_split=test']
        compare(main.parse([*argv, *data]).config, hosts)
      except Exception as failure:  # noqa: BLE001  (the others are to be tried too)
        error = f'{type(failure).__name__}: {" ".join(str(failure).split())[:300]}'
      print(json.dumps({'task': task, 'source': source, 'error': error}), flush=True)
  server.kill()


if __name__ == '__main__':
  run(str(pathlib.Path(sys.argv[1]).absolute()), sys.argv[2:])
