"""A corpus cut into tokens by several processes: the same records, and what is done is not done again after a kill."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import cutter, packing, pieces, records, shards, tokenizers
from trainer.errors import ConfigError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [f'{k} ' * (k % 40) for k in range(120)]
# Packs with small pieces and small files, says each that is there, and makes no more than three of them with each of
# its processes, or with each of its threads.
_STUCK = """
import sys, threading
from tests.data import test_pieces
from trainer.data import pieces, shards
test_pieces.small(lambda module, name, value: setattr(module, name, value))
held, never, made = {'tokens': pieces._Cutter, 'records': shards}[sys.argv[2]], threading.Event(), threading.local()
name = {'tokens': 'write', 'records': '_write'}[sys.argv[2]]
write = getattr(held, name)
def stuck(*args):
  write(*args)
  sys.stdout.write('made\\n')  # in one piece, as threads do it
  sys.stdout.flush()
  made.count = getattr(made, 'count', 0) + 1
  if made.count == 3:
    never.wait()
setattr(held, name, stuck)
test_pieces.packed(sys.argv[1], 2)
"""


def small(set_attribute):
  set_attribute(pieces, '_PIECE_BYTES', 300)
  set_attribute(shards, '_FILE_TOKENS', 900)
  set_attribute(shards, '_BATCH_TOKENS', 200)


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
  row = np.concatenate(list(rows))
  begins = range(0, max(1, len(row) - 9 + stride), stride)
  return [(np.pad(row[k : k + 9], (0, 9 - len(row[k : k + 9]))).tolist(), min(8, len(row) - 1 - k)) for k in begins]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_ranges_are_all_rows_once_and_large_enough(sizes, least):
  found = pieces.ranges(np.array(sizes, np.int64), least)
  assert [row for begin, end, _ in found for row in range(begin, end)] == list(range(len(sizes)))
  assert [total for *_, total in found] == [sum(sizes[begin:end]) for begin, end, _ in found]
  assert all(total >= least for *_, total in found[:-1])
  assert all(sum(sizes[begin : end - 1]) < least for begin, end, _ in found)


@given(st.lists(st.lists(st.integers(0, 300), max_size=5), max_size=8), st.data())
def test_tokens_are_read_across_files(texts, data):
  whole = [token for text in texts for token in text]
  with tempfile.TemporaryDirectory() as folder:
    paths = [os.path.join(folder, str(k)) for k in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
      np.array(text, np.uint16).tofile(path)
    row = pieces.Row(paths, np.dtype(np.uint16))
    assert row.size == len(whole)
    begin = data.draw(st.integers(0, row.size))
    end = data.draw(st.integers(begin, row.size))
    found = row.read(begin, end)
  assert found.dtype == np.int32 and found.tolist() == whole[begin:end]


@pytest.mark.parametrize(('pieced', 'processes'), [(False, 2), (True, 1), (True, 2)])
def test_the_records_are_those_of_one_process(folder, monkeypatch, pieced, processes):
  if pieced:
    small(monkeypatch.setattr)
    monkeypatch.setattr(pieces, '_SAID_BYTES', 3000)
  said = []
  made = packed(folder, processes, said)
  assert of(made) == expected() and of(made, 'test') == expected(TEXTS[:7], 8)
  assert not list(folder.glob(f'packed/**/{packing._PIECES}*'))
  lines = '\n'.join(said)
  for words in ('packing lines (train): ', ' MB are cut into tokens', f' of {len(expected())} records are written'):
    assert (words in lines) == pieced
  assert (len(list(folder.glob('packed/**/*-train.tfrecord*'))) > 9) == pieced
  assert made.info.splits['train'].num_bytes == sum(
    path.stat().st_size for path in folder.glob('packed/**/*-train.tfrecord*')
  ) - 16 * len(expected())  # fmt: skip


@pytest.mark.parametrize(('what', 'suffix'), [('tokens', '.tokens'), ('records', '.records')])
def test_a_killed_preparation_goes_on_with_what_is_there(folder, monkeypatch, what, suffix):
  command = [sys.executable, '-c', _STUCK, str(folder), what]
  process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  said = 0
  while said < 4:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    said += line.count(b'made')
  process.send_signal(signal.SIGKILL)
  process.communicate()  # the end of what it has started too, which writes to the same pipe
  found = {path.name: path.stat().st_mtime_ns for path in folder.glob(f'packed/**/*{suffix}')}
  (own,) = {path.parent for path in folder.glob(f'packed/**/*{suffix}')}
  stale = own.with_name(f'{packing._PIECES}train-of-others')
  stale.mkdir()
  small(monkeypatch.setattr)
  seen = {}
  move = packing.Packed._moved

  def look_and_move(made, split, files):
    if split == 'train':
      seen.update({path.name: path.stat().st_mtime_ns for path in own.glob(f'*{suffix}')})
    return move(made, split, files)

  monkeypatch.setattr(packing.Packed, '_moved', look_and_move)
  made = packed(folder, 2)
  assert of(made) == expected()
  assert 4 <= len(found) < len(seen) - 4
  assert {name: seen[name] for name in found} == found
  assert len(list(folder.glob('packed/*/*'))) == 1
  assert not stale.exists() and not own.exists()


def test_texts_without_two_tokens_are_a_mistake_of_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(sys.modules[__name__], 'TEXTS', [''])
  Lines(data_dir=tmp_path).download_and_prepare(file_format='tfrecord')
  with pytest.raises(ConfigError, match=r'the texts of lines \(train\) have no two tokens'):
    packed(tmp_path, 1)


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
