"""What cluster.from_slurm makes of the variables that srun sets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.settings import config
from trainer.errors import ConfigError
from trainer.runtime import cluster


@pytest.fixture
def srun(monkeypatch):
  """A function that sets what srun sets for one task. Devices are counted by a fake."""
  for name in ('TF_CONFIG', 'CUDA_VISIBLE_DEVICES', 'TPU_NAME', 'KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS'):
    monkeypatch.delenv(name, raising=False)

  def start(rank: int, nodes: str = 'node[9-10]', counts: str = '2(x2)', tasks: int = 4, gpus: int = 0, **more) -> None:
    variables = {
      'STEP_NUM_TASKS': tasks,
      'NTASKS': tasks,
      'PROCID': rank,
      'JOB_ID': 1000,
      'STEP_ID': 0,
      'STEP_NODELIST': nodes,
      'STEP_TASKS_PER_NODE': counts,
      **more,
    }
    for name, value in variables.items():
      monkeypatch.setenv(f'SLURM_{name}', str(value))
    monkeypatch.setattr(cluster, '_count', lambda kind: gpus if kind == 'GPU' else 0)

  return start


def test_expand_nodes():
  assert cluster.expand_nodes('node[01-03,7],gpu5') == ['node01', 'node02', 'node03', 'node7', 'gpu5']
  assert cluster.expand_nodes('a') == ['a']
  assert cluster.expand_nodes('r[1-2]n[3-4]-ib') == ['r1n3-ib', 'r1n4-ib', 'r2n3-ib', 'r2n4-ib']
  assert cluster.expand_nodes('n[8-11]') == ['n8', 'n9', 'n10', 'n11']
  assert cluster.expand_nodes('n[098-101]') == ['n098', 'n099', 'n100', 'n101']


@pytest.mark.parametrize(
  'text',
  ['', ',', 'a,', ',a', 'a,,b', 'a[', 'a]', 'a[1', 'a[]', 'a[x]', 'a[1-]', 'a[-1]', 'a[3-1]', 'a[1,]', 'a[[1]]', 'a b'],
)
def test_expand_nodes_refuses_what_is_not_a_list(text):
  with pytest.raises(ConfigError, match='Slurm node list'):
    cluster.expand_nodes(text)


ranges = st.lists(
  st.tuples(st.integers(0, 120), st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=3
)  # first number, how many follow, width
names = st.text('abz-.', min_size=1, max_size=4)
hosts = st.lists(st.tuples(names, st.lists(st.tuples(ranges, st.just('') | names), max_size=2)), min_size=1, max_size=4)


@given(hosts)
def test_expand_nodes_undoes_what_slurm_folds(folded):
  texts, expected = [], []
  for name, brackets in folded:
    text, expanded = name, [name]
    for spans, suffix in brackets:
      numbers = [f'{low + offset:0{width}d}' for low, more, width in spans for offset in range(more + 1)]
      inside = [f'{low:0{width}d}' + (f'-{low + more:0{width}d}' if more else '') for low, more, width in spans]
      text += f'[{",".join(inside)}]{suffix}'
      expanded = [f'{head}{number}{suffix}' for head in expanded for number in numbers]
    texts.append(text)
    expected += expanded
  assert cluster.expand_nodes(','.join(texts)) == expected


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5))
def test_expand_counts_undoes_what_slurm_folds(groups):
  text = ','.join(f'{count}(x{times})' if times > 1 else str(count) for count, times in groups)
  assert cluster.expand_counts(text) == [count for count, times in groups for _ in range(times)]


@pytest.mark.parametrize('text', ['', 'x', '2(x)', '2x3', '1,'])
def test_expand_counts_refuses_what_is_not_a_list(text):
  with pytest.raises(ConfigError, match='tasks per node'):
    cluster.expand_counts(text)


def test_tasks_are_workers_in_the_order_of_the_nodes(srun):
  srun(rank=2, SLURMD_NODENAME='node10')
  found = cluster.discover(config())
  hosts_and_ports = [worker.split(':') for worker in found.workers]
  assert [host for host, _ in hosts_and_ports] == ['node9', 'node9', 'node10', 'node10']  # not sorted as text
  first = int(hosts_and_ports[0][1])
  assert [int(port) - first for _, port in hosts_and_ports] == [0, 1, 2, 3]  # nodes may be one machine
  assert (found.strategy, found.worker_index, found.num_workers) == ('multi_worker', 2, 4)
  assert found.reason == 'Slurm names 4 workers, each with 1 CPU device'


def test_ports_of_a_large_job_are_those_of_its_nodes(srun):
  srun(rank=0, nodes='n[1-9]', counts='2(x9)', tasks=18)
  ports = [int(worker.split(':')[1]) for worker in cluster.from_slurm().workers]
  assert [port - ports[0] for port in ports] == [0, 1] * 9


def test_cyclic_distribution(srun, monkeypatch):
  srun(rank=1, counts='1,2', tasks=3, DISTRIBUTION='cyclic:block')
  monkeypatch.setenv('SLURMD_NODENAME', 'node10')
  found = cluster.discover(config())
  assert [worker.split(':')[0] for worker in found.workers] == ['node9', 'node10', 'node10']


def test_a_layout_that_we_do_not_know_is_refused(srun, monkeypatch):
  srun(rank=1, DISTRIBUTION='arbitrary')
  monkeypatch.setenv('SLURMD_NODENAME', 'node10')
  with pytest.raises(ConfigError, match=r'Slurm put task 1 on node10, .* start with srun --distribution=block'):
    cluster.discover(config())


def test_each_step_has_its_own_ports(srun):
  ports = set()
  for job in (1000, 1001, 1002):
    for step in range(8):
      srun(rank=0, JOB_ID=job, STEP_ID=step)
      found = cluster.from_slurm()
      ports.add(int(found.workers[0].split(':')[1]))
  assert len(ports) == 24
  assert all(1024 < port < 32768 for port in ports)
  apart = sorted(ports)
  assert min(after - before for before, after in itertools.pairwise(apart)) >= 16


def test_one_task_is_one_process(srun):
  srun(rank=0, nodes='a', counts='1', tasks=1)
  assert cluster.discover(config()).strategy == 'one'


def test_a_process_that_srun_did_not_start(monkeypatch):
  monkeypatch.setattr(cluster, '_count', lambda kind: 0)
  monkeypatch.setenv('SLURM_NTASKS', '4')
  with pytest.raises(ConfigError, match="4 tasks, but srun did not start this process: start it with 'srun"):
    cluster.discover(config())
  assert cluster.discover(config('one')).strategy == 'one'


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    ({'rank': 4}, 'task 4 of 4, on 2 nodes'),
    ({'rank': 0, 'counts': '2'}, r'on 2 nodes with \[2\] tasks'),
    ({'rank': 0, 'counts': '2,1'}, r'with \[2, 1\] tasks'),
    ({'rank': 'x'}, "SLURM_PROCID='x' is not a number"),
    ({'rank': 0, 'nodes': 'node[9'}, 'Slurm node list'),
    ({'rank': 0, 'STEP_NODELIST': ''}, 'SLURM_STEP_NODELIST is not set'),
  ],
)
def test_variables_that_disagree_are_refused(srun, more, message):
  srun(**more)
  with pytest.raises(ConfigError, match=message):
    cluster.discover(config())


@pytest.mark.parametrize(
  ('gpus', 'more', 'expected'),
  [
    (4, {}, (2, 3)),  # Slurm says nothing of GPUs: both tasks see all of the node
    (4, {'GPUS_ON_NODE': 4}, (2, 3)),
    (2, {'GPUS_ON_NODE': 4}, (0, 1)),  # each task sees its own two
    (1, {'GPUS_PER_TASK': 1}, (0,)),
    (2, {'GPUS_PER_TASK': 1}, (1,)),
    (2, {'GPUS_PER_TASK': 'a100:2', 'GPUS_ON_NODE': 2}, (0, 1)),
    (2, {'TRES_PER_TASK': 'cpu=4,gres/gpu=2'}, (0, 1)),
    (4, {'TRES_PER_TASK': 'gres/gpu:a100:2'}, (2, 3)),
  ],
)
def test_tasks_of_a_node_share_the_gpus_that_slurm_has_not_bound(srun, gpus, more, expected):
  srun(rank=1, gpus=gpus, **more)
  assert cluster.discover(config()).gpus == expected


def test_more_tasks_than_gpus(srun):
  srun(rank=1, gpus=1)
  with pytest.raises(ConfigError, match='2 workers share 1 GPU of this host'):
    cluster.discover(config())
