"""Files and lines as raw features: what is good is read exactly, and what is not is named in one line."""

import io
import struct
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from trainer.serve import reading

IMAGE = {'name': 'image', 'kind': 'image', 'dtype': 'uint8', 'shape': [8, 8, 1]}
SOUND = {'name': 'audio', 'kind': 'sound', 'dtype': 'int16', 'shape': [None], 'rate': 8000}
TEXT = {'name': 'text', 'kind': 'text', 'dtype': 'object', 'shape': []}
TABLE = {
  'name': 'features',
  'kind': 'table',
  'dtype': 'object',
  'shape': [],
  'columns': [
    {'name': 'carat', 'shape': [], 'dtype': 'float32', 'classes': None},
    {'name': 'cut', 'shape': [], 'dtype': 'int64', 'classes': ['Fair', 'Good']},
    {'name': 'rings', 'shape': [], 'dtype': 'int32', 'classes': None},
  ],
}
NUMBERS = {'name': 'features', 'kind': 'numbers', 'dtype': 'float32', 'shape': [3]}
SERIES = {'name': 'series', 'kind': 'series', 'dtype': 'float32', 'shape': [2, 2]}


def read(tmp_path, data, given, name='file'):
  path = tmp_path / name
  path.write_bytes(data)
  return [(where.removeprefix(f'{tmp_path}/'), value) for where, value in reading.examples(str(path), given)]


def one(tmp_path, data, given):
  ((_, value),) = read(tmp_path, data, given)
  if isinstance(value, reading.BadInput):
    raise value
  return value


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def wav(frames, rate=8000, width=2, channels=1):
  file = io.BytesIO()
  with wave.open(file, 'wb') as out:
    out.setnchannels(channels)
    out.setsampwidth(width)
    out.setframerate(rate)
    out.writeframes(frames)
  return file.getvalue()


def test_pictures(tmp_path):
  pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
  np.testing.assert_array_equal(one(tmp_path, png(pixels), IMAGE)[..., 0], pixels)
  large = one(tmp_path, png(np.full([32, 20], 200, np.uint8)), IMAGE)
  assert large.shape == (8, 8, 1) and large.dtype == np.uint8 and np.all(large == 200), 'resized to what the model sees'
  colours = one(tmp_path, png(np.zeros([5, 7, 3], np.uint8)), {**IMAGE, 'shape': [None, None, 3]})
  assert colours.shape == (5, 7, 3)


def test_recordings_of_any_depth(tmp_path):
  wanted = np.array([0, 1000, -1000, 32767, -32768], np.int16)
  np.testing.assert_array_equal(one(tmp_path, wav(wanted.astype('<i2').tobytes()), SOUND), wanted)
  deep = b''.join(struct.pack('<i', int(value) << 8)[:3] for value in wanted)
  np.testing.assert_array_equal(one(tmp_path, wav(deep, width=3), SOUND), wanted)
  np.testing.assert_array_equal(one(tmp_path, wav((wanted.astype('<i4') << 16).tobytes(), width=4), SOUND), wanted)
  np.testing.assert_array_equal(one(tmp_path, wav(bytes([128, 255, 0]), width=1), SOUND), [0, 127 * 256, -32768])
  both = np.stack([wanted, np.zeros_like(wanted)], axis=1).astype('<i2').tobytes()
  np.testing.assert_allclose(one(tmp_path, wav(both, channels=2), SOUND), wanted / 2, atol=0.5)
  floats = one(tmp_path, wav(wanted.astype('<i2').tobytes()), {**SOUND, 'dtype': 'float32'})
  np.testing.assert_allclose(floats, wanted / 32768)


def test_texts_are_files_or_lines(tmp_path, monkeypatch):
  assert one(tmp_path, b'two\nlines\n', TEXT) == b'two\nlines'
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO('one\n\nthrée\n'.encode())))
  found = list(reading.examples('-', TEXT))
  assert [name for name, _ in found] == ['-:1', '-:2', '-:3']
  assert found[0][1] == b'one' and str(found[1][1]) == '-:2: the text is empty' and found[2][1] == 'thrée'.encode()


def test_rows_of_tables(tmp_path):
  table = 'cut,rings,carat,more\nGood,3,0.5,x\n,4,,y\nBad,1,1,z\nGood,2\n,many,1,z\n'
  found = read(tmp_path, table.encode(), TABLE)
  assert [name for name, _ in found] == [f'file:{number}' for number in (2, 3, 4, 5, 6)]
  assert {name: value.item() for name, value in found[0][1].items()} == {'carat': 0.5, 'cut': 1, 'rings': 3}
  assert np.isnan(found[1][1]['carat']) and found[1][1]['cut'] == -1, 'what is missing'
  assert [str(value).partition(': ')[2] for _, value in found[2:]] == [
    "cut='Bad' is none of Fair, Good",
    '2 values, but the header has 4',
    "rings='many' is not a number",
  ]


def test_vectors_and_series(tmp_path):
  found = read(tmp_path, b'a,b,c\n1,2,3\n4,,6\n1,2\n', NUMBERS)
  np.testing.assert_array_equal(found[0][1], np.array([1, 2, 3], np.float32))
  np.testing.assert_array_equal(found[1][1], np.array([4, np.nan, 6], np.float32))
  assert str(found[2][1]).endswith('2 values, but the model sees 3')
  np.testing.assert_array_equal(one(tmp_path, b'1,2\n3,4\n5,6\n', SERIES), [[3, 4], [5, 6]])


@pytest.mark.parametrize(
  ('data', 'given', 'wrong'),
  [
    (b'', IMAGE, 'not a picture that can be read: it is empty'),
    (png(np.zeros([8, 8], np.uint8))[:40], IMAGE, 'not a picture that can be read: it is damaged'),
    (b'GIF89a nonsense', IMAGE, 'not a picture that can be read'),
    (wav(b'\0\0', rate=16000), SOUND, '16000 samples per second, but the model hears 8000: resample it'),
    (wav(b''), SOUND, 'the recording is empty'),
    (wav(b'\0\0')[:20], SOUND, 'not a WAV file of PCM'),
    (b'ID3 an MP3', SOUND, 'not a WAV file of PCM'),
    (b' \n', TEXT, 'the text is empty'),
    (b'\xff\xfe', TEXT, 'not a text in UTF-8'),
    (b'carat,rings\n1,2\n', TABLE, 'the header lacks cut; it has carat, rings'),
    (b'\n\n', TABLE, 'the file has no rows'),
    (b'\xff', TABLE, 'not a CSV file in UTF-8'),
    (b'1,2\n', SERIES, '1 steps, but the model looks back over 2'),
    (b'1,2\n1,2,3\n', SERIES, '3 values, but the series has 2'),
  ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_name(tmp_path, data, given, wrong):
  with pytest.raises(reading.BadInput) as raised:
    one(tmp_path, data, given)
  assert wrong in str(raised.value) and str(raised.value).startswith(f'{tmp_path}/file')
  assert '\n' not in str(raised.value)


def test_names_patterns_and_folders(tmp_path):
  for name in ('b.png', 'a.png', 'c.txt'):
    (tmp_path / name).write_bytes(b'x')
  found = reading.expand([str(tmp_path / '*.png'), '-', str(tmp_path / 'c.txt')])
  assert [name.rpartition('/')[2] for name in found] == ['a.png', 'b.png', '-', 'c.txt']
  assert len(reading.expand([str(tmp_path)])) == 3
  with pytest.raises(reading.BadInput, match='no such file'):
    reading.expand([str(tmp_path / 'nothing')])
  (tmp_path / 'empty').mkdir()
  with pytest.raises(reading.BadInput, match='there are no files in it'):
    reading.expand([str(tmp_path / 'empty')])
  ((name, wrong),) = reading.examples(str(tmp_path / 'gone'), TEXT)
  assert str(wrong) == f'{name}: No such file or directory'
