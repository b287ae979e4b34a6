"""A corpus cut into tokens by several processes: the same records, and what is done is not done again after a kill."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import cutter, packing, pieces, records, tokenizers
from trainer.errors import ConfigError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [f'{k} ' * (k % 40) for k in range(120)]
# Packs with small pieces, says each that is there, and makes no more than three with each of its processes.
_STUCK = """
import sys, threading
from tests.data import test_pieces
from trainer.data import pieces
pieces._PIECE_BYTES = 300
write, never = pieces._Cutter.write, threading.Event()
def stuck(self, *args):
  write(self, *args)
  print('piece', flush=True)
  self.written = getattr(self, 'written', 0) + 1
  if self.written == 3:
    never.wait()
pieces._Cutter.write = stuck
test_pieces.packed(sys.argv[1], 2)
"""


class Lines(tfds.core.GeneratorBasedBuilder):
  """Short texts, with something beside them."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {'text': tfds.features.Text(), 'number': tfds.features.Scalar(np.int32)}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(TEXTS), 'test': self._generate_examples(TEXTS[:7])}

  def _generate_examples(self, texts):
    for key, text in enumerate(texts):
      yield key, {'text': text, 'number': key}


@pytest.fixture
def folder(tmp_path):
  Lines(data_dir=tmp_path).download_and_prepare(file_format='tfrecord')
  return tmp_path


def packed(folder, processes, said=None):
  source = Lines(data_dir=folder)
  say = said.append if said is not None else print
  made = packing.Packed(source, 'text', tokenizers.create('bytes', 0), 8, 3, str(folder), processes=processes, say=say)
  made.download_and_prepare(file_format='tfrecord')
  return made


def of(made, split='train'):
  return [(e['tokens'].tolist(), int(e['count'])) for e in made.as_dataset(split=split).as_numpy_iterator()]


def expected(texts=TEXTS, stride=3):
  rows = tokenizers.create('bytes', 0).rows(text.encode() for text in texts)
  return [(row.tolist(), count) for row, count in packing.cut(rows, 8, stride, 0)]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_ranges_are_all_rows_once_and_large_enough(sizes, least):
  found = pieces.ranges(np.array(sizes, np.int64), least)
  assert [row for begin, end, _ in found for row in range(begin, end)] == list(range(len(sizes)))
  assert [total for *_, total in found] == [sum(sizes[begin:end]) for begin, end, _ in found]
  assert all(total >= least for *_, total in found[:-1])
  assert all(sum(sizes[begin : end - 1]) < least for begin, end, _ in found)


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), max_size=8), st.integers(1, 7), st.integers(1, 6))
def test_records_do_not_depend_on_where_pieces_end(texts, size, length):
  rows = [np.array(text, np.int32) for text in texts]
  row = np.concatenate([np.zeros([0], np.int32), *rows])
  other = [row[begin : begin + size] for begin in range(0, len(row), size)]
  one, two = packing.cut(iter(rows), length, length, 9), packing.cut(iter(other), length, length, 9)
  assert [(r.tolist(), n) for r, n in one] == [(r.tolist(), n) for r, n in two]


@pytest.mark.parametrize(('piece', 'processes'), [(2**30, 2), (700, 1), (700, 2)])
def test_the_records_are_those_of_one_process(folder, monkeypatch, piece, processes):
  monkeypatch.setattr(pieces, '_PIECE_BYTES', piece)
  monkeypatch.setattr(pieces, '_SAID_BYTES', 3000)
  monkeypatch.setattr(pieces, '_TOKENS', 100)
  said = []
  made = packed(folder, processes, said)
  assert of(made) == expected() and of(made, 'test') == expected(TEXTS[:7], 8)
  assert not list(folder.glob(f'packed/**/{packing._PIECES}*'))
  assert ('packing lines (train): ' in ''.join(said)) == (piece == 700)


def test_a_killed_preparation_goes_on_with_the_pieces_that_are_there(folder, monkeypatch):
  command = [sys.executable, '-c', _STUCK, str(folder)]
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  said = 0
  while said < 4:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    said += line == b'piece\n'
  process.send_signal(signal.SIGKILL)
  process.communicate()  # the end of what it has started too, which writes to the same pipe
  found = {path: path.stat().st_mtime_ns for path in folder.glob('packed/**/*.tokens')}
  stale = next(iter(found)).parent.with_name(f'{packing._PIECES}train-of-others')
  stale.mkdir()
  monkeypatch.setattr(pieces, '_PIECE_BYTES', 300)
  seen = {}
  remove = packing.shutil.rmtree

  def look_and_remove(path):
    seen.update({piece: piece.stat().st_mtime_ns for piece in pathlib.Path(path).glob('*.tokens')})
    remove(path)

  monkeypatch.setattr(packing.shutil, 'rmtree', look_and_remove)
  made = packed(folder, 2)
  assert of(made) == expected()
  assert 4 <= len(found) < len(seen) - 4
  assert {path: seen[path] for path in found} == found
  assert len(list(folder.glob('packed/*/*'))) == 1
  assert not stale.exists() and not next(iter(found)).parent.exists()


def test_pieces_of_others_are_not_taken(folder):
  (file,) = folder.glob('lines/**/*train.tfrecord*')
  files = [records.FileRange(str(file), 0, len(TEXTS), len(TEXTS))]
  one, other = tokenizers.create('bytes', 0), tokenizers.create('bpe', 300)
  first = pieces.fingerprint(files, 'text', one)
  assert first == pieces.fingerprint(files, 'text', tokenizers.create('bytes', 0))
  others = [
    pieces.fingerprint(files, 'title', one),
    pieces.fingerprint(files, 'text', other),
    pieces.fingerprint([dataclasses.replace(files[0], take=3)], 'text', one),
  ]
  os.utime(file, ns=(1, 1))
  others.append(pieces.fingerprint(files, 'text', one))
  assert len({first, *others}) == 5


def test_a_text_that_cannot_be_cut_is_a_mistake_of_one_line_from_another_process_too(tmp_path):
  tokenizer = tokenizers.create('bpe', 260)
  tokenizer.learn([b'the end'])
  with pieces._Cutter(tokenizer) as other:
    other.write(str(tmp_path / 'a'), [b'the end', 'é'.encode()])
    row = np.fromfile(tmp_path / 'a', cutter.kind(tokenizer))
    np.testing.assert_array_equal(row, np.concatenate(list(tokenizer.rows([b'the end', 'é'.encode()]))))
    with pytest.raises(ConfigError, match='no UTF-8'):
      other.write(str(tmp_path / 'b'), [b'\xff'])
  assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_who_only_cuts_loads_no_tensorflow():
  code = 'import sys, trainer.data.cutter; sys.exit("tensorflow" in sys.modules or "keras" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], cwd=_ROOT).returncode == 0
