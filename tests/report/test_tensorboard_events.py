from __future__ import annotations

import os
import time

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from trainer.errors import ConfigError
from trainer.report.tensorboard import TensorBoard


def points(folder, split: str, tag: str) -> list[tuple[int, float]]:
  """The points that TensorBoard itself shows."""
  accumulator = plugin_event_accumulator.EventAccumulator(str(folder / split))
  accumulator.Reload()
  if tag not in accumulator.Tags()['tensors']:
    return []
  return [
    (event.step, pytest.approx(float(tensor_util.make_ndarray(event.tensor_proto)), rel=1e-6))
    for event in accumulator.Tensors(tag)
  ]


def write(folder, steps, split='train', first_step=0, scale=1.0):
  """One attempt that ends as by SIGKILL: nothing is closed."""
  board = TensorBoard(str(folder), writer=True, first_step=first_step)
  for step in steps:
    board.write(step, split, {'loss': scale * step})
  return board


def test_scalars_come_back_in_one_folder_per_split(tmp_path):
  board = write(tmp_path, [10, 20])
  board.write(20, 'eval', {'accuracy': 0.98, 'nothing': None, 'infinite': float('inf'), 'count': 360})
  board.close()
  assert sorted(os.listdir(tmp_path)) == ['eval', 'train']
  assert points(tmp_path, 'train', 'loss') == [(10, 10.0), (20, 20.0)]
  assert points(tmp_path, 'eval', 'accuracy') == [(20, 0.98)]
  assert points(tmp_path, 'eval', 'count') == [(20, 360.0)]
  assert points(tmp_path, 'eval', 'nothing') == points(tmp_path, 'eval', 'infinite') == []


def test_steps_done_again_have_one_point(tmp_path):
  board = write(tmp_path, [10, 20, 30])
  for step in (20, 30):
    board.write(step, 'eval', {'loss': step})
  write(tmp_path, [30, 40], first_step=21, scale=2.0)
  assert points(tmp_path, 'train', 'loss') == [(10, 10.0), (20, 20.0), (30, 60.0), (40, 80.0)]
  # In this split the new attempt has written nothing yet, and what it will do again is taken back all the same.
  assert points(tmp_path, 'eval', 'loss') == [(20, 20.0)]


def test_a_step_written_again_in_one_attempt_has_one_point(tmp_path):
  board = write(tmp_path, [10, 20])
  board.write(20, 'train', {'loss': 5.0})
  board.write(30, 'train', {'loss': 6.0})
  assert points(tmp_path, 'train', 'loss') == [(10, 10.0), (20, 5.0), (30, 6.0)]


def test_an_evaluation_done_again_at_the_restored_step_has_one_point(tmp_path):
  write(tmp_path, [10, 20], split='eval')
  write(tmp_path, [20, 30], split='eval', first_step=21, scale=2.0)
  assert points(tmp_path, 'eval', 'loss') == [(10, 10.0), (20, 40.0), (30, 60.0)]


def test_a_torn_event_file_does_not_hide_the_next(tmp_path):
  write(tmp_path, [10, 20])
  (name,) = os.listdir(tmp_path / 'train')
  path = tmp_path / 'train' / name
  path.write_bytes(path.read_bytes()[:-5])
  write(tmp_path, [20, 30], first_step=11)
  assert points(tmp_path, 'train', 'loss') == [(10, 10.0), (20, 20.0), (30, 30.0)]


def test_files_are_such_as_tensorboard_expects(tmp_path):
  write(tmp_path, [10], first_step=3)
  (name,) = os.listdir(tmp_path / 'train')
  assert name.startswith('events.out.tfevents.')
  events = [event_pb2.Event.FromString(raw) for raw in RawEventFileLoader(str(tmp_path / 'train' / name)).Load()]
  assert events[0].file_version == 'brain.Event:2'
  assert events[1].session_log.status == event_pb2.SessionLog.START
  assert events[1].step == 3
  assert events[2].summary.value[0].metadata.plugin_data.plugin_name == 'scalars'
  assert all(event.wall_time > 1.7e9 for event in events)


def test_only_the_writer_writes(tmp_path):
  board = TensorBoard(str(tmp_path / 'tensorboard'), writer=False)
  board.write(1, 'train', {'loss': 1.0})
  board.sync()
  board.close()
  assert not (tmp_path / 'tensorboard').exists()


def test_an_unwritable_place_is_one_clear_line(tmp_path):
  (tmp_path / 'file').write_text('')
  board = TensorBoard(str(tmp_path / 'file'), writer=True)
  with pytest.raises(ConfigError, match='TensorBoard events cannot be written to'):
    board.write(1, 'train', {'loss': 1.0})


def test_a_clock_that_is_behind_does_not_bring_back_old_points(tmp_path, monkeypatch):
  write(tmp_path, [10, 20, 30])
  now = time.time()
  monkeypatch.setattr(time, 'time', lambda: now - 3600)
  write(tmp_path, [20, 30], first_step=11, scale=2.0)
  assert points(tmp_path, 'train', 'loss') == [(10, 10.0), (20, 40.0), (30, 60.0)]


def test_a_run_begun_anew_takes_back_everything(tmp_path):
  write(tmp_path, [10, 20])
  write(tmp_path, [10], scale=3.0)
  assert points(tmp_path, 'train', 'loss') == [(10, 30.0)]
